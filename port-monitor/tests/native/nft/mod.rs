//! What `policy export nft` prints, in the judgement of nft itself: in a network
//! namespace of its own, so that nothing of this host's changes.

use std::{fmt::Write as _, fs, process::Command};

use assert_cmd::cargo::cargo_bin;

mod packets;
mod random;
mod wire;

/// Every kind of condition and verdict.
const POLICY: &str = r#"
version = 1
[default]
inbound = { action = "deny", style = "drop" }
outbound = { action = "deny", loopback = "filter" }
[failsafe]
inbound = [{ service = "ssh", from = "10.0.0.0/8" }]
[networks]
far = ["192.0.2.0/25", "192.0.2.128/25", "192.0.2.7", "2001:db8::/32", "2001:db8::1"]
[[rule]]
name = "web"
direction = "out"
port = [80, 443, "8000-8100"]
to = "far"
action = "allow"
[[rule]]
name = "app"
direction = "out"
user = [0, 33]
to = ["::/0", "self", "0.0.0.0/0"]
until = 2100-01-31T00:00:00Z
action = "allow"
[[rule]]
name = "open"
direction = "out"
port = 1
action = "allow"
[[rule]]
name = "unit"
direction = "out"
unit = "a.slice"
action = "allow"
[[rule]]
name = "no-telnet"
direction = "in"
service = "telnet"
action = "deny"
"#;

fn ruleset(policy: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    fs::write(&path, policy).unwrap();
    let output = Command::new(cargo_bin!("port-monitor"))
        .args(["policy", "export", "nft", "--partial", "--policy"])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

/// What a command for nft prints in a network namespace of its own; `$0` is a file with the
/// ruleset of the policy.
fn listed(policy: &str, command: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ruleset.nft");
    fs::write(&path, ruleset(policy)).unwrap();
    let output = Command::new("unshare")
        .args(["--net", "sh", "-ec", command])
        .arg(path)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nft_takes_the_ruleset_and_takes_it_again() {
    for policy in [POLICY, include_str!("../../../../examples/policy.toml")] {
        let listed = listed(policy, "nft -f \"$0\"; nft -f \"$0\"; nft list ruleset");
        assert_eq!(listed.matches("table inet").count(), 1, "{listed}");
        assert!(listed.contains("comment \"no-telnet"), "{listed}");
    }
}

/// What the head of a ruleset says of it.
#[test]
fn optimizer_of_nft_drops_comments_and_counters() {
    let rules = [("a", 80, "allow"), ("b", 81, "deny")].map(|(name, port, action)| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndirection = \"in\"\nport = {port}\naction = \"{action}\"\n"
        )
    });
    let default = "[default]\ninbound = { action = \"allow\", style = \"drop\" }\n";
    let policy = ["version = 1\n", default, &rules.concat()].concat();
    let plain = listed(&policy, "nft -f \"$0\"; nft list ruleset");
    assert!(
        plain.contains("comment \"a\"") && plain.contains("comment \"b\""),
        "{plain}"
    );
    let optimized = listed(&policy, "nft -o -f \"$0\" >&2; nft list ruleset");
    assert!(
        optimized.contains("tcp dport vmap { 80 : accept, 81 : drop }"),
        "{optimized}"
    );
    assert!(!optimized.contains("comment \"a\""), "{optimized}");
}

#[test]
fn nft_takes_a_long_list_of_networks() {
    const COUNT: usize = 40_000;
    let mut policy = "version = 1\n[networks]\nblocked = [\n".to_owned();
    for number in 0..COUNT {
        let [_, first, second, third] = u32::try_from(number * 2).unwrap().to_be_bytes();
        writeln!(policy, "\"{}.{second}.{third}.128/25\",", 11 + first).unwrap();
    }
    policy +=
        "]\n[[rule]]\nname = \"no\"\ndirection = \"out\"\nto = \"blocked\"\naction = \"deny\"\n";
    let elements = listed(
        &policy,
        "nft -f \"$0\"; nft list set inet port_monitor v4_1",
    );
    assert_eq!(elements.matches("/25").count(), COUNT);
}
