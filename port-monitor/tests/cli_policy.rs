//! `port-monitor policy` from the command line: output and exit status.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use insta::assert_snapshot;
use tempfile::TempDir;

const EXAMPLE: &str = include_str!("../../examples/policy.toml");

/// A directory with the example policy as `policy.toml`.
fn example() -> TempDir {
    with_policy(EXAMPLE)
}

fn with_policy(text: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), text).unwrap();
    dir
}

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .current_dir(dir)
        .arg("policy")
        .args(args)
        .args(["--policy", "policy.toml"])
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The exit status and all that was said on the standard error output.
fn refusal(dir: &Path) -> (Option<i32>, String) {
    let output = run(dir, &["check"]);
    assert_eq!(stdout(&output), "");
    (output.status.code(), stderr(&output))
}

#[test]
fn example_policy_is_right() {
    let output = run(example().path(), &["check"]);
    assert_eq!(stdout(&output), "policy.toml: ok, 5 rules\n");
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn every_error_is_shown_and_the_exit_status_is_5() {
    let dir = with_policy(
        "version = 1\n[[rule]]\nname = \"web\"\ndirection = \"out\"\nport = 70000\n\
         service = \"htpps\"\nacton = \"allow\"\n",
    );
    let (code, said) = refusal(dir.path());
    assert_eq!(code, Some(5));
    assert_snapshot!(said);
}

#[test]
fn syntax_error_has_its_place_too() {
    let (code, said) = refusal(with_policy("version = 1\nmode = \"observe\n").path());
    assert_eq!(code, Some(5));
    assert_snapshot!(said);
}

#[test]
fn warnings_do_not_refuse_the_policy() {
    let dir = with_policy(
        "version = 1\n[[rule]]\nname = \"old\"\ndirection = \"in\"\naction = \"deny\"\n\
         until = 2001-01-01T00:00:00Z\n",
    );
    let output = run(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "policy.toml: ok, 1 rule\n");
    assert_snapshot!(stderr(&output));
}

#[test]
fn file_that_is_no_policy_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("policy.toml")).unwrap();
    let huge = with_policy("version = 1\n");
    let file = fs::File::options()
        .write(true)
        .open(huge.path().join("policy.toml"))
        .unwrap();
    file.set_len(1 << 30).unwrap();
    let fifo = tempfile::tempdir().unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, fifo.path().join("policy.toml"), mode).unwrap();
    for (dir, said) in [
        (
            tempfile::tempdir().unwrap(),
            "no such file (name one with --policy)",
        ),
        (directory, "is a directory, not a policy file"),
        (
            with_policy(""),
            "is empty (a policy starts with `version = 1`)",
        ),
        (huge, "is larger than 1 MiB, too large for a policy"),
        (
            with_policy(b"\x7fELF\x02\x01\0"),
            "is not text (byte 6); a policy is UTF-8 text",
        ),
        (fifo, "is not a regular file"),
    ] {
        let expected = format!("port-monitor: policy.toml: {said}\n");
        assert_eq!(refusal(dir.path()), (Some(5), expected));
    }
}

#[test]
fn check_as_json_lists_the_same_problems() {
    let dir = with_policy("version = 1\nmod = \"observe\"\n");
    let output = run(dir.path(), &["check", "--json"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(
        stdout(&output),
        "{\"policy\":\"policy.toml\",\"ok\":false,\"rules\":null,\"diagnostics\":[{\
         \"severity\":\"error\",\"line\":2,\"column\":1,\"message\":\"unknown key `mod`\",\
         \"help\":\"did you mean `mode`?\"}]}\n"
    );

    let output = run(example().path(), &["check", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "{\"policy\":\"policy.toml\",\"ok\":true,\"rules\":5,\"diagnostics\":[]}\n"
    );
}

#[test]
fn explanation_names_the_rule_its_place_and_what_comes_next() {
    let dir = example();
    let explained = |args: &[&str]| {
        let output = run(dir.path(), &[&["explain"], args].concat());
        assert_eq!(
            (output.status.code(), stderr(&output)),
            (Some(0), String::new())
        );
        format!("$ explain {}\n{}", args.join(" "), stdout(&output))
    };
    let all = [
        explained(&["out", "tcp", "203.0.113.9:443"]),
        explained(&["out", "tcp", "203.0.113.9:23"]),
        explained(&["out", "tcp", "[2001:db8::1]:5432", "--user", "www-data"]),
        explained(&["out", "tcp", "[2001:db8::1]:5432", "--user", "0"]),
        explained(&["out", "tcp", "127.0.0.1:5432"]),
        explained(&["in", "tcp", "10.1.2.3:22"]),
        explained(&["in", "tcp", "203.0.113.9:22", "--unit", "ssh.service"]),
    ];
    assert_snapshot!(all.join("\n"));
}

#[test]
fn explanation_as_json_has_the_same_facts() {
    let output = run(
        example().path(),
        &["explain", "in", "tcp", "203.0.113.9:22", "--json"],
    );
    assert_eq!(output.status.code(), Some(0));
    assert_snapshot!(stdout(&output));
}

#[test]
fn own_address_is_self_without_a_packet() {
    let rule = |to: &str| {
        format!(
            "version = 1\n[[rule]]\nname = \"r\"\ndirection = \"out\"\naction = \"deny\"\nto = \"{to}\"\n"
        )
    };
    let verdict = |to: &str, peer: &str| {
        let output = run(
            with_policy(rule(to)).path(),
            &["explain", "out", "tcp", peer],
        );
        stdout(&output).contains("violation")
    };
    assert!(verdict("self", "127.8.8.8:1"));
    assert!(verdict("self", "0.0.0.0:1"));
    assert!(!verdict("self", "192.0.2.1:1"));
}

#[test]
fn wrong_argument_is_a_usage_error_with_advice() {
    let dir = example();
    for (args, advice) in [
        (&["out", "tcp", "10.0.0.1"][..], "such as 10.1.2.3:443"),
        (&["out", "tcp", "10.0.0.1:70000"], "such as 10.1.2.3:443"),
        (&["out", "udp", "10.0.0.1:53"], "[possible values: tcp]"),
        (
            &["up", "tcp", "10.0.0.1:53"],
            "[possible values: in, out, listen]",
        ),
        (
            &["out", "tcp", "10.0.0.1:53", "--user", "rooot"],
            "did you mean `root`?",
        ),
    ] {
        let output = run(dir.path(), &[&["explain"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(advice), "{}", stderr(&output));
    }
}

#[test]
fn invalid_policy_explains_nothing() {
    let dir = with_policy("version = 2\n");
    let output = run(dir.path(), &["explain", "out", "tcp", "10.0.0.1:53"]);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(5), String::new())
    );
}
