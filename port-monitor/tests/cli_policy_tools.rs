//! What `port-monitor policy` makes of policies and recordings: output and exit
//! status.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "support/policy.rs"]
mod support;

use std::{
    fs::{self, File},
    io::Write as _,
    process::Command,
};

use flate2::{Compression, write::GzEncoder};
use insta::assert_snapshot;
use serde_json::{Value, json};
use support::{run, stderr, stdout, with_files};

const OLD: &str = "version = 1
[default]
inbound = { action = \"deny\" }
[[rule]]
name = \"ssh\"
direction = \"in\"
port = 22
from = [\"10.0.0.0/8\", \"2001:db8::/32\", \"self\"]
action = \"allow\"
[[rule]]
name = \"smtp\"
direction = \"out\"
port = [25, 465, 587]
user = 8
unit = \"mail.service\"
action = \"allow\"
[[rule]]
name = \"no-smtp\"
direction = \"out\"
port = [25, 465, 587]
action = \"deny\"
";

const NEW: &str = "version = 1
[default]
inbound = { action = \"deny\" }
listen = { action = \"deny\" }
[[rule]]
name = \"ssh\"
direction = \"in\"
port = \"20-22\"
from = [\"10.0.0.0/9\", \"2001:db8::/32\"]
action = \"allow\"
[[rule]]
name = \"smtp\"
direction = \"out\"
port = [25, 465, 587]
user = [8, 9]
exe = \"/usr/sbin/mail er\"
until = 2200-01-01T00:00:00Z
action = \"allow\"
[[rule]]
name = \"no-smtp\"
direction = \"out\"
port = [25, 465, 587]
action = \"deny\"
";

#[test]
fn difference_has_both_rules_and_a_witness_and_the_exit_status_is_1() {
    let dir = with_files(&[("old.toml", OLD), ("new.toml", NEW)]);
    let output = run(dir.path(), &["diff", "old.toml", "new.toml"]);
    assert_snapshot!(stdout(&output));
    assert_eq!(output.status.code(), Some(1));

    let output = run(dir.path(), &["diff", "--json", "old.toml", "new.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let differences = report["differences"].as_array().unwrap();
    assert_eq!(report["old"], "old.toml");
    let of_exe = differences
        .iter()
        .find(|difference| difference["exe"] == "/usr/sbin/mail er" && difference["from"].is_null())
        .unwrap();
    assert_eq!(of_exe["direction"], "out");
    assert_eq!(of_exe["until"], "2200-01-01T00:00:00Z");
    assert_eq!(of_exe["users"], json!({ "only": [8, 9] }));
    assert_eq!(of_exe["old"]["rule"], "no-smtp");
    assert_eq!(of_exe["new"]["line"], 11);
    assert_eq!(of_exe["peers"], json!(["any"]));
}

#[test]
fn policies_that_are_alike_have_exit_status_0_and_bad_ones_5() {
    let dir = with_files(&[("old.toml", OLD), ("bad.toml", "version = 2\n")]);
    let output = run(dir.path(), &["diff", "old.toml", "old.toml"]);
    assert_eq!(
        stdout(&output),
        "old.toml and old.toml decide every connection alike\n"
    );
    assert_eq!(output.status.code(), Some(0));
    let output = run(dir.path(), &["diff", "old.toml", "bad.toml"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("bad.toml: 1 error"));
}

#[test]
fn export_names_the_rule_that_nftables_cannot_match() {
    let dir = with_files(&[("policy.toml", OLD)]);
    let args = ["export", "nft", "--policy", "policy.toml"];
    let output = run(dir.path(), &args);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(2), String::new())
    );
    let said = stderr(&output);
    assert_eq!(
        said.lines().last().unwrap(),
        "port-monitor: policy.toml: line 10: rule `smtp`: nftables cannot match a systemd unit \
         (--partial leaves such rules out)"
    );
    let output = run(dir.path(), &[&args[..], &["--partial"]].concat());
    assert_eq!(output.status.code(), Some(0));
    let ruleset = stdout(&output);
    assert!(
        ruleset.starts_with("# Made by port-monitor from policy.toml.\n"),
        "{ruleset}"
    );
    assert!(ruleset.contains("# left out: smtp (line 10)"), "{ruleset}");
    assert!(ruleset.contains("comment \"no-smtp\""), "{ruleset}");
}

/// A line of a recording.
fn recorded(id: u32, action: &str, ends: [&str; 3], owner: &str, own: &str) -> String {
    let [direction, from, to] = ends;
    let end = |at: &str| {
        let (ip, port) = at.rsplit_once(' ').unwrap();
        format!("{{\"ip\":\"{ip}\",\"port\":{port}}}")
    };
    format!(
        "{{\"@timestamp\":\"2026-11-26T10:{id:02}:00Z\",\"event\":{{\"action\":\"{action}\",\
         \"dataset\":\"port_monitor.connection\"}},\"network\":{{\"direction\":\"{direction}\"}},\
         \"source\":{},\"destination\":{}{owner},\"port_monitor\":{{\"id\":\"{id}\"{own}}}}}\n",
        end(from),
        end(to)
    )
}

const SUMMARY: &str = "{\"@timestamp\":\"2026-11-26T11:00:01Z\",\"event\":{\"action\":\"summary\",\
     \"dataset\":\"port_monitor.stream\"},\"port_monitor\":{\"lost\":7}}\n";

#[test]
fn learned_policy_has_its_evidence_and_denies_nothing_of_the_recording() {
    let curl = ",\"process\":{\"executable\":\"/usr/bin/curl\"},\"user\":{\"id\":\"33\"}";
    let nobody = ",\"user\":{\"id\":\"65534\"}";
    let out = |to| ["egress", "10.0.0.5 40000", to];
    let recording = [
        recorded(1, "connect", out("192.0.2.2 443"), curl, ""),
        recorded(1, "close", out("192.0.2.2 443"), curl, ""),
        recorded(2, "connect", out("192.0.2.3 443"), curl, ""),
        recorded(3, "failed", out("2001:db8::1 443"), curl, ""),
        recorded(4, "connect", out("192.0.2.9 8081"), curl, ""),
        recorded(5, "connect", out("127.0.0.1 5432"), curl, ""),
        recorded(6, "connect", out("192.0.2.9 25"), nobody, ""),
        recorded(
            7,
            "accept",
            ["ingress", "10.1.2.3 50000", "10.0.0.5 22"],
            curl,
            ",\"unit\":\"ssh.service\",\"cgroup\":{\"path\":\"/system.slice/ssh.service\"}",
        ),
        recorded(
            8,
            "accept",
            ["ingress", "10.1.2.4 50000", "10.0.0.5 22"],
            "",
            "",
        ),
        recorded(
            9,
            "listen",
            ["ingress", ":: 0", ":: 22"],
            curl,
            ",\"unit\":\"session-3.scope\"",
        ),
        SUMMARY.to_owned(),
    ];
    let dir = with_files(&[("seen.json", &recording.concat())]);
    let output = run(dir.path(), &["learn", "seen.json"]);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
    let learned = stdout(&output);
    assert_snapshot!(learned);
    fs::write(dir.path().join("learned.toml"), learned).unwrap();
    let replay = ["test", "--replay", "seen.json", "--policy", "learned.toml"];
    let output = run(dir.path(), &replay);
    assert!(
        stdout(&output).starts_with("would have denied 0 of 9 "),
        "{output:?}"
    );
}

#[test]
fn lines_of_kinds_that_are_not_known_are_counted_and_end_nothing() {
    let out = ["egress", "10.0.0.5 40000", "192.0.2.2 443"];
    let known = recorded(1, "connect", out, "", ",\"new\":[{\"a\":1}]");
    let recording = [
        recorded(2, "sleep", out, "", ""),
        known.replace("port_monitor.connection", "port_monitor.dns"),
        recorded(3, "connect", ["sideways", out[1], out[2]], "", ""),
        known,
    ];
    let dir = with_files(&[("seen.json", &recording.concat())]);
    let told = "passed over 3 lines of kinds that this version does not know, the first of them \
                `port_monitor.connection sleep`\n";
    let output = run(dir.path(), &["learn", "seen.json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).ends_with(told), "{output:?}");
    assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
    fs::write(dir.path().join("learned.toml"), stdout(&output)).unwrap();
    let mut replay = vec!["test", "--replay", "seen.json", "--policy", "learned.toml"];
    let output = run(dir.path(), &replay);
    let expected = format!("would have denied 0 of 1 connections and listeners\n{told}");
    assert_eq!(stdout(&output), expected, "{output:?}");
    replay.push("--json");
    let output = run(dir.path(), &replay);
    assert!(
        stdout(&output).contains("\"unknown_lines\":3"),
        "{output:?}"
    );
}

#[test]
fn learning_from_nothing_names_both_that_it_may_learn_from() {
    let dir = with_files(&[("seen.json", "")]);
    let output = run(dir.path(), &["learn"]);
    let told = "port-monitor: the following required arguments were not provided: \
                <FILE|--for <TIME>>; see --help\n";
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(2), told));
    let output = run(dir.path(), &["learn", "seen.json", "--for", "1s"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("cannot be used with"),
        "{output:?}"
    );
}

#[test]
fn recordings_of_every_schema_teach_and_are_judged() {
    for recording in [
        include_str!("data/schema-1.jsonl"),
        include_str!("data/schema-2.jsonl"),
    ] {
        teaches_and_is_judged(recording);
    }
}

fn teaches_and_is_judged(recording: &str) {
    let dir = with_files(&[("seen.json", recording)]);
    let output = run(dir.path(), &["learn", "seen.json"]);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
    let learned = stdout(&output);
    assert!(learned.contains("/usr/bin/python3.11"), "{learned}");
    fs::write(dir.path().join("learned.toml"), learned).unwrap();
    let replay = ["test", "--replay", "seen.json", "--policy", "learned.toml"];
    let output = run(dir.path(), &replay);
    assert_eq!(
        stdout(&output),
        "would have denied 0 of 7 connections and listeners\n",
        "{output:?}"
    );
}

#[test]
fn recording_without_a_connection_teaches_nothing() {
    let dir = with_files(&[("seen.json", SUMMARY)]);
    let output = run(dir.path(), &["learn", "seen.json"]);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(2), String::new())
    );
    assert_eq!(
        stderr(&output),
        "port-monitor: learn from seen.json: there is no connection, so nothing would be learned\n"
    );
}

#[test]
fn a_line_that_no_memory_holds_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.json.gz");
    let mut packed = GzEncoder::new(File::create(path).unwrap(), Compression::best());
    for _ in 0..64 {
        packed.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    packed.finish().unwrap();
    let output = run(dir.path(), &["learn", "seen.json.gz"]);
    assert_eq!(
        (output.status.code(), &*stderr(&output)),
        (
            Some(2),
            "port-monitor: read seen.json.gz: a line of it is longer than 1 MiB, so it is not \
             one of `-o json`\n"
        )
    );
}

#[test]
fn learning_takes_a_recording_or_a_time() {
    let dir = with_files(&[("seen.json", SUMMARY)]);
    for (args, error) in [
        (&["learn"][..], "required arguments were not provided"),
        (
            &["learn", "seen.json", "--for", "1s"],
            "cannot be used with",
        ),
        (&["learn", "--for", "soon"], "not a duration"),
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).contains(error),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn schema_is_printed_as_one_json_document() {
    let output = run(tempfile::tempdir().unwrap().path(), &["schema"]);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
    let schema: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(schema["properties"]["version"]["const"], 1);
}

/// What a case or a question says in a wrong way is told as in a policy, by its value.
#[test]
fn what_is_wrong_about_a_connection_is_told_by_its_value() {
    let case = |words: &str| {
        let head = "[[case]]\nname = \"c\"\ndirection = \"out\"\nexpect = \"deny\"\n";
        let dir = with_files(&[
            ("p.toml", "version = 1\n"),
            ("c.toml", &format!("{head}{words}")),
        ]);
        let args = ["test", "--policy", "p.toml", "--cases", "c.toml"];
        let output = run(dir.path(), &args);
        assert_eq!(output.status.code(), Some(2), "{words}");
        stderr(&output)
    };
    for (words, problem) in [
        ("user = -1", "uid -1 is not between 0 and 4294967294"),
        ("user = 4294967296", "uid 4294967296 is not between 0 and"),
        ("user = true", "expected a user name or a uid"),
        ("cgroup = \"a/b\"", "`a/b` is not an absolute path"),
    ] {
        let told = case(&format!("peer = \"192.0.2.1\"\nport = 1\n{words}\n"));
        assert!(told.contains(problem), "{words}: {told}");
    }
    for (words, problem) in [
        ("peer = \"192.0.2.1\"\nport = 65536", "port 65536 is not"),
        (
            "peer = \"192.0.2.1\"\nport = []",
            "expected a port or the name",
        ),
        ("peer = \"010.0.2.1\"\nport = 1", "begins with 0"),
        ("peer = \"10.0.0.0/8\"\nport = 1", "is a network"),
        ("peer = \"ten\"\nport = 1", "`ten` is not an address"),
        ("peer = \"fe80::1%lo\"\nport = 1", "names an interface"),
    ] {
        let told = case(words);
        assert!(
            told.contains(problem) && told.lines().count() == 1,
            "{words}: {told}"
        );
    }
    let dir = with_files(&[("p.toml", "version = 1\n")]);
    for (args, problem) in [
        (["--cgroup=a/b", "10.0.0.1:1"], "`a/b` is not an absolute"),
        (["--user=0", "010.0.0.1:1"], "begins with 0"),
    ] {
        let args = [&["explain", "--policy", "p.toml", "out", "tcp"], &args[..]].concat();
        let output = run(dir.path(), &args);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(problem), "{told}");
    }
}

#[test]
fn every_rule_ends_when_it_says_for_every_command() {
    let rules = |last_day: u32| -> String {
        let days = (1..24).chain([last_day]);
        let rule = |(number, day): (u32, u32)| {
            format!(
                "[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\nport = {}\nuntil = \
                 2100-01-{day:02}T00:00:00Z\naction = \"deny\"\n",
                1000 + number
            )
        };
        let rules: Vec<String> = (1..).zip(days).map(rule).collect();
        format!("version = 1\n{}", rules.concat())
    };
    let dir = with_files(&[("policy.toml", &rules(24)), ("later.toml", &rules(25))]);
    let on_policy = |args: &[&str]| {
        stdout(&run(
            dir.path(),
            &[args, &["--policy", "policy.toml"]].concat(),
        ))
    };
    assert_eq!(on_policy(&["check"]), "policy.toml: ok, 24 rules\n");
    for number in 1..=24 {
        let endpoint = format!("192.0.2.1:{}", 1000 + number);
        let told = on_policy(&["explain", "out", "tcp", &endpoint]);
        assert!(told.contains(&format!("decided by   r{number} ")), "{told}");
    }
    let told = stdout(&run(dir.path(), &["diff", "policy.toml", "later.toml"]));
    let first = told.lines().next();
    assert_eq!(
        first,
        Some("- out port 1024 to any from 2100-01-24T00:00:00Z until 2100-01-25T00:00:00Z"),
        "{told}"
    );
    assert_eq!(told.matches("such as:").count(), 1, "{told}");
    let ruleset = on_policy(&["export", "nft"]);
    assert_eq!(ruleset.matches("meta time < ").count(), 24, "{ruleset}");
}

/// Words that a shell or clap could take for something else.
const AWKWARD: &str = r#"
[[rule]]
name = "root"
direction = "out"
port = 1
unit = "-.slice"
action = "deny"
[[rule]]
name = "escaped"
direction = "out"
port = 2
unit = 'dev-by\x2duuid.swap'
action = "allow"
[[rule]]
name = "program"
direction = "out"
port = 3
exe = "/opt/it's $HOME/a program"
action = "allow"
[[rule]]
name = "place"
direction = "in"
port = 4
cgroup = "/a b/*"
user = 0
action = "allow"
[[rule]]
name = "hyphen"
direction = "listen"
port = 5
unit = "-?.mount"
cgroup = "/x.slice"
action = "deny"
"#;

#[test]
fn witness_of_a_difference_is_a_command_line_that_explains_it() {
    let head = "version = 1\n[default]\noutbound = { action = \"deny\" }\ninbound = { action = \
                \"deny\" }\n";
    let new = format!("{head}{AWKWARD}");
    let dir = with_files(&[("old.toml", head), ("new.toml", &new)]);
    let output = run(dir.path(), &["diff", "--json", "old.toml", "new.toml"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let differences = report["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 6, "{report:#}");
    for difference in differences {
        let witness = difference["witness"].as_str().unwrap();
        for (policy, decision) in [("old.toml", "old"), ("new.toml", "new")] {
            let script = format!("\"$0\" policy explain {witness} --json --policy {policy}");
            let mut shell = Command::new("sh");
            let shell = shell.args(["-c", &script, env!("CARGO_BIN_EXE_port-monitor")]);
            let output = shell.current_dir(dir.path()).output().unwrap();
            let told = stdout(&output);
            assert!(!told.is_empty(), "{script}: {}", stderr(&output));
            let explained: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(explained["decided_by"], difference[decision], "{script}");
        }
    }
}
