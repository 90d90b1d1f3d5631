//! `port-monitor policy` from the command line: output and exit status.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "support/policy.rs"]
mod support;

use std::{fs, path::Path};

use insta::assert_snapshot;
use support::{run, run_on_policy, stderr, stdout, with_policy};
use tempfile::TempDir;

const EXAMPLE: &str = include_str!("../../examples/policy.toml");

/// A directory with the example policy as `policy.toml`.
fn example() -> TempDir {
    with_policy(EXAMPLE)
}

/// The exit status and all that was said on the standard error output.
fn refusal(dir: &Path) -> (Option<i32>, String) {
    let output = run_on_policy(dir, &["check"]);
    assert_eq!(stdout(&output), "");
    (output.status.code(), stderr(&output))
}

#[test]
fn example_policy_is_right() {
    let output = run_on_policy(example().path(), &["check"]);
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
    let output = run_on_policy(dir.path(), &["check"]);
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
            "no such file (check its name)",
        ),
        (directory, "is a directory, not a file"),
        (
            with_policy(""),
            "is empty (a policy starts with `version = 1`)",
        ),
        (huge, "is larger than 32 MiB"),
        (
            with_policy(b"\x7fELF\x02\x01\0"),
            "is not text (byte 6): write it in UTF-8",
        ),
        (fifo, "is empty (a policy starts with `version = 1`)"),
    ] {
        let expected = format!("port-monitor: policy.toml: {said}\n");
        assert_eq!(refusal(dir.path()), (Some(5), expected));
    }
}

#[test]
fn check_as_json_lists_the_same_problems() {
    let dir = with_policy("version = 1\nmod = \"observe\"\n");
    let output = run_on_policy(dir.path(), &["check", "--json"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(
        stdout(&output),
        "{\"policy\":\"policy.toml\",\"ok\":false,\"rules\":null,\"diagnostics\":[{\
         \"severity\":\"error\",\"file\":\"policy.toml\",\"line\":2,\"column\":1,\"message\":\"unknown key `mod`\",\
         \"help\":\"did you mean `mode`?\"}]}\n"
    );

    let output = run_on_policy(example().path(), &["check", "--json"]);
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
        let output = run_on_policy(dir.path(), &[&["explain"], args].concat());
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
fn udp_is_explained_and_compared_where_a_rule_names_it() {
    let dir = with_policy(
        "version = 1\n[default]\noutbound = { action = \"deny\" }\n[[rule]]\nname = \"dns\"\n\
         direction = \"out\"\nservice = \"domain\"\nproto = [\"tcp\", \"udp\"]\naction = \"allow\"\n",
    );
    for (args, said) in [
        (["out", "udp", "9.9.9.9:53"], "dns (policy.toml:4): allow"),
        (["out", "udp", "9.9.9.9:123"], "the outbound default: deny"),
        (
            ["in", "udp", "9.9.9.9:53"],
            "none: UDP is not judged: allow",
        ),
    ] {
        let output = run_on_policy(dir.path(), &[&["explain"], &args[..]].concat());
        assert!(stdout(&output).contains(said), "{args:?}: {output:?}");
    }
    fs::write(
        dir.path().join("none.toml"),
        "version = 1\n[default]\noutbound = { action = \"deny\" }\n",
    )
    .unwrap();
    let diff = run(dir.path(), &["diff", "none.toml", "policy.toml"]);
    assert_eq!(
        stdout(&diff),
        "- out port 1-52/udp, 54-65535/udp to any but loopback not by the kernel itself\n    old: \
         none: UDP is not judged: allow\n    new: the outbound default: deny\n    such as: out udp \
         192.0.2.1:1\n\
         + out port 53 to any but loopback not by the kernel itself\n    old: the outbound \
         default: deny\n    new: dns (policy.toml:4): allow\n    such as: out tcp 192.0.2.1:53\n"
    );
}

#[test]
fn explanation_as_json_has_the_same_facts() {
    let output = run_on_policy(
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
        let output = run_on_policy(
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
        (
            &["out", "sctp", "10.0.0.1:53"],
            "[possible values: tcp, udp]",
        ),
        (
            &["up", "tcp", "10.0.0.1:53"],
            "[possible values: in, out, listen]",
        ),
        (
            &["out", "tcp", "10.0.0.1:53", "--user", "rooot"],
            "did you mean `root`?",
        ),
    ] {
        let output = run_on_policy(dir.path(), &[&["explain"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(advice), "{}", stderr(&output));
    }
}

#[test]
fn invalid_policy_explains_nothing() {
    let dir = with_policy("version = 2\n");
    let output = run_on_policy(dir.path(), &["explain", "out", "tcp", "10.0.0.1:53"]);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(5), String::new())
    );
}

/// A case as a file has it, of the example policy unless it says otherwise.
fn case(name: &str, rest: &str) -> String {
    format!("[[case]]\nname = \"{name}\"\n{rest}\n")
}

#[test]
fn cases_of_the_example_come_out_as_expected() {
    let dir = example();
    let cases = include_str!("../../examples/policy.test.toml");
    fs::write(dir.path().join("policy.test.toml"), cases).unwrap();
    let output = run_on_policy(dir.path(), &["test"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output), "policy.test.toml: 4 of 4 as expected\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn case_that_comes_out_otherwise_is_named_and_the_exit_status_is_1() {
    let dir = example();
    let cases = [
        case(
            "web",
            "direction = \"out\"\npeer = \"192.0.2.1\"\nport = 443\nexpect = \"deny\"",
        ),
        case(
            "right, by another rule",
            "direction = \"in\"\npeer = \"192.0.2.1\"\nport = 23\nexpect = \"deny\"\n\
             rule = \"default\"",
        ),
        case(
            "right",
            "direction = \"listen\"\nport = 8080\nexpect = \"allow\"\nrule = \"default\"",
        ),
    ];
    fs::write(dir.path().join("mine.toml"), cases.concat()).unwrap();
    let output = run_on_policy(dir.path(), &["test", "--cases", "mine.toml"]);
    assert_eq!(stderr(&output), "");
    assert_snapshot!(stdout(&output));
    assert_eq!(output.status.code(), Some(1));

    let output = run_on_policy(dir.path(), &["test", "--cases", "mine.toml", "--json"]);
    assert_snapshot!(stdout(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn wrong_cases_are_refused_in_one_line_with_their_place() {
    let out = "direction = \"out\"\nexpect = \"allow\"\npeer = \"192.0.2.1\"\n";
    for (cases, said) in [
        (String::new(), "no [[case]] in it"),
        (
            case("a", "direction = \"up\""),
            "policy.test.toml:3: unknown variant `up`",
        ),
        (
            case("a", &format!("{out}prot = 1")),
            "policy.test.toml:6: unknown field `prot`",
        ),
        (
            case("a", &format!("{out}port = \"htpps\"")),
            "1: unknown service `htpps`: did you mean `https`?",
        ),
        (
            case("a", &format!("{out}port = 1\nrule = \"web-ot\"")),
            "1: the policy has no rule `web-ot`: did you mean `web-out`?",
        ),
        (
            case("a", &format!("{out}port = 1\nrule = \"zzz\"")),
            "the policy has no rule `zzz`: name one of its rules, or `default`",
        ),
        (
            case("a", &format!("{out}port = 1\nexe = \"curl\"")),
            "`curl` is not an absolute path",
        ),
        (
            case("a", &format!("{out}port = 1\nunit = \"a.timer\"")),
            "`a.timer` is not a unit name",
        ),
        (
            case("a\\q", &format!("{out}port = 1")),
            "2: `\\q` is no escape: where the backslash",
        ),
        (
            case("a", "direction = \"in\"\nport = 1\nexpect = \"deny\""),
            "`peer` is missing",
        ),
        (
            case("a", &format!("{out}port = 1\nkernel = true\nunit = \"a\"")),
            "the kernel itself has no `unit` and no `exe`",
        ),
        (
            case("a", &format!("{out}port = 1\nuser = \"rooot\"")),
            "did you mean `root`?",
        ),
    ] {
        let dir = example();
        fs::write(dir.path().join("policy.test.toml"), cases).unwrap();
        let output = run_on_policy(dir.path(), &["test"]);
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(2), String::new())
        );
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn cases_that_are_not_there_are_named() {
    let output = run_on_policy(example().path(), &["test"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("policy.test.toml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn default_has_no_case_and_port_0_is_one_that_is_not_known() {
    let dir = example();
    let cases = ["DEFAULT", "Default", "default"].map(|rule| {
        let rest = "direction = \"in\"\npeer = \"192.0.2.1\"\nport = 0\nexpect = \"deny\"";
        case("a", &format!("{rest}\nrule = \"{rule}\""))
    });
    fs::write(dir.path().join("policy.test.toml"), cases.concat()).unwrap();
    let output = run_on_policy(dir.path(), &["test"]);
    assert_eq!(
        stdout(&output),
        "policy.test.toml: 3 of 3 as expected\n",
        "{output:?}"
    );
    let output = run_on_policy(dir.path(), &["explain", "in", "tcp", "192.0.2.1:0"]);
    assert!(
        stdout(&output).contains("the inbound default: deny"),
        "{output:?}"
    );
}

#[test]
fn failsafe_entry_is_a_rule_that_a_case_may_expect() {
    let dir = with_policy(
        "version = 1\n[default]\ninbound = { action = \"deny\" }\n[failsafe]\n\
         inbound = [{ service = \"ssh\" }]\n",
    );
    let rest = "direction = \"in\"\npeer = \"192.0.2.1\"\nport = \"ssh\"\nexpect = \"allow\"";
    let cases = case("a", &format!("{rest}\nrule = \"failsafe:inbound:1\""));
    fs::write(dir.path().join("policy.test.toml"), cases).unwrap();
    let output = run_on_policy(dir.path(), &["test"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// A line of a recording.
fn recorded(
    id: u32,
    action: &str,
    direction: &str,
    (from, to): (&str, &str),
    rest: &str,
) -> String {
    let end = |at: &str| {
        let (ip, port) = at.rsplit_once(':').unwrap();
        format!("{{\"ip\":\"{ip}\",\"port\":{port}}}")
    };
    format!(
        "{{\"@timestamp\":\"2026-11-26T10:00:00Z\",\"event\":{{\"action\":\"{action}\",\
         \"dataset\":\"port_monitor.connection\"}},\"network\":{{\"direction\":\"{direction}\"}},\
         \"source\":{},\"destination\":{},\"user\":{{\"id\":\"33\"}},\
         \"port_monitor\":{{\"id\":\"{id}\"{rest}}}}}\n",
        end(from),
        end(to)
    )
}

const SUMMARY: &str = "{\"@timestamp\":\"2026-11-26T10:00:01Z\",\"event\":{\"action\":\"summary\",\
     \"dataset\":\"port_monitor.stream\"},\"port_monitor\":{\"lost\":7}}\n";

#[test]
fn recording_is_judged_connection_by_connection() {
    let dir = example();
    let telnet = ("10.0.0.5:40000", "192.0.2.1:23");
    let recording = [
        recorded(1, "connect", "egress", telnet, ""),
        recorded(1, "close", "egress", telnet, ""),
        recorded(
            2,
            "connect",
            "egress",
            ("10.0.0.5:40001", "192.0.2.1:443"),
            "",
        ),
        recorded(
            3,
            "accept",
            "ingress",
            ("192.0.2.1:40000", "10.0.0.5:22"),
            "",
        ),
        recorded(
            4,
            "accept",
            "ingress",
            ("10.9.9.9:40000", "10.0.0.5:22"),
            "",
        ),
        recorded(5, "failed", "egress", telnet, ""),
        // A listener has no peer: not even the default for inbound judges it.
        recorded(
            6,
            "preexisting",
            "ingress",
            ("10.0.0.5:1", "10.0.0.5:22"),
            ",\"state\":\"listen\"",
        ),
        SUMMARY.to_owned(),
    ];
    fs::write(dir.path().join("seen.json"), recording.concat()).unwrap();
    let output = run_on_policy(dir.path(), &["test", "--replay", "seen.json"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(
        stdout(&output),
        "would have denied 3 of 6 connections and listeners\n       \
         2  no-telnet-out (policy.toml:25, alert high): deny\n       \
         1  the inbound default: deny\n\
         the recording lacks 7 events that were lost\n"
    );
    assert_eq!(output.status.code(), Some(0));

    let output = run_on_policy(dir.path(), &["test", "--replay", "seen.json", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["denied"], 3);
    assert_eq!(report["by"][0]["decided_by"]["rule"], "no-telnet-out");
}

#[test]
fn what_is_no_recording_is_refused_with_its_place() {
    let dir = example();
    fs::write(dir.path().join("seen.json"), format!("{SUMMARY}no JSON\n")).unwrap();
    for (args, said) in [
        (
            ["test", "--replay", "seen.json"],
            "seen.json:2: not a line of `-o json`",
        ),
        (
            ["test", "--replay", "none.json"],
            "read none.json: No such file",
        ),
    ] {
        let output = run_on_policy(dir.path(), &args);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    fs::write(dir.path().join("seen.json"), SUMMARY).unwrap();
    let output = run_on_policy(dir.path(), &["test", "--replay", "seen.json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("no connection in it"),
        "{}",
        stderr(&output)
    );
}
