//! What `policy export nft` prints, in the judgement of nft itself: in a network
//! namespace of its own, so that nothing of this host's changes.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

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

#[test]
fn nft_takes_the_ruleset_and_takes_it_again() {
    for policy in [POLICY, include_str!("../../../../examples/policy.toml")] {
        let dir = tempfile::tempdir().unwrap();
        let mut nft = Command::new("unshare")
            .args(["--net", "sh", "-ec"])
            .arg("cat > \"$0\"; nft -f \"$0\"; nft -f \"$0\"; nft list ruleset")
            .arg(dir.path().join("ruleset.nft"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin
            .take()
            .unwrap()
            .write_all(&ruleset(policy))
            .unwrap();
        let output = nft.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(listed.matches("table inet").count(), 1, "{listed}");
        assert!(listed.contains("comment \"no-telnet"), "{listed}");
    }
}
