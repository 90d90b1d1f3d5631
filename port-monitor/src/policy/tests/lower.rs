//! What a policy becomes for the kernel's programs.

use std::{io, path::Path};

use port_monitor_common::{
    generation::{INBOUND_OPEN, RuleEntry},
    policy::MAX_RULES,
};

use super::{
    super::tables::lower::{Lowered, Places},
    policy,
};

/// 2026-01-01, when it is.
const NOW_NS: i64 = 1_767_225_600_000_000_000;

/// A host with nothing on it.
struct Bare;

impl Places for Bare {
    fn cgroups(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    fn executable(&self, _path: &Path) -> Result<(u32, u64), io::Error> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn boot_ns(&self, wall_ns: i64) -> u64 {
        wall_ns.unsigned_abs()
    }

    fn now_ns(&self) -> i64 {
        NOW_NS
    }
}

#[test]
fn packets_need_no_look_only_where_nothing_asks_about_inbound_connections() {
    let rule = |direction, action| {
        format!(
            "[[rule]]\nname = \"r\"\ndirection = \"{direction}\"\nport = 22\naction = \
             \"{action}\"\n"
        )
    };
    let default = |action| format!("[default]\ninbound = {{ action = \"{action}\" }}\n");
    for (text, is_open) in [
        (rule("out", "deny"), true),
        (rule("listen", "deny"), true),
        (default("allow"), true),
        (rule("in", "allow"), false),
        (rule("in", "deny"), false),
        (default("deny"), false),
    ] {
        let lowered = policy(&format!("version = 1\n{text}")).lower(&Bare);
        let asks = lowered.unwrap().header.asks;
        assert_eq!(asks & INBOUND_OPEN != 0, is_open, "{text}");
    }
}

/// The meaning of the first rule named `r` of a policy.
fn meaning(rule: &str, other: &str) -> u64 {
    let text = format!("version = 1\n{other}[[rule]]\nname = \"r\"\ndirection = \"out\"\n{rule}\n");
    let lowered = policy(&text).lower(&Bare).unwrap();
    let is_r = |entry: &&RuleEntry| entry.name.starts_with(b"r\0");
    lowered.rules.iter().find(is_r).unwrap().meaning
}

#[test]
fn a_rule_is_the_same_where_it_asks_and_does_the_same() {
    let rule = "action = \"deny\"\nport = [23, 8080]\nto = [\"10.0.0.0/8\", \"::1\"]";
    let other = "[networks]\ninner = [\"::1\", \"10.0.0.0/8\"]\n[[rule]]\nname = \"s\"\n\
                 direction = \"out\"\nport = 80\naction = \"allow\"\n";
    let same = meaning(rule, "");
    assert_eq!(meaning(rule, other), same);
    for spelled in [
        rule.replace("[23, 8080]", "[8080, 23]"),
        rule.replace("[\"10.0.0.0/8\", \"::1\"]", "\"inner\""),
        format!("{rule}\nalert = \"high\""),
    ] {
        assert_eq!(meaning(&spelled, other), same, "{spelled}");
    }
    let by_port = meaning("action = \"deny\"\nport = 23", "");
    assert_eq!(
        meaning("action = \"deny\"\nservice = \"telnet\"", ""),
        by_port
    );
    for changed in [
        rule.replace("deny", "allow"),
        rule.replace("23", "22"),
        rule.replace(", 8080", ""),
        rule.replace("10.0.0.0/8", "10.0.0.0/9"),
        format!("{rule}\nuser = 0"),
        format!("{rule}\nunit = \"a.service\""),
        format!("{rule}\ncgroup = \"/a.service\""),
        format!("{rule}\nuntil = 2099-12-31T00:00:00Z"),
    ] {
        assert_ne!(meaning(&changed, other), same, "{changed}");
    }
}

#[test]
fn packets_are_looked_at_where_nothing_is_allowed_once_nobody_follows() {
    let text = "version = 1\n[apply]\non_daemon_exit = \"closed-after-60s\"\n";
    let lowered = policy(text).lower(&Bare).unwrap();
    assert_ne!(lowered.header.asks & INBOUND_OPEN, 0);
    let closed = lowered.closed_header().unwrap();
    assert_eq!(closed.asks & INBOUND_OPEN, 0);
}

/// The set of rules of a direction that have not ended at a time, by the tables.
fn lasting(lowered: &Lowered, now_ns: u64) -> u64 {
    lowered.ends.find(now_ns) >> 16 & 0xffff
}

fn until(number: usize, time: &str) -> String {
    format!(
        "[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\naction = \"deny\"\nport = \
         {}\nuntil = {time}\n",
        number + 1
    )
}

#[test]
fn every_rule_may_end_at_a_time_of_its_own() {
    let rules: String = (0..MAX_RULES)
        .map(|n| until(n, &format!("2031-01-01T{:02}:{:02}:00Z", n / 60, n % 60)))
        .collect();
    let lowered = policy(&format!("version = 1\n{rules}"))
        .lower(&Bare)
        .unwrap();
    // 2031-01-01T00:00:00Z.
    let first_ns = 1_924_992_000_000_000_000;
    let minute_ns = 60_000_000_000;
    let mut sets: Vec<_> = (0..MAX_RULES as u64)
        .map(|n| lasting(&lowered, first_ns + n * minute_ns - 1))
        .collect();
    for n in 1..sets.len() {
        assert_ne!(sets[n], sets[n - 1], "rule {n}");
    }
    sets.sort_unstable();
    sets.dedup();
    assert_eq!(sets.len(), MAX_RULES);
    let last_ns = first_ns + (MAX_RULES as u64 - 1) * minute_ns;
    assert_eq!(lasting(&lowered, last_ns), 0, "none is left");
}

#[test]
fn rules_that_have_ended_take_no_room() {
    let lasting = until(0, "2031-01-01T00:00:00Z");
    let ended: String = (1..300)
        .map(|n| until(n, &format!("2021-01-01T{:02}:{:02}:00Z", n / 60, n % 60)))
        .collect();
    let with = policy(&format!("version = 1\n{lasting}{ended}"))
        .lower(&Bare)
        .unwrap();
    assert!(with.ends.find(1) >> 16 & 0xffff != 0);
    assert_eq!(with.ends.find(1), with.ends.find(NOW_NS.unsigned_abs()));
}
