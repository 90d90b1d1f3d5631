//! What the kernel side of the monitor decides, by the tables it is given, against the
//! policy itself.

use port_monitor_common::{
    addr::{self, is_loopback, to_words},
    generation::{ASKS_OWNER, ASKS_USER, DENIES, FILTERS_LOOPBACK, RULES},
    mask::{Accepting, Mask},
    pages,
    policy::{Action, Decision, DefaultAction, Direction, canonical},
};
use proptest::prelude::*;

use super::{
    super::{lower::Lowered, value},
    Facts,
    oracle::{naive, world},
};
use crate::event::Stamp;

/// The verdict as `port-monitor-ebpf/src/verdict.rs` finds it: `None` where it leaves
/// that to userspace.
fn stamp(lowered: &Lowered, facts: &Facts<'_>, uid: u32) -> Option<Stamp> {
    let header = &lowered.header;
    let direction = facts.direction as usize;
    let mask = |number: u32| &lowered.masks[number as usize];
    let port = lowered.ports[usize::from(facts.service_port / 4)];
    let port = port >> (facts.service_port % 4 * 16) & 0xffff;
    let peer = to_words(canonical(value::octets(facts.peer)));
    let [a, b, c, d] = peer.map(|word| u64::from(u32::from_be(word)));
    let (v4, v6) = (&lowered.networks.v4, &lowered.networks.v6);
    let network = if addr::is_mapped(&peer) {
        pages::find(|n| v4.get(n as usize), u32::try_from(d).unwrap())
    } else {
        pages::find(|n| v6.get(n as usize), [a << 32 | b, c << 32 | d])
    };
    let user = lowered.users.iter().find(|(named, _)| *named == uid);
    let user = user.filter(|_| header.asks & ASKS_USER != 0);
    let is_self = facts.peer_is_self || is_loopback(&peer);
    let accepting = Accepting {
        direction: mask(
            u32::try_from(lowered.ends.endless() >> (16 * direction) & 0xffff).unwrap(),
        ),
        port: mask(u32::try_from(port).unwrap()),
        network: mask(network.unwrap_or(header.other_network)),
        this_host: if is_self {
            mask(header.this_host)
        } else {
            &Mask::NONE
        },
        user: mask(user.map_or(header.other_user, |(_, mask)| *mask)),
        group: mask(header.every),
        exe: mask(header.every),
    };
    let Some(rule) = accepting.first() else {
        let default = header.defaults[direction];
        let default = DefaultAction {
            action: if default & DENIES == 0 {
                Action::Allow
            } else {
                Action::Deny
            },
            filters_loopback: default & FILTERS_LOOPBACK != 0,
        };
        let is_kernel = || facts.is_kernel;
        let loopback = is_loopback(&peer);
        let decision = Decision::of(None, facts.direction, default, loopback, is_kernel);
        return Some(Stamp {
            is_denied: decision.action == Action::Deny,
            rule: u16::try_from(RULES).unwrap() + u16::from(facts.direction as u8),
        });
    };
    let flags = lowered.rules[rule].flags;
    (flags & ASKS_OWNER == 0).then(|| Stamp {
        is_denied: flags & DENIES != 0,
        rule: u16::try_from(rule).unwrap(),
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
