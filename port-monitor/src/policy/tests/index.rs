//! The masks against the rules one by one, over random policies and connections.

use port_monitor_common::{
    addr::v4_mapped,
    policy::{
        Action, DefaultAction, Defaults, Direction, Facts, MAX_RULES, Network, OwnerCondition,
        Peer, PortRange, Rule, Transport,
    },
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};

use super::super::{
    rules::table::{Tables, append},
    tables::index::Index,
};

/// Connections judged altogether, at least.
const CONNECTIONS: usize = 1_000_000;
/// Connections of each policy.
const EACH: usize = 4_000;

/// The first of the numbers that the condition's scopes have here.
const fn first(condition: OwnerCondition) -> u8 {
    10 * condition as u8
}

/// Few values of everything, so that rules and connections meet.
struct World(TestRng);

impl World {
    fn number(&mut self, below: u8) -> u8 {
        let [byte, ..] = self.0.next_u32().to_le_bytes();
        byte % below
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::from(self.number(u8::try_from(values.len()).unwrap()))]
    }

    /// Absent, or a list of up to three.
    fn list<T>(&mut self, mut value: impl FnMut(&mut Self) -> T) -> Option<Vec<T>> {
        let length = self.number(4);
        (self.number(3) != 0).then(|| (0..length).map(|_| value(self)).collect())
    }

    fn direction(&mut self) -> Direction {
        self.one_of(&Direction::ALL)
    }

    /// Mostly near the edges of each other's ranges.
    fn port(&mut self) -> u32 {
        let transport = self.one_of(&Transport::ALL);
        transport.port(self.port_of_one())
    }

    fn port_of_one(&mut self) -> u16 {
        match self.number(8) {
            0 => u16::from_le_bytes([self.number(255), self.number(255)]),
            1 => self.one_of(&[0, 1, 1023, 1024, 49151, 49152, 65534, 65535]),
            _ => 1_000 + u16::from(self.number(40)),
        }
    }

    fn range(&mut self) -> PortRange {
        let (one, other) = (self.port(), self.port());
        PortRange {
            first: one.min(other),
            last: if self.number(2) == 0 {
                one.min(other)
            } else {
                one.max(other)
            },
        }
    }

    fn address(&mut self) -> [u8; 16] {
        let low = self.one_of(&[0_u8, 1, 127, 128, 255]);
        match self.number(6) {
            0 => [0; 16],
            1 => 1_u128.to_be_bytes(),
            2 => v4_mapped([127, 0, 0, low]),
            3 | 4 => v4_mapped([10, self.one_of(&[0, 1, 128]), low, self.one_of(&[0, 1])]),
            _ => {
                let mut address = [0; 16];
                address[..2].copy_from_slice(&[0x20, self.one_of(&[1, 2])]);
                address[15] = low;
                address
            }
        }
    }

    fn peer(&mut self) -> Peer {
        if self.number(6) == 0 {
            return Peer::ThisHost;
        }
        let prefix_len = match self.number(4) {
            0 => self.number(129),
            1 => 128,
            2 => 96,
            _ => self.one_of(&[0, 8, 95, 97, 104, 112, 119, 120, 121, 127]),
        };
        Peer::Network(Network::new(self.address(), prefix_len).unwrap())
    }

    fn time(&mut self) -> i64 {
        i64::from(self.number(8))
    }

    fn rule(&mut self, tables: &mut Tables) -> Rule {
        let ports = self.list(Self::range);
        let peers = self.list(Self::peer);
        let uids = self.list(|world| world.number(4).into());
        let uids = uids.filter(|_| self.number(2) == 0);
        let owners = OwnerCondition::ALL.map(|condition| {
            if condition == OwnerCondition::User {
                return uids.clone();
            }
            // Most rules do not ask.
            let scopes = self.list(|world| u32::from(first(condition) + world.number(3)));
            scopes.filter(|_| self.number(3) == 0)
        });
        Rule {
            direction: self.direction(),
            action: self.one_of(&[Action::Allow, Action::Deny]),
            ports: append(&mut tables.ports, ports),
            peers: append(&mut tables.peers, peers),
            owners: owners.map(|entries| append(&mut tables.owners, entries)),
            until_ns: if self.number(4) == 0 {
                self.time()
            } else {
                i64::MAX
            },
        }
    }

    fn policy(&mut self, rules: usize) -> Tables {
        let [inbound, outbound, listen] = [(); 3].map(|()| DefaultAction {
            action: self.one_of(&[Action::Allow, Action::Deny]),
            filters_loopback: self.number(2) == 0,
        });
        let mut tables = Tables {
            defaults: Defaults {
                inbound,
                outbound,
                listen,
            },
            judges_udp: true,
            rules: Vec::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            owners: Vec::new(),
        };
        for _ in 0..rules {
            let rule = self.rule(&mut tables);
            tables.rules.push(rule);
        }
        tables
    }

    fn facts<'s>(&mut self, scopes: &'s mut Vec<u32>) -> Facts<'s> {
        scopes.clear();
        for condition in OwnerCondition::scopes() {
            let count = self.number(3);
            scopes.extend((0..count).map(|_| u32::from(first(condition) + self.number(4))));
        }
        Facts {
            direction: self.direction(),
            service_port: self.port(),
            peer: self.address(),
            peer_is_self: self.number(3) == 0,
            uid: (self.number(3) != 0).then(|| self.number(5).into()),
            scopes,
            is_kernel: self.number(4) == 0,
            now_ns: self.time(),
        }
    }
}

#[test]
fn masks_decide_as_the_rules_do_one_by_one() {
    let mut world = World(TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let sizes = [0, 1, 2, 3, 5, 8, 20, 63, 64, 65, 200, MAX_RULES];
    let mut scopes = Vec::new();
    let mut judged = 0;
    let mut decided_by_rule = 0;
    for size in sizes.into_iter().cycle() {
        let tables = world.policy(size);
        let rules = tables.view();
        let index = Index::of(&rules);
        for _ in 0..EACH {
            let facts = world.facts(&mut scopes);
            let first = index.first(&facts);
            let expected = rules.decide(&facts);
            assert_eq!(
                rules.decision(first, &facts),
                expected,
                "{facts:?} {rules:?}"
            );
            decided_by_rule += usize::from(first.is_some());
        }
        judged += EACH;
        if judged >= CONNECTIONS {
            break;
        }
    }
    // Neither always a rule nor always the default.
    assert!(
        (CONNECTIONS / 4..CONNECTIONS * 9 / 10).contains(&decided_by_rule),
        "{decided_by_rule}"
    );
}
