//! `policy diff` against the naive policies of `oracle`, over every connection of
//! their world, and its words.

use port_monitor_common::policy::{Action, Direction, Verdict};
use proptest::prelude::*;

use super::{
    Facts, NOW_NS,
    oracle::{Naive, naive, world},
    parse, policy, rule,
};
use crate::policy::{
    Policy,
    analysis::{
        cells::Place,
        diff::{Difference, Uids},
    },
    text::{problem::Problem, value},
};

const DENY: &str = "[default]\ninbound = { action = \"deny\" }\n\
    outbound = { action = \"deny\", loopback = \"filter\" }\n";

/// The rules that decide something, as a policy.
pub(super) fn compiled(head: &str, rules: &[Naive]) -> Policy {
    let mut texts: Vec<_> = rules.iter().enumerate().collect();
    loop {
        let rules = texts.iter().map(|(index, rule)| rule.text(*index));
        let text = format!("version = 1\n{head}{}", rules.collect::<String>());
        match parse(&text) {
            Ok((policy, _)) => return policy,
            Err(invalid) => {
                for diagnostic in invalid.diagnostics {
                    if let Problem::Shadowed { name, .. } = diagnostic.problem {
                        texts.retain(|(index, _)| format!("r{index}") != name);
                    }
                }
            }
        }
    }
}

/// The connection is one of those the difference is about, as far as the owner goes
/// at least one with fewer scopes is.
fn holds(difference: &Difference, facts: &Facts<'_>) -> bool {
    let addr = value::octets(facts.peer.to_canonical());
    let is_self = facts.peer_is_self || facts.peer.to_canonical().is_loopback();
    let port = facts.transport.port(facts.service_port);
    let in_ports = |&(first, last): &(u32, u32)| (first..=last).contains(&port);
    let has_uid = match &difference.uids {
        Uids::Only(uids) => facts.uid.is_some_and(|uid| uids.contains(&uid)),
        Uids::AllBut(uids) => facts.uid.is_none_or(|uid| !uids.contains(&uid)),
    };
    difference.direction == facts.direction
        && difference.ports.iter().any(in_ports)
        && difference.peers.contains(Place { addr, is_self })
        && has_uid
        // Nobody there is the kernel.
        && difference.kernel != Some(true)
        && difference
            .who
            .units
            .iter()
            .all(|unit| facts.unit == Some(unit))
}

fn check(a: &Policy, b: &Policy) -> Result<(), TestCaseError> {
    let differences = a.diff(b, NOW_NS).unwrap();
    for facts in &world(true) {
        let allowed = [a, b].map(|policy| policy.explain(facts).verdict == Verdict::Allow);
        let by = [a, b].map(|policy| policy.explain(facts).reason);
        let told = differences
            .iter()
            .find(|difference| difference.by == by && holds(difference, facts));
        prop_assert_eq!(told.is_some(), allowed[0] != allowed[1], "{:?}", facts);
        if let Some(difference) = told {
            prop_assert_eq!(difference.action == Action::Allow, allowed[1]);
        }
        // What asks for no more than this owner has is decided as it says.
        let exact = differences.iter().find(|difference| {
            holds(difference, facts) && difference.who.units.iter().eq(facts.unit.iter())
        });
        if let Some(difference) = exact {
            prop_assert_eq!(&difference.by, &by);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn exactly_the_connections_that_are_decided_differently_are_told(
        a in prop::collection::vec(naive(), 0..6),
        b in prop::collection::vec(naive(), 0..6),
        denies in any::<(bool, bool)>(),
    ) {
        let head = |denies| if denies { DENY } else { "[default]\n" };
        check(&compiled(head(denies.0), &a), &compiled(head(denies.1), &b))?;
    }
}

fn told(a: &str, b: &str) -> Vec<String> {
    let [a, b] = [a, b].map(|text| policy(&format!("version = 1\n{text}")));
    let differences = a.diff(&b, NOW_NS).unwrap();
    let told = differences.iter().map(|difference| {
        let until = difference.until_ns.map(|_| " until").unwrap_or_default();
        let from = difference.from_ns.map(|_| " from").unwrap_or_default();
        format!(
            "{:?} {}{from}{until}",
            difference.action, difference.witness
        )
    });
    told.collect()
}

#[test]
fn policies_that_say_the_same_in_other_words_are_alike() {
    let halves = [
        rule("a", "in", "deny", "port = \"1-100\"\nfrom = \"10.0.0.0/9\""),
        rule(
            "b",
            "in",
            "deny",
            "port = \"1-100\"\nfrom = \"10.128.0.0/9\"",
        ),
    ];
    let whole = rule(
        "c",
        "in",
        "deny",
        "port = [\"1-50\", \"51-100\"]\nfrom = \"10.0.0.0/8\"",
    );
    assert_eq!(told(&halves.concat(), &whole), [""; 0]);
}

#[test]
fn owner_in_two_scopes_is_found_where_only_the_order_differs() {
    let unit = rule("a", "out", "allow", "unit = \"app.service\"");
    let slice = rule("b", "out", "deny", "unit = \"system.slice\"");
    let (a, b) = ([&*unit, &slice].concat(), [&*slice, &unit].concat());
    assert_eq!(
        told(&a, &b),
        ["Deny out tcp 192.0.2.1:1 --cgroup /system.slice/app.service"]
    );
    let cgroup = rule("b", "out", "deny", "cgroup = \"/system.slice\"");
    let (a, b) = ([&*unit, &cgroup].concat(), [&*cgroup, &unit].concat());
    assert_eq!(
        told(&a, &b),
        ["Deny out tcp 192.0.2.1:1 --cgroup /system.slice/app.service"]
    );
}

#[test]
fn owner_that_two_patterns_match_needs_no_cgroup() {
    let known = rule("a", "out", "deny", "unit = \"-.slice\"\ncgroup = \"/\"");
    let one = rule("b", "out", "deny", "unit = \"worker@?.service\"");
    let all = rule("c", "out", "allow", "unit = \"worker@.service\"");
    assert_eq!(
        told(&[known, one].concat(), &all),
        [
            "Allow out tcp 192.0.2.1:1 --cgroup /worker@xx.service",
            "Allow out tcp 192.0.2.1:1 --cgroup /",
            "Allow out tcp 192.0.2.1:1 --unit worker@x.service",
        ]
    );
}

#[test]
fn earlier_rule_for_the_root_slice_holds_in_a_cgroup_too() {
    let first = rule("a", "out", "allow", "port = \"1-100\"\nunit = \"-.slice\"");
    let known = rule(
        "b",
        "out",
        "deny",
        "port = \"50-200\"\nunit = \"-.slice\"\ncgroup = \"/\"",
    );
    let all = rule("c", "out", "allow", "unit = \"worker@.service\"");
    assert_eq!(
        told(&[first, known].concat(), &all),
        [
            "Allow out tcp 192.0.2.1:101 --cgroup /worker@x.service",
            "Allow out tcp 192.0.2.1:101 --cgroup /",
        ]
    );
}

#[test]
fn name_that_two_overlapping_patterns_match_needs_no_cgroup() {
    let known = rule("a", "out", "deny", "unit = \"-.slice\"\ncgroup = \"/\"");
    let one = rule("b", "out", "deny", "unit = \"a?c*.service\"");
    let other = rule("c", "out", "allow", "unit = \"*b.service\"");
    let told = told(&[known, one].concat(), &other);
    let by_name = "Allow out tcp 192.0.2.1:1 --unit axcb.service";
    assert!(told.iter().any(|told| told == by_name), "{told:?}");
}

#[test]
fn earlier_patterns_that_leave_no_name_leave_no_difference() {
    let earlier = rule(
        "a",
        "out",
        "allow",
        "unit = [\"w?*.service\", \"w.service\"]",
    );
    let all = rule("b", "out", "deny", "unit = \"w*x*.service\"");
    assert_eq!(told(&[&*earlier, &all].concat(), &earlier), [""; 0]);
    let equal = rule("a", "out", "allow", "unit = \"*?.service\"");
    let all = rule("b", "out", "deny", "unit = \"?*.service\"");
    assert_eq!(told(&[&*equal, &all].concat(), &equal), [""; 0]);
}

#[test]
fn many_patterns_that_all_overlap_are_compared() {
    let rules = |last: &str| {
        let letters = ('a'..='z').map(|letter| {
            let port = u32::from(letter);
            let body = format!("unit = \"*{letter}*.service\"\nport = {port}");
            rule(&letter.to_string(), "out", "allow", &body)
        });
        let last = rule("last", "out", last, "unit = \"*0*.service\"");
        letters.chain([last]).collect::<String>()
    };
    assert_eq!(
        told(&rules("allow"), &rules("deny")),
        ["Deny out tcp 192.0.2.1:1 --unit 0.service"]
    );
}

#[test]
fn pattern_of_too_many_states_is_refused_in_one_line() {
    let end = format!("a{}.service", "?".repeat(20));
    let pattern = rule("a", "out", "deny", &format!("unit = \"*{end}\""));
    let told = told("", &pattern);
    let unit = "axxxxxxxxxxxxxxxxxxxx.service";
    assert_eq!(told, [format!("Deny out tcp 192.0.2.1:1 --unit {unit}")]);
    // What earlier patterns hold together, a search would have to tell apart.
    let earlier = format!("unit = [\"*?{end}\", \"{end}\"]");
    let earlier = rule("b", "out", "allow", &earlier);
    let patterns = format!("version = 1\n{earlier}{pattern}");
    let refused = policy("version = 1\n").diff(&policy(&patterns), NOW_NS);
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.starts_with("the policies are not compared: "),
        "{refused}"
    );
    assert!(!refused.contains('\n'), "{refused}");
}

#[test]
fn rules_that_both_policies_have_are_as_many_as_there_may_be() {
    let rules = |first: &str| {
        let rules = (1..=1000).map(|port| {
            let action = if port == 1 { first } else { "allow" };
            rule(
                &format!("r{port}"),
                "out",
                action,
                &format!("port = {port}"),
            )
        });
        format!(
            "[default]\noutbound = {{ action = \"deny\" }}\n{}",
            rules.collect::<String>()
        )
    };
    assert_eq!(
        told(&rules("allow"), &rules("deny")),
        ["Deny out tcp 192.0.2.1:1"]
    );
}

#[test]
fn users_are_as_many_as_there_may_be() {
    let rules = |flipped: u32| {
        let rules = (0..16).map(|number| {
            let users = (0..4096).map(|user| (number * 4096 + user).to_string());
            let body = format!("user = [{}]", users.collect::<Vec<_>>().join(", "));
            let action = if number == flipped { "deny" } else { "allow" };
            rule(&format!("r{number}"), "out", action, &body)
        });
        rules.collect::<String>()
    };
    assert_eq!(
        told(&rules(3), &rules(5)),
        [
            "Allow out tcp 192.0.2.1:1 --user 12288",
            "Deny out tcp 192.0.2.1:1 --user 20480"
        ]
    );
}

#[test]
fn no_pattern_means_the_root_slice() {
    let pattern = policy(&format!(
        "version = 1\n{}",
        rule("a", "out", "deny", "unit = \"?.slice\"")
    ));
    for (unit, cgroup) in [
        (Some("-.slice"), None),
        (Some("app.service"), None),
        (None, Some("/")),
    ] {
        let facts = Facts {
            unit,
            cgroup,
            ..super::outbound("192.0.2.1", 1)
        };
        assert_eq!(pattern.explain(&facts).verdict, Verdict::Allow, "{facts:?}");
    }
}

#[test]
fn rule_that_ends_is_a_difference_from_or_until_then() {
    let ending = rule(
        "a",
        "listen",
        "deny",
        "port = 80\nuntil = 2027-01-01T00:00:00Z",
    );
    let lasting = rule("a", "listen", "deny", "port = 80");
    assert_eq!(told(&ending, &lasting), ["Deny listen tcp [::]:80 from"]);
    assert_eq!(told("", &ending), ["Deny listen tcp [::]:80 until"]);
    assert_eq!(told("", &lasting), ["Deny listen tcp [::]:80"]);
}

#[test]
fn loopback_that_the_default_spares_is_a_difference_of_its_own() {
    let denies = "[default]\noutbound = { action = \"deny\" }\n";
    let filters = "[default]\noutbound = { action = \"deny\", loopback = \"filter\" }\n";
    assert_eq!(told(denies, filters), ["Deny out tcp 127.0.0.1:1"]);
    assert_eq!(told(filters, ""), ["Allow out tcp 192.0.2.1:1"]);
}

#[test]
fn the_kernel_itself_is_a_difference_of_its_own() {
    let denies = "[default]\noutbound = { action = \"deny\" }\n";
    let by_rule = rule("a", "out", "deny", "to = \"2001:db8::/32\"");
    assert_eq!(
        told(denies, &by_rule),
        [
            "Deny out tcp [2001:db8::1]:1 --kernel",
            "Allow out tcp 192.0.2.1:1"
        ]
    );
    let [a, b] = [denies, &by_rule].map(|text| policy(&format!("version = 1\n{text}")));
    let kernel = |difference: &Difference| difference.kernel;
    let found: Vec<_> = a.diff(&b, NOW_NS).unwrap().iter().map(kernel).collect();
    assert_eq!(found, [Some(true), Some(false)]);
}

#[test]
fn the_kernel_itself_is_told_by_its_cgroup_and_runs_nothing() {
    let denies = "[default]\noutbound = { action = \"deny\" }\n";
    let by_unit = rule("a", "out", "deny", "unit = \"app.service\"");
    let by_slice = rule("a", "out", "deny", "unit = \"-.slice\"");
    let by_exe = rule("a", "out", "deny", "exe = \"/bin/perl\"");
    // What is denied of loopback, too, is a difference of anybody.
    let of_kernel = |rules: &str| -> Vec<String> {
        let told = told(denies, &format!("{denies}{rules}"));
        let of_kernel = |told: &String| told.contains("--kernel");
        told.into_iter().filter(of_kernel).collect()
    };
    assert_eq!(
        of_kernel(&by_unit),
        ["Deny out tcp 192.0.2.1:1 --cgroup /app.service --kernel"]
    );
    assert_eq!(
        of_kernel(&by_slice),
        ["Deny out tcp 192.0.2.1:1 --cgroup / --kernel"]
    );
    assert_eq!(of_kernel(&by_exe), [""; 0]);
}

#[test]
fn direction_of_a_difference_is_that_of_its_rules() {
    let inbound = rule(
        "a",
        "in",
        "deny",
        "from = \"self\"\nport = 22\nuser = \"app\"",
    );
    let a = policy("version = 1\n");
    let b = policy(&format!("version = 1\n{inbound}"));
    let differences = a.diff(&b, NOW_NS).unwrap();
    let [difference] = &differences[..] else {
        panic!("{differences:?}");
    };
    assert_eq!(difference.direction, Direction::Inbound);
    assert_eq!(difference.peers.words(), ["self"]);
    assert_eq!(difference.uids, Uids::Only(vec![1000]));
    assert_eq!(difference.ports, [(22, 22)]);
}
