//! What `audit` refuses before anything is attached, as `watch` does.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use support::run_unprivileged;

const USAGE: i32 = 2;
const CANNOT_ATTACH: i32 = 3;
const POLICY_INVALID: i32 = 5;
const OUTPUT_FAILED: i32 = 6;

fn assert_refused(args: &[&str], code: i32, message: &str) {
    let args = [&["audit"], args].concat();
    let output = run_unprivileged(&args, |command| {
        command.current_dir("/");
    });
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.stdout, b"", "{args:?}");
    assert_eq!(
        (output.status.code(), stderr),
        (Some(code), format!("port-monitor: {message}\n")),
        "{args:?}"
    );
}

#[test]
fn without_privilege_the_capabilities_are_named() {
    for args in [
        &[][..],
        &["--unused", "10m", "--all"],
        &["-o", "json", "--duration", "1s", "-L", "ssh", "-4"],
    ] {
        let message = "needs CAP_BPF and CAP_PERFMON: run it with sudo";
        assert_refused(args, CANNOT_ATTACH, message);
    }
}

#[test]
fn contradictory_and_incomplete_flags_are_refused() {
    for (args, message) in [
        (
            &["--unused", "1s", "--duration", "1s"][..],
            "the argument '--unused <TIME>' cannot be used with '--duration <TIME>'; see --help",
        ),
        (
            &["--fail-on-violation"],
            "the following required arguments were not provided: --policy <FILE>; see --help",
        ),
        (
            &["-4", "-6"],
            "the argument '--ipv4' cannot be used with '--ipv6'; see --help",
        ),
        (
            &["--unused", "0s"],
            "invalid value '0s' for '--unused <TIME>': `0s` is no time at all: a duration is longer than nothing",
        ),
        (
            &["--all"],
            "--all lists what closes while watching: add --duration or --unused, or drop it",
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
            &["-L", "htpps"],
            "invalid value 'htpps' for '--local-port <PORTS>': unknown service `htpps`: did \
             you mean `https`?",
        ),
        (
            &["--user", "rooot"],
            "unknown user `rooot`: did you mean `root`?",
        ),
    ] {
        assert_refused(args, USAGE, message);
    }
}

#[test]
fn policy_and_output_are_opened_first() {
    let missing = "missing: no such file (check its name)";
    assert_refused(&["--policy", "missing"], POLICY_INVALID, missing);
    let nowhere = "output file /no/such/dir/out: No such file or directory (os error 2)";
    let args = ["--output-file", "/no/such/dir/out"];
    assert_refused(&args, OUTPUT_FAILED, nowhere);
}
