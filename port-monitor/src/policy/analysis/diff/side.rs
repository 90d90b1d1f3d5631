//! A policy as rules all the way down.

use std::collections::HashMap;

use port_monitor_common::{
    addr::v4_mapped,
    policy::{
        Accepts, Action, DefaultAction, Direction, Network, OwnerCondition, Peer, Rule, Transport,
    },
};

use crate::policy::{
    Policy, Reason,
    rules::table::{Scopes, Tables, append},
};

/// One policy: its rules and its defaults, in order.
pub(crate) struct Side {
    pub(crate) rules: Vec<Entry>,
}

/// A rule, or a part of a default.
pub(crate) struct Entry {
    pub(crate) rule: Rule,
    /// What it is.
    pub(crate) by: Reason,
    /// What it says of the kernel itself: only about that, or about anybody else.
    pub(crate) kernel: Option<bool>,
    /// A number it shares with those of either policy that match as it does, but for the time.
    pub(crate) alike: usize,
}

impl Entry {
    const fn new(rule: Rule, by: Reason) -> Self {
        Self {
            rule,
            by,
            kernel: None,
            alike: 0,
        }
    }
}

impl Side {
    /// Copies the rules of `policy`, with what they point to.
    pub(crate) fn adopt(policy: &Policy, tables: &mut Tables, scopes: &mut Scopes) -> Self {
        let mut rules = Vec::new();
        if tables.judges_udp && !policy.tables.judges_udp {
            // What the other policy alone judges, this one lets go.
            let udp = append(&mut tables.ports, Some(vec![Transport::Udp.ports()]));
            let unjudged = Rule {
                ports: udp,
                ..Rule::any(Direction::Outbound, Action::Allow)
            };
            rules.push(Entry::new(unjudged, Reason::Unjudged));
        }
        let peers_before = u32::try_from(tables.peers.len()).unwrap_or(u32::MAX);
        tables.peers.extend(&policy.tables.peers);
        for (index, rule) in policy.tables.rules.iter().enumerate() {
            if let Some(reference) = policy.rule_ref(index) {
                let rule = adopted(rule, policy, tables, scopes);
                let peers = moved(rule.peers, peers_before);
                let rule = Rule { peers, ..rule };
                rules.push(Entry::new(rule, Reason::Rule(reference)));
            }
        }
        for direction in Direction::ALL {
            rules.extend(default_rules(
                direction,
                policy.tables.defaults.of(direction),
                tables,
            ));
        }
        Self { rules }
    }

    /// The rules of `direction` that can match at `now_ns`.
    pub(crate) fn live(&self, direction: Direction, now_ns: i64) -> Vec<&Entry> {
        let is_live = |rule: &Rule| rule.direction == direction && now_ns < rule.until_ns;
        let rules = self.rules.iter();
        rules.filter(|entry| is_live(&entry.rule)).collect()
    }
}

/// Numbers the rules by what they match.
pub(crate) fn number_alike(sides: &mut [Side; 2], tables: &Tables) {
    // Rules share long lists of networks, which are read once.
    let mut places: HashMap<(u32, u32), usize> = HashMap::new();
    let mut lists: HashMap<&[Peer], usize> = HashMap::new();
    let mut numbers = HashMap::new();
    for entry in sides.iter_mut().flat_map(|side| &mut side.rules) {
        let rule = &entry.rule;
        let peers = match rule.peers {
            Accepts::Any => None,
            Accepts::OneOf { start, len } => {
                Some(*places.entry((start, len)).or_insert_with(|| {
                    let list = rule.peers.of(&tables.peers).unwrap_or_default();
                    let new = lists.len();
                    *lists.entry(list).or_insert(new)
                }))
            }
        };
        let what = (
            rule.direction as u8,
            rule.ports.of(&tables.ports),
            peers,
            rule.owners.map(|accepts| accepts.of(&tables.owners)),
        );
        let new = numbers.len();
        entry.alike = *numbers.entry(what).or_insert(new);
    }
}

/// The part of a list that now begins after others.
const fn moved(accepts: Accepts, before: u32) -> Accepts {
    match accepts {
        Accepts::Any => Accepts::Any,
        Accepts::OneOf { start, len } => Accepts::OneOf {
            start: start.saturating_add(before),
            len,
        },
    }
}

/// The rule, with copies of what it points to but for its peers.
fn adopted(rule: &Rule, policy: &Policy, tables: &mut Tables, scopes: &mut Scopes) -> Rule {
    let from = &policy.tables;
    let owners = OwnerCondition::ALL.map(|condition| {
        let entries = rule.owner(condition).of(&from.owners)?.iter();
        let adopted = entries.filter_map(|&entry| scopes.adopt(&policy.scopes, condition, entry));
        Some(adopted.collect())
    });
    Rule {
        ports: append(
            &mut tables.ports,
            rule.ports.of(&from.ports).map(<[_]>::to_vec),
        ),
        owners: owners.map(|entries| append(&mut tables.owners, entries)),
        ..*rule
    }
}

/// The default of a direction as rules that come last.
fn default_rules(direction: Direction, default: DefaultAction, tables: &mut Tables) -> Vec<Entry> {
    let by = Reason::Default(default.action);
    let mut default_entry = Entry::new(Rule::any(direction, default.action), by);
    if default.action == Action::Allow {
        return vec![default_entry];
    }
    let any = Rule::any(direction, Action::Allow);
    let mut entries = Vec::new();
    // What listens has no peer that could be on loopback.
    if !default.filters_loopback && direction != Direction::Listen {
        let networks = [
            Network::new(v4_mapped([127, 0, 0, 0]), 96 + 8),
            Network::new(1_u128.to_be_bytes(), 128),
        ];
        let peers = networks.into_iter().flatten().map(Peer::Network);
        let for_loopback = Rule {
            peers: append(&mut tables.peers, Some(peers.collect())),
            ..any
        };
        entries.push(Entry::new(for_loopback, Reason::Loopback));
    }
    // What comes in, the kernel does not send.
    if direction != Direction::Inbound {
        default_entry.kernel = Some(false);
        entries.push(Entry {
            kernel: Some(true),
            ..Entry::new(any, Reason::Kernel)
        });
    }
    entries.push(default_entry);
    entries
}
