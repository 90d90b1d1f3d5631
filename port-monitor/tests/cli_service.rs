//! `port-monitor service`, run as a user does.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    fs::{self, File},
    io::pipe,
    process::{Command, Output, Stdio},
};

fn service(args: &[&str], stdout: impl Into<Stdio>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .arg("service")
        .args(args)
        .stdout(stdout)
        .output()
        .unwrap()
}

/// The standard output of a run that must succeed in silence.
fn stdout(args: &[&str]) -> String {
    let output = service(args, Stdio::piped());
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// The first line of the complaint of a run that must fail as misused.
fn usage_error(args: &[&str]) -> String {
    let output = service(args, Stdio::piped());
    assert_eq!(output.stdout, b"");
    assert_eq!(output.status.code(), Some(2));
    stderr(&output).lines().next().unwrap().to_owned()
}

#[test]
fn port_shows_its_service() {
    insta::assert_snapshot!(stdout(&["443"]), @r"
    PORT         CLASS       NAME             ORIGIN    STATUS      EPHEMERAL  DESCRIPTION
    443          well-known  https            iana      assigned    no         http protocol over TLS/SSL
    ");
}

#[test]
fn name_and_alias_show_the_port_with_all_its_names() {
    let http = stdout(&["http"]);
    insta::assert_snapshot!(http, @r"
    PORT         CLASS       NAME             ORIGIN    STATUS      EPHEMERAL  DESCRIPTION
    80           well-known  http             iana      assigned    no         World Wide Web HTTP
    80           well-known  www              iana      assigned    no         World Wide Web HTTP
    80           well-known  www-http         iana      assigned    no         World Wide Web HTTP
    ");
    assert_eq!(stdout(&["WWW"]), http);
}

#[test]
fn queries_are_answered_in_the_order_given() {
    insta::assert_snapshot!(stdout(&["telnet,20-22", "0"]), @r"
    PORT         CLASS       NAME             ORIGIN    STATUS      EPHEMERAL  DESCRIPTION
    20           well-known  ftp-data         iana      assigned    no         File Transfer [Default Data]
    21           well-known  ftp              iana      assigned    no         File Transfer Protocol [Control]
    22           well-known  ssh              iana      assigned    no         The Secure Shell (SSH) Protocol
    23           well-known  telnet           iana      assigned    no         Telnet
    0            well-known  -                -         reserved    no
    ");
}

#[test]
fn class_shows_every_port_in_it_and_no_other() {
    let json = stdout(&["--json", "well-known"]);
    for port in 0..=1024 {
        let shown = json.contains(&format!("{{\"port\":{port},"));
        assert_eq!(shown, port < 1024, "{port}");
    }
}

#[test]
fn json_is_an_object_a_line_for_each_name_of_each_port() {
    insta::assert_snapshot!(stdout(&["--json", "23-24", "www"]), @r#"
    {"port":23,"class":"well-known","name":"telnet","origin":"iana","status":"assigned","ephemeral":false,"description":"Telnet"}
    {"port":24,"class":"well-known","name":null,"origin":null,"status":"assigned","ephemeral":false,"description":"any private mail system"}
    {"port":80,"class":"well-known","name":"http","origin":"iana","status":"assigned","ephemeral":false,"description":"World Wide Web HTTP"}
    {"port":80,"class":"well-known","name":"www","origin":"iana","status":"assigned","ephemeral":false,"description":"World Wide Web HTTP"}
    {"port":80,"class":"well-known","name":"www-http","origin":"iana","status":"assigned","ephemeral":false,"description":"World Wide Web HTTP"}
    "#);
}

#[test]
fn first_port_this_host_gives_to_clients_is_ephemeral() {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first = range.split_whitespace().next().unwrap();
    let json = stdout(&["--json", first]);
    assert!(json.contains(r#""ephemeral":true"#), "{json}");
}

#[test]
fn unknown_name_is_a_usage_error_with_a_suggestion() {
    insta::assert_snapshot!(usage_error(&["htps"]), @"port-monitor: invalid value 'htps' for '<QUERY>...': unknown service `htps`: did you mean `https`?");
}

#[test]
fn port_70000_is_a_usage_error_that_names_the_range() {
    insta::assert_snapshot!(usage_error(&["70000"]), @"port-monitor: invalid value '70000' for '<QUERY>...': port 70000 is out of range: ports are 0-65535");
}

#[test]
fn nothing_to_look_up_is_a_usage_error() {
    insta::assert_snapshot!(usage_error(&[]), @"port-monitor: the following required arguments were not provided: <QUERY>...; see --help");
}

#[test]
fn reader_that_closes_the_pipe_is_no_error() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let output = service(&["registered"], writer);
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn full_disk_is_an_output_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = service(&["ssh"], full);
    insta::assert_snapshot!(stderr(&output), @"port-monitor: write to the standard output: No space left on device (os error 28)");
    assert_eq!(output.status.code(), Some(6));
}
