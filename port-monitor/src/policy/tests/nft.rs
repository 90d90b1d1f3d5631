//! The nftables ruleset against the policy it is made of: its text, read back by a
//! reader of the few words it uses, decides every connection of `oracle`'s world
//! alike.

use std::net::IpAddr;

use insta::assert_snapshot;
use ipnet::IpNet;
use port_monitor_common::policy::{Direction, Verdict};
use proptest::prelude::*;

use super::{
    Facts,
    diff::compiled,
    oracle::{naive, world},
    policy, rule,
};
use crate::policy::nft::{Inexpressible, NftError};

/// The entries of a set, or the one value in its place.
fn entries(value: &str) -> Vec<&str> {
    let inner = value.trim_start_matches("{ ").trim_end_matches(" }");
    inner.split(", ").collect()
}

/// The condition at the start of `text` holds, and what comes after it.
fn condition<'t>(text: &'t str, facts: &Facts<'_>) -> Option<(bool, &'t str)> {
    const KEYS: [&str; 9] = [
        "tcp dport ",
        "ip saddr ",
        "ip daddr ",
        "ip6 saddr ",
        "ip6 daddr ",
        "meta nfproto ",
        "meta skuid ",
        "meta time < ",
        "fib ",
    ];
    let key = KEYS.into_iter().find(|key| text.starts_with(key))?;
    let rest = &text[key.len()..];
    let rest = rest.strip_prefix("saddr type ").unwrap_or(rest);
    let rest = rest.strip_prefix("daddr type ").unwrap_or(rest);
    let end = if rest.starts_with('{') {
        rest.find('}').unwrap() + 1
    } else {
        rest.find(' ').unwrap()
    };
    let (value, rest) = rest.split_at(end);
    let peer = facts.peer.to_canonical();
    let holds = entries(value).into_iter().any(|entry| match key {
        "tcp dport " => {
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&facts.service_port)
        }
        "meta nfproto " => (entry == "ipv4") == peer.is_ipv4(),
        "meta skuid " => facts.uid == Some(entry.parse().unwrap()),
        "meta time < " => facts.now_ns < entry.parse::<i128>().unwrap() * 1_000_000_000,
        "fib " => facts.peer_is_self || peer.is_loopback(),
        _ => match entry.parse::<IpNet>() {
            Ok(network) => network.contains(&peer),
            Err(_) => entry.parse::<IpAddr>().unwrap() == peer,
        },
    });
    Some((holds, rest.trim_start()))
}

/// What the ruleset does with the SYN of a connection.
fn verdict(ruleset: &str, facts: &Facts<'_>) -> Verdict {
    let chain = match facts.direction {
        Direction::Inbound => "chain input {",
        _ => "chain output {",
    };
    let (_, chain) = ruleset.split_once(chain).unwrap();
    let (chain, _) = chain.split_once("\n\t}").unwrap();
    let (_, rules) = chain.split_once("!= syn accept\n").unwrap();
    for line in rules
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        let mut line = line;
        let mut matches = true;
        while let Some((holds, rest)) = condition(line, facts) {
            matches &= holds;
            line = rest;
        }
        if matches {
            let action = line.strip_prefix("counter ").unwrap();
            return if action.starts_with("accept ") {
                Verdict::Allow
            } else {
                Verdict::AuditDeny
            };
        }
    }
    panic!("{rules} decides nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn ruleset_decides_as_the_policy_does(
        rules in prop::collection::vec(naive(), 0..6),
        partial in any::<bool>(),
    ) {
        let policy = compiled("[default]\ninbound = { action = \"deny\" }\n", &rules);
        let inexpressible = if partial { Inexpressible::LeaveOut } else { Inexpressible::Refuse };
        let Ok(ruleset) = policy.to_nft(inexpressible) else {
            return Ok(());
        };
        for facts in &world(false) {
            let decided = policy.judge(facts).verdict;
            let here = verdict(&ruleset, facts);
            if partial {
                prop_assert!(here == decided || here != Verdict::Allow, "{facts:?}\n{ruleset}");
            } else {
                prop_assert_eq!(here, decided, "{:?}\n{}", facts, ruleset);
            }
        }
    }
}

const HEAD: &str = "version = 1
[default]
inbound = { action = \"deny\", style = \"drop\" }
outbound = { action = \"deny\", loopback = \"filter\" }
[failsafe]
inbound = [{ service = \"ssh\", from = \"10.0.0.0/8\" }]
[networks]
far = [\"192.0.2.0/25\", \"192.0.2.128/25\", \"2001:db8::/32\", \"198.51.100.7\"]
";

#[test]
fn ruleset_has_every_kind_of_condition() {
    let rules = [
        rule(
            "web",
            "out",
            "allow",
            "port = [80, 443, \"8000-8100\"]\nto = \"far\"",
        ),
        rule(
            "app",
            "out",
            "allow",
            "user = [\"app\", 33]\nto = [\"::/0\", \"self\"]",
        ),
        rule(
            "old",
            "out",
            "deny",
            "port = 23\nuntil = 2027-01-31T00:00:00Z",
        ),
        rule("time", "in", "allow", "service = \"ntp\"\nproto = \"udp\""),
        rule("no-telnet", "in", "deny", "service = \"telnet\""),
    ];
    let policy = policy(&format!("{HEAD}{}", rules.concat()));
    assert_snapshot!(policy.to_nft(Inexpressible::Refuse).unwrap());
}

#[test]
fn what_nftables_cannot_match_is_refused_or_left_out_for_a_comment() {
    let cases = [
        ("out", "allow", "unit = \"app.service\"", "a systemd unit"),
        ("out", "allow", "cgroup = \"/a\"", "a cgroup by its path"),
        ("out", "allow", "exe = \"/a\"", "an executable"),
        (
            "in",
            "allow",
            "user = \"app\"",
            "the user of an inbound connection",
        ),
        ("listen", "deny", "port = 23", "what listens"),
        (
            "in",
            "deny",
            "user = \"app\"\nfrom = \"192.0.2.1\"",
            "the user of an inbound connection",
        ),
    ];
    for (direction, action, conditions, what) in cases {
        let policy = policy(&format!(
            "{HEAD}{}",
            rule("r", direction, action, conditions)
        ));
        let refusal = NftError::Inexpressible {
            name: "r".to_owned(),
            line: 9,
            what,
        };
        assert_eq!(policy.to_nft(Inexpressible::Refuse), Err(refusal));
        let partial = policy.to_nft(Inexpressible::LeaveOut).unwrap();
        let comment =
            format!("# left out: r (line 9), {action} {direction}: nftables cannot match {what}\n");
        assert!(partial.contains(&comment), "{partial}");
    }
}

#[test]
fn deny_rule_is_not_left_out_where_something_would_be_allowed() {
    let denies = |conditions| rule("r", "in", "deny", conditions);
    let later = rule("s", "in", "allow", "port = 80");
    let spared_loopback = denies("user = \"app\"");
    let later_allow = denies("user = \"app\"\nport = \"1-80\"\nfrom = \"192.0.2.1\"") + &later;
    for rules in [spared_loopback, later_allow] {
        let policy = policy(&format!("{HEAD}{rules}"));
        let refusal = policy.to_nft(Inexpressible::LeaveOut).unwrap_err();
        assert!(
            matches!(refusal, NftError::Widens { line: 9, .. }),
            "{refusal}"
        );
    }
    let apart = denies("user = \"app\"\nport = 81\nfrom = \"192.0.2.1\"") + &later;
    let policy = policy(&format!("{HEAD}{apart}"));
    assert!(policy.to_nft(Inexpressible::LeaveOut).is_ok());
}

#[test]
fn listen_default_that_denies_is_not_silently_lost() {
    let policy = policy("version = 1\n[default]\nlisten = { action = \"deny\" }\n");
    assert_eq!(
        policy.to_nft(Inexpressible::Refuse),
        Err(NftError::ListenDefault)
    );
    let partial = policy.to_nft(Inexpressible::LeaveOut).unwrap();
    assert!(partial.contains("# left out: the listen default, deny\n"));
}

#[test]
fn allow_ends_with_a_whole_second_and_deny_lasts_it_out() {
    let until = "until = 2027-01-31T00:00:00.5Z";
    let rules = [
        rule("a", "out", "allow", &format!("port = 1\n{until}")),
        rule("d", "out", "deny", &format!("port = 2\n{until}")),
    ];
    let policy = policy(&format!("version = 1\n{}", rules.concat()));
    let ruleset = policy.to_nft(Inexpressible::Refuse).unwrap();
    assert!(
        ruleset.contains("tcp dport 1 meta time < 1801353600 "),
        "{ruleset}"
    );
    assert!(
        ruleset.contains("tcp dport 2 meta time < 1801353601 "),
        "{ruleset}"
    );
}
