//! What `watch` refuses before anything is attached: the exit status, and all
//! of the one line that says what is wrong, where, and what to do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use port_monitor::commands::filter;
use rustix::fs::{CWD, Mode, mkfifoat};
use support::run_unprivileged;
use tempfile::TempDir;

const USAGE: i32 = 2;
const CANNOT_ATTACH: i32 = 3;
const POLICY_INVALID: i32 = 5;
const OUTPUT_FAILED: i32 = 6;

/// What `watch` says where it may not attach.
const NOT_ROOT: &str = "needs CAP_BPF and CAP_PERFMON: run it with sudo";

/// A directory that every user may read.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Exit status and standard error of a `watch` that shows nothing.
fn refusal_in(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let args = [&["watch"], args].concat();
    let output = run_unprivileged(&args, |command| {
        command.current_dir(dir);
    });
    assert_eq!(output.stdout, b"", "{args:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

fn assert_refused_in(dir: &Path, args: &[&str], code: i32, message: &str) {
    let line = format!("port-monitor: {message}\n");
    assert_eq!(refusal_in(dir, args), (Some(code), line), "{args:?}");
}

fn assert_refused(args: &[&str], code: i32, message: &str) {
    assert_refused_in(Path::new("/"), args, code, message);
}

#[test]
fn processes_that_are_gone_are_told_and_none_is_no_filter() {
    let gone = "no process 4194305: it has ended, or never was there";
    assert_refused(&["--pid", "4194305"], USAGE, gone);
    assert_refused(&["--pid", "4194305,4194306"], USAGE, gone);
    let own = std::process::id();
    let pids = format!("{own},4194305");
    // The others are watched.
    let both = format!("{gone}\nport-monitor: {NOT_ROOT}");
    assert_refused(&["--pid", &pids], CANNOT_ATTACH, &both);
}

#[test]
fn without_privilege_the_capabilities_are_named() {
    for args in [&[][..], &["-o", "json"], &["--backend", "tracepoint"]] {
        assert_refused(args, CANNOT_ATTACH, NOT_ROOT);
    }
}

#[test]
fn command_of_a_refused_start_never_runs() {
    let dir = directory();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let args = ["--", "touch", "ran"];
    assert_refused_in(dir.path(), &args, CANNOT_ATTACH, NOT_ROOT);
    assert!(!dir.path().join("ran").exists());
}

#[test]
fn exit_status_needs_no_standard_error() {
    let output = run_unprivileged(&["watch"], |command| {
        command.stderr(File::options().write(true).open("/dev/full").unwrap());
    });
    assert_eq!(output.status.code(), Some(CANNOT_ATTACH));
}

#[test]
fn bad_port_is_refused() {
    for (flag, name) in [
        ("-P", "--port"),
        ("-L", "--local-port"),
        ("-R", "--remote-port"),
    ] {
        for (value, reason) in [
            ("70000", "port 70000 is out of range: ports are 0-65535"),
            ("htpps", "unknown service `htpps`: did you mean `https`?"),
            ("22,htpps", "unknown service `htpps`: did you mean `https`?"),
        ] {
            let message = format!("invalid value '{value}' for '{name} <PORTS>': {reason}");
            assert_refused(&[flag, value], USAGE, &message);
        }
    }
}

#[test]
fn filter_that_names_nothing_is_refused() {
    for (args, message) in [
        (
            ["--remote", "10.0.0.0/33"],
            "bad network: `10.0.0.0/33`: prefix length is not between 0 and 32: write an \
             address or a network, as in 10.0.0.0/8",
        ),
        (
            ["--remote", "10.1.2.3/8"],
            "bad network: `10.1.2.3/8` has bits set beyond its prefix: did you mean \
             `10.0.0.0/8`?",
        ),
        (
            ["--remote", "010.0.0.0/8"],
            "bad network: `010.0.0.0/8` has a number that begins with 0, which some programs \
             read as octal: write the numbers without it",
        ),
        (
            ["--remote", "010.0.0.1"],
            "bad network: `010.0.0.1` has a number that begins with 0, which some programs \
             read as octal: write the numbers without it",
        ),
        (
            ["--user", "rooot"],
            "unknown user `rooot`: did you mean `root`?",
        ),
        (
            ["--comm", "systemd-resolved"],
            "thread name `systemd-resolved` is longer than the 15 bytes the kernel keeps: did \
             you mean `systemd-resolve`?",
        ),
        (
            ["--pid", "init"],
            "invalid value 'init' for '--pid <PID>': not a process id: write a number as `ps` \
             shows it",
        ),
        (
            ["--direction", "up"],
            "invalid value 'up' for '--direction <DIR>' [possible values: in, out]",
        ),
        (
            ["--events", "conect"],
            "invalid value 'conect' for '--events <LIST>' [possible values: connect, accept, \
             connected, failed, close, preexisting, listen, unlisten, restored]; tip: a similar value exists: 'connect'",
        ),
    ] {
        assert_refused(&args, USAGE, message);
    }
}

#[test]
fn what_no_unit_can_be_named_is_refused() {
    // Or the message says that there is no hierarchy on this host.
    let unit = filter::groups(&[], &["a/b".to_owned()]).unwrap_err();
    assert_refused(&["--unit", "a/b"], USAGE, &unit.to_string());
}

#[test]
fn setting_of_another_form_is_refused() {
    for (args, message) in [
        (
            ["--backend", "xdp"],
            "invalid value 'xdp' for '--backend <BACKEND>' [possible values: auto, fentry, \
             kprobe, tracepoint]",
        ),
        (
            ["--ring-size", "5000"],
            "invalid value '5000' for '--ring-size <BYTES>': must be a power of two, 4096 or \
             more: try 8192",
        ),
        (
            ["--ring-size", "large"],
            "invalid value 'large' for '--ring-size <BYTES>': not a size: write 65536, 64K or 4M",
        ),
        (
            ["--latency", "2s"],
            "invalid value '2s' for '--latency <TIME>': more than 1 s: write 1s or less",
        ),
        (
            ["--max-connections", "5"],
            "invalid value '5' for '--max-connections <N>': not a number of connections: write 16 to 16777216",
        ),
        (
            ["--bpf-log", "loud"],
            "invalid value 'loud' for '--bpf-log <LEVEL>': not a level: write error, warn, info, \
             debug or trace",
        ),
        (
            ["--duration", "10"],
            "invalid value '10' for '--duration <TIME>': `10` has no unit: write 10s, 10m, 10h or 10d",
        ),
        (
            ["--count", "0"],
            "invalid value '0' for '--count <N>': not a number of events: write 1 or more",
        ),
        (
            ["--color", "red"],
            "invalid value 'red' for '--color <WHEN>' [possible values: auto, always, never]",
        ),
        (
            ["--output", "xml"],
            "invalid value 'xml' for '--output <FORMAT>' [possible values: table, json]",
        ),
    ] {
        assert_refused(&args, USAGE, message);
    }
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    for (args, message) in [
        (
            &["-4", "-6"][..],
            "the argument '--ipv4' cannot be used with '--ipv6'; see --help",
        ),
        (
            &["--fail-on-violation"],
            "the following required arguments were not provided: \
             <--policy <FILE>|--from-service[=<SOCKET>]>; see --help",
        ),
        (
            &["--violations"],
            "the following required arguments were not provided: \
             <--policy <FILE>|--from-service[=<SOCKET>]>; see --help",
        ),
        (
            &["-o", "json", "--fields", "pid"],
            "--fields chooses columns of the table: drop it, or -o json, whose lines carry all",
        ),
        (
            &["-o", "json", "--aggregate", "always"],
            "--aggregate always counts rows of the table: drop it, or -o json, which has a line \
             for every event",
        ),
        (
            &["-o", "json", "--color", "always"],
            "--color always colours the table: drop it, or -o json, whose lines have no colours",
        ),
        (
            &["-o", "json", "--verbose"],
            "--verbose is about the beginning of the table: drop it, or -o json, whose first line \
             always lists what cannot be seen",
        ),
        (
            &["--process-args"],
            "--process-args is told in JSON: add -o json or --record FILE, or drop it",
        ),
        (
            &["--output-file", "-", "--rotate-size", "1M"],
            "--rotate-size needs a file: `--output-file -` is the standard output",
        ),
        (
            &["--"],
            "no command behind `--`: name the one to run, or leave `--` out to watch this host",
        ),
    ] {
        assert_refused(args, USAGE, message);
    }
}

#[test]
fn what_a_service_does_is_refused_beside_its_events() {
    for (args, name) in [
        (&["--backend", "fentry"][..], "--backend <BACKEND>"),
        (&["--policy", "p"], "--policy <FILE>"),
        (&["--history", "h"], "--history <FILE>"),
        (&["--alert-journal"], "--alert-journal"),
        (&["--progress", "10s"], "--progress <TIME>"),
        (&["--", "true"], "[CMD]..."),
    ] {
        let args = [&["--from-service"][..], args].concat();
        let (code, said) = refusal_in(Path::new("/"), &args);
        assert_eq!((code, said.lines().count()), (Some(USAGE), 1), "{said}");
        let end = format!("cannot be used with '{name}'; see --help\n");
        assert!(
            said.contains("--from-service") && said.contains(name),
            "{said}: {end}"
        );
    }
    let dir = directory();
    assert_refused_in(
        dir.path(),
        &["--from-service=none"],
        CANNOT_ATTACH,
        "none: nobody answers there: is the service running, and has it a [socket]?",
    );
}

#[test]
fn withdrawn_option_says_what_became_of_it() {
    assert_refused(
        &["--backend", "tracepoint", "--acceptor"],
        USAGE,
        "--acceptor is withdrawn, leave it out: no tracepoint tells which socket an accept \
         returned, and the fentry and kprobe backends name the accepting thread by themselves",
    );
}

#[test]
fn unknown_field_is_refused_with_the_list_and_the_nearest() {
    let (code, said) = refusal_in(Path::new("/"), &["--fields", "pid,proces"]);
    assert_eq!((code, said.lines().count()), (Some(USAGE), 1), "{said}");
    let begin = "port-monitor: invalid value 'proces' for '--fields <FIELD,…>' [possible values: \
                 time, dir, pid, process,";
    assert!(said.starts_with(begin), "{said}");
    let end = "]; tip: a similar value exists: 'process'\n";
    assert!(said.ends_with(end), "{said}");
}

#[test]
fn command_that_cannot_run_is_refused() {
    for (command, reason) in [
        (
            "no-such-command",
            "command not found (give its path, or check PATH)",
        ),
        ("/no/such/command", "no such file (check the path)"),
        ("/etc", "not an executable file (check its mode)"),
    ] {
        let message = format!("run {command}: {reason}");
        assert_refused(&["--", command], USAGE, &message);
    }
}

#[test]
fn file_that_is_no_policy_is_refused() {
    let dir = directory();
    let path = |name| dir.path().join(name);
    fs::write(path("empty"), "").unwrap();
    fs::create_dir(path("directory")).unwrap();
    fs::write(path("binary"), b"\x7fELF\x02\x01\xff").unwrap();
    File::create(path("huge"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    mkfifoat(CWD, path("pipe"), Mode::from_raw_mode(0o666)).unwrap();
    for (name, reason) in [
        ("missing", "no such file (check its name)"),
        ("empty", "is empty (a policy starts with `version = 1`)"),
        ("directory", "is a directory, not a file"),
        ("binary", "is not text (byte 6): write it in UTF-8"),
        ("huge", "is larger than 32 MiB"),
        ("pipe", "is empty (a policy starts with `version = 1`)"),
    ] {
        let message = format!("{name}: {reason}");
        let args = ["--policy", name];
        assert_refused_in(dir.path(), &args, POLICY_INVALID, &message);
    }
}

#[test]
fn bad_policy_shows_every_error_as_policy_check_does() {
    let dir = directory();
    let text = "version = 1\n[[rule]]\nname = \"web\"\ndirection = \"out\"\nport = 70000\n\
                service = \"htpps\"\nacton = \"allow\"\n";
    fs::write(dir.path().join("policy.toml"), text).unwrap();
    let flag = ["--policy", "policy.toml"];
    let (code, said) = refusal_in(dir.path(), &flag);
    assert_eq!(code, Some(POLICY_INVALID));
    for place in ["policy.toml:5:", "policy.toml:6:", "policy.toml:7:"] {
        assert!(said.contains(place), "no {place} in {said}");
    }

    let check = Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .current_dir(dir.path())
        .args(["policy", "check"])
        .args(flag)
        .output()
        .unwrap();
    assert_eq!(said.as_bytes(), check.stderr);
}

#[test]
fn output_file_that_cannot_be_written_is_refused() {
    let dir = directory();
    let path = |name| dir.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    fs::write(path("precious"), "data").unwrap();
    symlink("precious", path("link")).unwrap();
    mkfifoat(CWD, path("pipe"), Mode::RUSR).unwrap();
    fs::set_permissions(path("pipe"), Permissions::from_mode(0o666)).unwrap();
    for (name, reason) in [
        ("missing/out", ": No such file or directory (os error 2)"),
        ("directory", ": Is a directory (os error 21)"),
        ("link", " is a symbolic link: name the file itself"),
        (
            "pipe",
            " is not a regular file: redirect standard output to it",
        ),
    ] {
        let message = format!("output file {name}{reason}");
        let args = ["--output-file", name];
        assert_refused_in(dir.path(), &args, OUTPUT_FAILED, &message);
        // A recording may wait for who reads a pipe.
        if name != "pipe" {
            let message = format!("--record: {message}");
            assert_refused_in(dir.path(), &["--record", name], OUTPUT_FAILED, &message);
        }
    }
    assert_eq!(fs::read(path("precious")).unwrap(), b"data");
}

#[test]
fn a_recording_is_not_where_events_are_shown() {
    let dir = directory();
    fs::write(dir.path().join("out"), "").unwrap();
    fs::set_permissions(dir.path().join("out"), Permissions::from_mode(0o666)).unwrap();
    let message = "--record: events are shown in ./out already: name another file";
    let args = ["--output-file", "out", "--record", "./out"];
    assert_refused_in(dir.path(), &args, USAGE, message);
    let (code, said) = refusal_in(dir.path(), &["--record", "-"]);
    assert_eq!(code, Some(USAGE));
    assert!(
        said.contains("not a file: -o json writes to standard output"),
        "{said}"
    );
}

#[test]
fn alerts_that_cannot_be_told_are_refused() {
    let dir = directory();
    fs::write(dir.path().join("plain"), "").unwrap();
    let plain = dir.path().join("plain");
    let plain = format!("--alert-command={}", plain.display());
    let not_executable = format!(
        "--alert-command: {}: not an executable file (check its mode)",
        plain.strip_prefix("--alert-command=").unwrap()
    );
    for (args, message) in [
        (
            &["--alert-on", "loss"][..],
            "the following required arguments were not provided: \
             <--alert-journal|--alert-command <ARG>>; see --help",
        ),
        (
            &["--alert-journal", "--alert-timeout", "5s"],
            "--alert-timeout: there is no command that it is for",
        ),
        (
            &["--alert-command", "mail"],
            "--alert-command: `mail` is not an absolute path",
        ),
        (
            &["--alert-command", "/none/mail"],
            "--alert-command: /none/mail: No such file or directory (os error 2)",
        ),
        (
            &["--alert-command", "/etc"],
            "--alert-command: /etc: not an executable file (check its mode)",
        ),
        (&[&plain], &not_executable),
    ] {
        assert_refused(args, USAGE, message);
    }
    for (args, message) in [
        (["--alert-on", "lost"], "'lost'"),
        (
            ["--alert-rate", "10"],
            "`10` is not a rate: write 10/m, 1/s or 100/h",
        ),
        (
            ["--alert-timeout", "2h"],
            "more than 1 h: write 1h or less, such as 10s",
        ),
        (["--alert-command", ""], "empty: leave it out"),
    ] {
        let (code, said) = refusal_in(dir.path(), &[&["--alert-journal"], &args[..]].concat());
        assert_eq!(code, Some(USAGE), "{said}");
        assert!(
            said.contains(message) && said.lines().count() == 1,
            "{said}"
        );
    }
}
