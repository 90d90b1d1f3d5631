//! Networks of a policy from the command line: what they mean, and lists in files.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "support/policy.rs"]
mod support;

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use support::{run, run_on_policy, stdout, with_policy};

/// What any published list of bogons begins with.
const BOGONS: &str = "version = 1\nmode = \"enforce\"\n[networks]\n\
    bogons = [\"0.0.0.0/8\", \"10.0.0.0/8\", \"192.168.0.0/16\", \"240.0.0.0/4\"]\n\
    [[rule]]\nname = \"no-bogons-out\"\ndirection = \"out\"\nto = \"bogons\"\naction = \"deny\"\n";

fn denying(to: &str) -> String {
    format!(
        "version = 1\nmode = \"enforce\"\n[[rule]]\nname = \"r\"\ndirection = \"out\"\n\
         to = {to}\naction = \"deny\"\n"
    )
}

/// The exit status and all that was said.
fn check(dir: &Path) -> (Option<i32>, String) {
    let output = run_on_policy(dir, &["check"]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Whether a connection to the address is denied.
fn denies(dir: &Path, to: &str) -> bool {
    let output = run_on_policy(dir, &["explain", "out", "tcp", to]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        !said.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.starts_with("verdict      violation")
}

#[test]
fn list_of_bogons_spares_loopback_and_denies_this_network() {
    let dir = with_policy(BOGONS);
    for to in [
        "0.1.2.3:80",
        "0.255.255.255:80",
        "10.0.0.1:80",
        "[64:ff9b::a00:1]:80",
    ] {
        assert!(denies(dir.path(), to), "{to}");
    }
    let output = run_on_policy(
        dir.path(),
        &["explain", "out", "tcp", "[64:ff9b::a00:1]:80"],
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("judged as    10.0.0.1, which the connection reaches"),
        "{said}"
    );
    for to in ["127.0.0.1:80", "0.0.0.0:80", "1.1.1.1:80", "[::1]:80"] {
        assert!(!denies(dir.path(), to), "{to}");
    }
}

#[test]
fn network_of_nat64_is_refused_with_what_to_write() {
    let (code, said) = check(with_policy(denying("\"64:ff9b::/96\"")).path());
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains(
            "policy.toml:6:6: warning: `64:ff9b::/96` matches no connection through NAT64"
        ),
        "{said}"
    );
    assert!(said.contains("0.0.0.0/0 for all of them"), "{said}");
    assert!(said.contains("rule `r` matches no connection"), "{said}");
}

#[test]
fn unspecified_network_is_told_as_what_it_reaches() {
    let dir = with_policy(
        "version = 1\n[default]\noutbound = { action = \"deny\" }\n[[rule]]\nname = \"r\"\n\
         direction = \"out\"\nto = \"::/128\"\naction = \"allow\"\n",
    );
    let (code, said) = check(dir.path());
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("7:6: warning: `::/128` is judged as ::1"),
        "{said}"
    );
}

#[test]
fn ipv4_within_ipv6_is_closed_by_the_rule_that_threats_name() {
    let dir = with_policy(denying(
        "[\"2002::/16\", \"64:ff9b:1::/48\", \"::/96\", \"2001::/32\"]",
    ));
    for to in [
        "[2002:a00:1::1]:80",
        "[64:ff9b:1::a00:1]:80",
        "[::10.0.0.1]:80",
        "[2001::1]:80",
    ] {
        assert!(denies(dir.path(), to), "{to}");
    }
    assert!(!denies(dir.path(), "10.0.0.1:80"));
    assert!(!denies(dir.path(), "[2001:db8::1]:80"));
}

const LISTED: &str = "version = 1\nmode = \"enforce\"\n[networks]\n\
    blocked = [\"192.0.2.0/24\", { file = \"blocked.txt\" }]\n\
    [[rule]]\nname = \"r\"\ndirection = \"out\"\nto = \"blocked\"\naction = \"deny\"\n";

#[test]
fn list_in_a_file_is_read_as_it_is_published() {
    let dir = with_policy(LISTED);
    let list =
        "; a list\r\n\r\n198.51.100.0/24 ; SBL1\r\n# more\n  2001:db8::/32\t# doc\n203.0.113.7";
    fs::write(dir.path().join("blocked.txt"), list).unwrap();
    assert_eq!(
        check(dir.path()),
        (Some(0), "policy.toml: ok, 1 rule\n".to_owned())
    );
    for to in [
        "192.0.2.1:1",
        "198.51.100.9:1",
        "[2001:db8::1]:1",
        "203.0.113.7:1",
    ] {
        assert!(denies(dir.path(), to), "{to}");
    }
    assert!(!denies(dir.path(), "203.0.113.8:1"));
    // The policy's directory counts, not the one it is run from.
    let elsewhere = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    let args = ["check", "--policy", policy.to_str().unwrap()];
    let output = run(elsewhere.path(), &args);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn wrong_line_of_a_list_is_named_with_its_place() {
    let dir = with_policy(LISTED);
    fs::write(
        dir.path().join("blocked.txt"),
        "10.0.0.0/8\n  10.1.2.3/8\n010.0.0.1\n",
    )
    .unwrap();
    let (code, said) = check(dir.path());
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("blocked.txt:2:3: `10.1.2.3/8` has bits set beyond its prefix"),
        "{said}"
    );
    assert!(
        said.contains("blocked.txt:3:1: `010.0.0.1` has a number that begins with 0"),
        "{said}"
    );
}

#[test]
fn list_that_is_missing_or_empty_is_refused() {
    let dir = with_policy(LISTED);
    let (code, said) = check(dir.path());
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("policy.toml:4:"), "{said}");
    assert!(
        said.contains("blocked.txt: No such file or directory"),
        "{said}"
    );
    fs::write(dir.path().join("blocked.txt"), "# nothing\n").unwrap();
    let (code, said) = check(dir.path());
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("blocked.txt has no network"), "{said}");
}

#[test]
fn long_list_is_checked_in_one_rule_and_in_several() {
    let mut list = String::new();
    for n in 0_u32..300_000 {
        // Spread, so that none touches another.
        let at = n.wrapping_mul(2_654_435_761);
        let [a, b, c, d] = at.to_be_bytes();
        _ = match n % 4 {
            0 => writeln!(list, "{}.{b}.{c}.0/24", 1 + a % 200),
            1 => writeln!(list, "2a{a:02x}:{b:02x}{c:02x}:{d:02x}00::/48"),
            _ => writeln!(list, "{}.{b}.{c}.{d}", 1 + a % 200),
        };
    }
    let rule = |name: &str, port: u16| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndirection = \"out\"\nto = \"blocked\"\nport = {port}\n\
             action = \"deny\"\n"
        )
    };
    let rules = [rule("a", 80), rule("b", 443), rule("c", 22)].concat();
    let text = format!("version = 1\n[networks]\nblocked = {{ file = \"l\" }}\n{rules}");
    let dir = with_policy(&text);
    fs::write(dir.path().join("l"), list).unwrap();
    assert_eq!(
        check(dir.path()),
        (Some(0), "policy.toml: ok, 3 rules\n".to_owned())
    );
}

#[test]
fn rule_of_more_networks_than_it_once_held_is_one_for_every_command() {
    let networks = |count: u32| {
        let every_16th = (0..count).map(|n| Ipv4Addr::from(0x0a00_0000 + n * 16));
        let quoted: Vec<String> = every_16th.map(|address| format!("\"{address}\"")).collect();
        let list = quoted.join(",");
        format!("{}[networks]\nb = [{list}]\n", denying("\"b\""))
    };
    let dir = with_policy(networks(4_097));
    fs::write(dir.path().join("fewer.toml"), networks(4_096)).unwrap();
    assert_eq!(
        check(dir.path()),
        (Some(0), "policy.toml: ok, 1 rule\n".to_owned())
    );
    assert!(denies(dir.path(), "10.1.0.0:443"));
    assert!(!denies(dir.path(), "10.1.0.1:443"));
    let output = run(dir.path(), &["diff", "policy.toml", "fewer.toml"]);
    let told = stdout(&output);
    assert!(told.starts_with("+ out port any to 10.1.0.0\n"), "{told}");
    assert_eq!(told.matches("such as:").count(), 1, "{told}");
    let output = run_on_policy(dir.path(), &["export", "nft"]);
    let ruleset = stdout(&output);
    assert_eq!(ruleset.matches("\t10.").count(), 4_097);
}
