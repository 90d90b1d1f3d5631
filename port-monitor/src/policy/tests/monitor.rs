//! What the kernel side of the monitor decides, by the tables it is given, against the
//! policy itself.

use port_monitor_common::{
    generation::{ASKS_OWNER, RULES},
    policy::Direction,
};
use proptest::prelude::*;

use super::{
    super::{tables::lower::Lowered, text::value},
    Facts,
    oracle::{naive, world},
    tables::{Asked, Party, answer},
};
use crate::events::decode::Stamp;

/// The verdict as `port-monitor-ebpf/src/verdict.rs` finds it: `None` where it leaves
/// that to userspace.
pub(super) fn stamp(lowered: &Lowered, facts: &Facts<'_>, uid: u32) -> Option<Stamp> {
    let asked = Asked {
        direction: facts.direction,
        port: facts.service_port.into(),
        peer: value::octets(facts.peer),
        is_self: facts.peer_is_self,
        now_ns: None,
        party: Party::User(uid),
        is_kernel: facts.is_kernel,
    };
    let (tally, is_denied) = answer(lowered, lowered.when_open(), &asked)?;
    Some(Stamp {
        is_denied,
        rule: u16::try_from(tally.min(RULES)).unwrap(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_the_kernel_side_decides_is_what_the_policy_says(
        rules in prop::collection::vec((naive(), 0..4), 0..8),
    ) {
        let rules = rules.iter().enumerate().map(|(index, (rule, until))| {
            let until = if *until == 0 { "until = 2199-01-01T00:00:00Z\n" } else { "" };
            rule.text(index).replace("direction", &format!("{until}direction"))
        });
        let text = format!(
            "version = 1\n[default]\ninbound = {{ action = \"deny\" }}\n{}",
            rules.collect::<String>()
        );
        // Rules that decide nothing are refused, and say nothing here.
        let Ok((policy, _)) = super::parse(&text) else {
            return Ok(());
        };
        let lowered = policy.lower_for_monitor().unwrap();
        let leaves_open = lowered.rules.iter().any(|rule| rule.flags & ASKS_OWNER != 0);
        prop_assert_eq!(leaves_open, text.contains("unit = ") || text.contains("until = "));
        let mut left_open = 0;
        // Of UDP the monitor tells nothing.
        for facts in world(false) {
            let Some(uid) = facts.uid else { continue };
            match stamp(&lowered, &facts, uid) {
                Some(stamp) => prop_assert_eq!(policy.judgement(stamp), policy.judge(&facts), "{:?}", facts),
                None => left_open += 1,
            }
        }
        prop_assert!(left_open == 0 || leaves_open);
    }
}

#[test]
fn a_listener_is_not_spared_as_if_its_peer_were_on_loopback() {
    let policy = super::policy("version = 1\n[default]\nlisten = { action = \"deny\" }\n");
    let lowered = policy.lower_for_monitor().unwrap();
    let facts = super::facts(Direction::Listen, "::", 8080);
    let stamp = stamp(&lowered, &facts, 0).unwrap();
    assert!(stamp.is_denied);
    assert_eq!(policy.judgement(stamp), policy.judge(&facts));
}
