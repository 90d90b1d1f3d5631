//! The nftables ruleset against the policy it is made of: its text, read back by a
//! reader of the few words it uses, decides every connection of `oracle`'s world
//! alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use insta::assert_snapshot;
use ipnet::IpNet;
use port_monitor_common::policy::{Direction, Verdict};
use proptest::prelude::*;

use super::{
    Facts, NOW_NS,
    diff::compiled,
    oracle::{naive, world},
    outbound, parse, policy, rule,
};
use crate::policy::export::nft::{Inexpressible, NftError};

/// The entries of a set, or the one value in its place.
fn entries<'r>(ruleset: &'r str, value: &'r str) -> Vec<&'r str> {
    let inner = match value.strip_prefix('@') {
        Some(name) => {
            let (_, set) = ruleset.split_once(&format!("\tset {name} {{")).unwrap();
            let (_, elements) = set.split_once("elements = {").unwrap();
            elements.split_once('}').unwrap().0
        }
        None => value.trim_start_matches("{ ").trim_end_matches(" }"),
    };
    let entries = inner.split(',').map(str::trim);
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// The address in the packet lies in the entry.
fn holds(entry: &str, addr: IpAddr) -> bool {
    if let Ok(network) = entry.parse::<IpNet>() {
        return network.contains(&addr);
    }
    let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
    let ends = [first, last].map(|end| end.parse::<IpAddr>().unwrap());
    ends[0].is_ipv4() == addr.is_ipv4() && (ends[0]..=ends[1]).contains(&addr)
}

/// The condition at the start of `text` holds, and what comes after it.
fn condition<'t>(ruleset: &str, text: &'t str, facts: &Facts<'_>) -> Option<(bool, &'t str)> {
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
    let (is_negated, rest) = match rest.strip_prefix("!= ") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let end = if rest.starts_with('{') {
        rest.find('}').unwrap() + 1
    } else {
        rest.find(' ').unwrap()
    };
    let (value, rest) = rest.split_at(end);
    // The wire has no IPv4-mapped addresses.
    let peer = facts.peer.to_canonical();
    let is_of_family = !key.starts_with("ip") || key.starts_with("ip ") == peer.is_ipv4();
    let found = entries(ruleset, value).into_iter().any(|entry| match key {
        "tcp dport " => {
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&facts.service_port)
        }
        "meta nfproto " => (entry == "ipv4") == peer.is_ipv4(),
        "meta skuid " => facts.uid == Some(entry.parse().unwrap()),
        "meta time < " => facts.now_ns < entry.parse::<i128>().unwrap() * 1_000_000_000,
        "fib " => facts.peer_is_self || peer.is_loopback(),
        _ => holds(entry, peer),
    });
    Some((is_of_family && found != is_negated, rest.trim_start()))
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
        .filter(|line| !line.starts_with('#') && !line.starts_with("frag "))
    {
        let mut line = line;
        let mut matches = true;
        while let Some((holds, rest)) = condition(ruleset, line, facts) {
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
        let Ok(ruleset) = policy.to_nft(inexpressible, NOW_NS) else {
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

/// The first address of a network, and how many bits it has.
fn networks() -> impl Strategy<Value = (IpNet, bool)> {
    const SPECIAL: [u32; 6] = [
        0,
        0x0a00_0000,
        0x7f00_0000,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ];
    let v4 = prop_oneof![prop::sample::select(&SPECIAL[..]), any::<u32>()];
    let v4 = (v4, 0..=32_u8, any::<bool>()).prop_map(|(addr, len, inside)| {
        let network: IpNet = match (inside, Ipv4Addr::from_bits(addr)) {
            (true, addr) => IpNet::new(nat64(addr).into(), 96 + len).unwrap(),
            (false, addr) => IpNet::new(addr.into(), len).unwrap(),
        };
        network.trunc()
    });
    let v6 = (any::<u128>(), 0..=128_u8).prop_map(|(addr, len)| {
        let near_nat64 = NAT64 ^ addr >> 60;
        IpNet::new(Ipv6Addr::from_bits(near_nat64).into(), len)
            .unwrap()
            .trunc()
    });
    (prop_oneof![3 => v4, 1 => v6], any::<bool>())
}

const NAT64: u128 = 0x0064_ff9b << 96;

fn nat64(v4: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(NAT64 | u128::from(v4.to_bits()))
}

/// Both ends of the network, and the addresses next to them, in every spelling.
fn edges(network: &IpNet) -> Vec<IpAddr> {
    let ends: Vec<IpAddr> = match network {
        IpNet::V4(network) => {
            let ends = [network.network(), network.broadcast()].map(Ipv4Addr::to_bits);
            let near = ends.map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)]);
            near.concat()
                .into_iter()
                .map(Ipv4Addr::from_bits)
                .map(IpAddr::from)
                .collect()
        }
        IpNet::V6(network) => {
            let ends = [network.network(), network.broadcast()].map(Ipv6Addr::to_bits);
            let near = ends.map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)]);
            near.concat()
                .into_iter()
                .map(Ipv6Addr::from_bits)
                .map(IpAddr::from)
                .collect()
        }
    };
    let other = |addr: &IpAddr| match addr {
        IpAddr::V4(v4) => nat64(*v4).into(),
        IpAddr::V6(v6) => Ipv4Addr::from_bits((v6.to_bits() & 0xffff_ffff) as u32).into(),
    };
    let others: Vec<IpAddr> = ends.iter().map(other).collect();
    // No packet has an unspecified address, or an IPv4-mapped one.
    let is_on_the_wire = |addr: &IpAddr| !addr.is_unspecified() && *addr == addr.to_canonical();
    [ends, others]
        .concat()
        .into_iter()
        .filter(is_on_the_wire)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn networks_hold_what_the_policy_says_they_hold(
        rules in prop::collection::vec(prop::collection::vec(networks(), 1..4), 1..4),
        deny in any::<bool>(),
    ) {
        let default = if deny { "deny" } else { "allow" };
        let mut text = format!("version = 1\n[default]\noutbound = {{ action = \"{default}\" }}\n");
        for (index, networks) in rules.iter().enumerate() {
            let allows = networks[0].1;
            let to: Vec<_> = networks.iter().map(|(network, _)| network.to_string()).collect();
            let action = if allows { "allow" } else { "deny" };
            text += &rule(&format!("r{index}"), "out", action, &format!("to = {to:?}"));
        }
        // Some are shadowed.
        let Ok((policy, _)) = parse(&text) else {
            return Ok(());
        };
        let ruleset = policy.to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
        for addr in rules.iter().flatten().flat_map(|(network, _)| edges(network)) {
            let facts = outbound(&addr.to_string(), 443);
            let decided = policy.judge(&facts).verdict;
            prop_assert_eq!(verdict(&ruleset, &facts), decided, "{}\n{}\n{}", addr, text, ruleset);
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
    assert_snapshot!(policy.to_nft(Inexpressible::Refuse, NOW_NS).unwrap());
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
        assert_eq!(policy.to_nft(Inexpressible::Refuse, NOW_NS), Err(refusal));
        let partial = policy.to_nft(Inexpressible::LeaveOut, NOW_NS).unwrap();
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
        let refusal = policy.to_nft(Inexpressible::LeaveOut, NOW_NS).unwrap_err();
        assert!(
            matches!(refusal, NftError::Widens { line: 9, .. }),
            "{refusal}"
        );
    }
    let apart = denies("user = \"app\"\nport = 81\nfrom = \"192.0.2.1\"") + &later;
    let policy = policy(&format!("{HEAD}{apart}"));
    assert!(policy.to_nft(Inexpressible::LeaveOut, NOW_NS).is_ok());
}

#[test]
fn listen_default_that_denies_is_not_silently_lost() {
    let policy = policy("version = 1\n[default]\nlisten = { action = \"deny\" }\n");
    assert_eq!(
        policy.to_nft(Inexpressible::Refuse, NOW_NS),
        Err(NftError::ListenDefault)
    );
    let partial = policy.to_nft(Inexpressible::LeaveOut, NOW_NS).unwrap();
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
    let ruleset = policy.to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
    assert!(
        ruleset.contains("tcp dport 1 meta time < 1801353600 "),
        "{ruleset}"
    );
    assert!(
        ruleset.contains("tcp dport 2 meta time < 1801353601 "),
        "{ruleset}"
    );
}

#[test]
fn what_nat64_makes_of_a_denied_address_is_denied() {
    let policy = policy(&format!(
        "version = 1\n{}",
        rule("no-lan", "out", "deny", "to = \"10.0.0.0/8\"")
    ));
    let ruleset = policy.to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
    for (addr, expected) in [
        ("10.0.0.1", Verdict::AuditDeny),
        ("64:ff9b::a00:1", Verdict::AuditDeny),
        ("64:ff9b::aff:ffff", Verdict::AuditDeny),
        ("64:ff9b::9ff:ffff", Verdict::Allow),
        ("64:ff9b::b00:0", Verdict::Allow),
    ] {
        let facts = outbound(addr, 443);
        assert_eq!(policy.judge(&facts).verdict, expected, "{addr}");
        assert_eq!(verdict(&ruleset, &facts), expected, "{addr}\n{ruleset}");
    }
}

#[test]
fn rule_that_has_ended_is_left_out_whatever_it_asks() {
    const ENDS: [&str; 4] = [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "2026-11-22T00:00:00Z",
    ];
    let asks = [
        ("out", "port = 443"),
        ("out", "unit = \"app.service\""),
        ("in", "user = \"app\""),
        ("listen", "port = 1"),
    ];
    for until in ENDS {
        for (direction, asks) in asks {
            let conditions = format!("{asks}\nuntil = {until}");
            let text = format!("version = 1\n{}", rule("t", direction, "deny", &conditions));
            let ruleset = policy(&text).to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
            assert!(
                ruleset.contains("# left out: t (line 2) has ended\n"),
                "{ruleset}"
            );
            assert!(
                !ruleset.contains("meta time") && !ruleset.contains("reject"),
                "{ruleset}"
            );
        }
    }
}

#[test]
fn times_to_come_are_seconds_and_never_is_no_condition() {
    for (until, condition) in [
        ("2026-11-22T00:00:01Z", "meta time < 1795305601 "),
        ("2026-11-22T02:00:01+02:00", "meta time < 1795305601 "),
        ("2262-04-11T23:47:15Z", "meta time < 9223372035 "),
        ("2262-04-12T00:00:00Z", ""),
        ("9999-12-30T00:00:00Z", ""),
    ] {
        let conditions = format!("port = 443\nuntil = {until}");
        let text = format!("version = 1\n{}", rule("t", "out", "deny", &conditions));
        let ruleset = policy(&text).to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
        let line =
            format!("tcp dport 443 {condition}counter reject with tcp reset comment \"t\"\n");
        assert!(ruleset.contains(&line), "{until}\n{ruleset}");
    }
}

#[test]
fn ports_and_users_of_a_set_are_apart() {
    let conditions = "port = [80, \"70-90\", 90, 91, 80]\nuser = [33, 0, \"www-data\"]";
    let text = format!("version = 1\n{}", rule("r", "out", "deny", conditions));
    let ruleset = policy(&text).to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
    assert!(
        ruleset.contains("\ttcp dport 70-91 meta skuid { 0, 33 } counter"),
        "{ruleset}"
    );
}

#[test]
fn rules_of_one_long_list_share_a_set() {
    let far: Vec<_> = (0..100)
        .map(|third| format!("198.18.{third}.128/25"))
        .collect();
    let text = format!(
        "version = 1\n[networks]\nfar = {far:?}\n{}{}",
        rule("a", "out", "deny", "port = 80\nto = \"far\""),
        rule("b", "out", "deny", "port = 81\nto = \"far\""),
    );
    let ruleset = policy(&text).to_nft(Inexpressible::Refuse, NOW_NS).unwrap();
    for set in ["\tset v4_1 {", "\tset v6_2 {"] {
        assert_eq!(ruleset.matches(set).count(), 1, "{ruleset}");
    }
    assert_eq!(ruleset.matches("ip daddr @v4_1 ").count(), 2, "{ruleset}");
    assert_eq!(ruleset.matches("ip6 daddr @v6_2 ").count(), 2, "{ruleset}");
    assert_eq!(ruleset.matches("set v").count(), 2, "{ruleset}");
    for (addr, expected) in [
        ("198.18.99.128", Verdict::AuditDeny),
        ("198.18.99.127", Verdict::Allow),
        ("64:ff9b::c612:63ff", Verdict::AuditDeny),
        ("64:ff9b::c612:6400", Verdict::Allow),
    ] {
        assert_eq!(verdict(&ruleset, &outbound(addr, 81)), expected, "{addr}");
    }
}
