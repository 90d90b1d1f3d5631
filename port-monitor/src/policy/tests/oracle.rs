//! The compiled decision and the shadow analysis against naive ones, over
//! random policies and every connection of a small world.

use std::{collections::BTreeMap, net::IpAddr};

use port_monitor_common::policy::{Direction, Transport, Verdict};
use proptest::prelude::*;

use super::{Facts, facts, parse, rule};
use crate::policy::text::problem::Problem;

/// A rule in the words of the policy, and what the words mean.
#[derive(Clone, Debug)]
pub(super) struct Naive {
    direction: Direction,
    allows: bool,
    protos: Option<&'static [&'static str]>,
    ports: Option<&'static [(u16, u16)]>,
    peers: Option<&'static [&'static str]>,
    users: Option<&'static [u32]>,
    units: Option<&'static [&'static str]>,
}

const PROTOS: [&[&str]; 3] = [&["tcp"], &["udp"], &["tcp", "udp"]];
const PORTS: [&[(u16, u16)]; 7] = [
    &[(2, 2)],
    &[(1, 2)],
    &[(2, 4)],
    &[(1, 1), (3, 3)],
    &[(3, 5)],
    &[(1, 65535)],
    &[(5, 65535)],
];
const PEERS: [&[&str]; 8] = [
    &["10.0.0.0/8"],
    &["10.0.0.0/9"],
    &["10.128.0.0/9", "::/0"],
    &["0.0.0.0/0"],
    &["::/0"],
    &["self"],
    &["127.0.0.0/8", "::1"],
    &["10.0.0.1", "self"],
];
const USERS: [&[u32]; 3] = [&[0], &[1000], &[0, 1000]];
const UNITS: [&[&str]; 3] = [
    &["app.service"],
    &["web.service"],
    &["app.service", "web.service"],
];
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.128.0.1",
    "11.0.0.1",
    "127.0.0.1",
    "::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
];

pub(super) fn naive() -> impl Strategy<Value = Naive> {
    use proptest::{option::of, sample::select};
    (
        select(&[Direction::Inbound, Direction::Outbound][..]),
        any::<bool>(),
        // Rules that name UDP inbound have no effect.
        prop_oneof![6 => Just(None), 1 => select(&PROTOS[..]).prop_map(Some)],
        of(select(&PORTS[..])),
        of(select(&PEERS[..])),
        of(select(&USERS[..])),
        of(select(&UNITS[..])),
    )
        .prop_map(
            |(direction, allows, protos, ports, peers, users, units)| Naive {
                direction,
                allows,
                protos: protos.filter(|_| direction == Direction::Outbound),
                ports,
                peers,
                users,
                units,
            },
        )
}

impl Naive {
    pub(super) fn text(&self, index: usize) -> String {
        let (direction, peer) = match self.direction {
            Direction::Inbound => ("in", "from"),
            _ => ("out", "to"),
        };
        let protos = self.protos.map(|protos| format!("proto = {protos:?}\n"));
        let ports = self.ports.map(|ports| {
            let ports: Vec<_> = ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
            format!("port = {ports:?}\n")
        });
        let conditions = [
            protos,
            ports,
            self.peers.map(|peers| format!("{peer} = {peers:?}\n")),
            self.users.map(|users| format!("user = {users:?}\n")),
            self.units.map(|units| format!("unit = {units:?}\n")),
        ];
        let conditions: String = conditions.into_iter().flatten().collect();
        let action = if self.allows { "allow" } else { "deny" };
        rule(&format!("r{index}"), direction, action, &conditions)
    }

    fn names_udp(&self) -> bool {
        self.protos.is_some_and(|protos| protos.contains(&"udp"))
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        let peer = facts.peer.to_canonical();
        let is_self = facts.peer_is_self || peer.is_loopback();
        let port = facts.service_port;
        facts.direction == self.direction
            && self
                .protos
                .is_none_or(|protos| protos.contains(&facts.transport.name()))
            && self
                .ports
                .is_none_or(|ports| ports.iter().any(|&(a, b)| a <= port && port <= b))
            && self.peers.is_none_or(|peers| {
                peers.iter().any(|&text| match text {
                    "self" => is_self,
                    text => match text.parse::<ipnet::IpNet>() {
                        Ok(net) => net.contains(&peer),
                        Err(_) => text.parse::<IpAddr>() == Ok(peer),
                    },
                })
            })
            && self
                .users
                .is_none_or(|users| facts.uid.is_some_and(|uid| users.contains(&uid)))
            && self
                .units
                .is_none_or(|units| facts.unit.is_some_and(|unit| units.contains(&unit)))
    }
}

/// Every connection of the world in which the rules above differ.
pub(super) fn world(with_udp: bool) -> Vec<Facts<'static>> {
    let mut world = world_of_tcp();
    if with_udp {
        let udp = world_of_tcp().into_iter().map(|facts| Facts {
            transport: Transport::Udp,
            ..facts
        });
        world.extend(udp.filter(|facts| facts.direction == Direction::Outbound));
    }
    world
}

fn world_of_tcp() -> Vec<Facts<'static>> {
    let mut world = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        for (port, address) in [0, 1, 2, 3, 4, 5, 6]
            .into_iter()
            .flat_map(|port| ADDRESSES.map(|address| (port, address)))
        {
            for (peer_is_self, uid) in [false, true]
                .into_iter()
                .flat_map(|own| [None, Some(0), Some(1000), Some(7)].map(|uid| (own, uid)))
            {
                for unit in [None, Some("app.service"), Some("web.service")] {
                    world.push(Facts {
                        peer_is_self,
                        uid,
                        unit,
                        cgroup: None,
                        ..facts(direction, address, port)
                    });
                }
            }
        }
    }
    world
}

/// A rule and its number.
type Numbered<'a> = (usize, &'a Naive);

fn deciding<'a>(rules: &[Numbered<'a>], facts: &Facts<'_>) -> Option<Numbered<'a>> {
    let mut rules = rules.iter().copied();
    rules.find(|(_, rule)| rule.matches(facts))
}

fn world_of(rules: &[Numbered<'_>]) -> Vec<Facts<'static>> {
    world(rules.iter().any(|(_, rule)| rule.names_udp()))
}

/// Those that decide something where there are no others.
fn that_decide<'a>(rules: &[Numbered<'a>]) -> Vec<Numbered<'a>> {
    let world = world_of(rules);
    let deciding = world.iter().filter_map(|facts| deciding(rules, facts));
    let deciding: BTreeMap<_, _> = deciding.collect();
    deciding.into_iter().collect()
}

fn text(rules: &[Numbered<'_>]) -> String {
    let texts = rules.iter().map(|(index, rule)| rule.text(*index));
    texts.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn compiled_policy_agrees_with_the_naive_one(rules in prop::collection::vec(naive(), 0..8)) {
        let mut rules: Vec<_> = rules.iter().enumerate().collect();
        let mut kept = that_decide(&rules);

        // Exactly the rules that decide nothing in the world are refused.
        if let Err(invalid) = parse(&format!("version = 1\n{}", text(&rules))) {
            let shadowed = invalid.diagnostics.iter().filter_map(|diagnostic| match &diagnostic.problem {
                Problem::Shadowed { name, .. } => Some(name.clone()),
                _ => None,
            });
            let refused = rules.iter().filter(|(index, _)| !kept.iter().any(|(other, _)| other == index));
            prop_assert_eq!(
                shadowed.collect::<Vec<_>>(),
                refused.map(|(index, _)| format!("r{index}")).collect::<Vec<_>>()
            );
        } else {
            prop_assert_eq!(kept.len(), rules.len());
        }

        // Without them, which changes no verdict, every verdict agrees. Where none of those that
        // are left names UDP, it is judged no more, and others may decide nothing.
        while kept.len() < rules.len() {
            rules = kept;
            kept = that_decide(&rules);
        }
        let policy = super::policy(&format!(
            "version = 1\n[default]\ninbound = {{ action = \"deny\" }}\n{}",
            text(&rules)
        ));
        for facts in &world_of(&rules) {
            prop_assert!(policy.judges(facts.direction, facts.transport));
            let judgement = policy.judge(facts);
            let deciding = deciding(&rules, facts);
            let allows = match deciding {
                Some((_, rule)) => rule.allows,
                None => facts.direction == Direction::Outbound || facts.peer.to_canonical().is_loopback(),
            };
            let name = deciding.map(|(index, _)| format!("r{index}"));
            prop_assert_eq!(judgement.rule.as_deref(), name.as_deref());
            prop_assert_eq!(judgement.verdict == Verdict::Allow, allows);
        }
    }
}
