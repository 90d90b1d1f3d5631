//! A policy as an nftables ruleset: the same rules in the same order, as far as
//! nftables can tell their conditions. What it cannot is refused or left out, but
//! never so that more is allowed.

use std::{collections::HashMap, fmt::Write as _};

use port_monitor_common::policy::{
    Accepts, Action, Direction, OwnerCondition, PortRange, Rule, Transport,
};
use thiserror::Error;

use crate::{
    base::order,
    policy::{
        Policy,
        analysis::cells::LOOPBACK,
        conditions::about,
        rules::{compile::condition::spelled, intent::Refusal},
        text::value,
    },
};
use peers::{ListPlace, Peers, Sets};

mod peers;

/// What to do about rules nftables cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inexpressible {
    /// Refuse the policy.
    Refuse,
    /// Leave them out, with a comment in their place.
    LeaveOut,
}

/// Why there is no ruleset.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NftError {
    /// A rule asks for what nftables cannot match.
    #[error(
        "line {line}: rule `{name}`: nftables cannot match {what} (--partial leaves such rules out)"
    )]
    Inexpressible {
        /// The rule's.
        name: String,
        /// Where it is.
        line: usize,
        /// The condition.
        what: &'static str,
    },
    /// The default for what listens denies.
    #[error(
        "the listen default denies, and nftables does not judge what listens (--partial leaves it out)"
    )]
    ListenDefault,
    /// UDP is judged.
    #[error(
        "rules name UDP, which the ruleset would not judge (--partial leaves UDP out, and allows it)"
    )]
    Udp,
    /// A deny rule cannot be left out.
    #[error(
        "line {line}: rule `{name}`: nftables cannot match {what}, and without the rule some of what it denies would be allowed"
    )]
    Widens {
        /// The rule's.
        name: String,
        /// Where it is.
        line: usize,
        /// The condition.
        what: &'static str,
    },
}

const HEAD: &str = "\
# Take it away again with `nft delete table inet port_monitor`.
# It denies, whatever the mode of the policy. What it denies outbound fails with
# ECONNREFUSED. `meta skuid` is the user that opened the socket. The outbound default
# denies the kernel's own connections (NFS, iSCSI) too, which a policy in force spares.
# NAT: these chains judge the addresses programs see, as the policy does. Output comes
# before redirect and DNAT, input after SNAT; at `priority filter` the same rules would
# judge what NAT made of a connection.
# Load it without `nft -o`: it merges rules and drops their comments and counters.
table inet port_monitor
delete table inet port_monitor
table inet port_monitor {
";

/// The chains: the direction that is judged, the hook, a priority on the programs' side of
/// NAT, which is at -100 (redirect, DNAT of what this host sends) and 100 (SNAT of what it
/// receives), and what is there beside the rules.
const CHAINS: [(Direction, &str, &str, &str); 2] = [
    (Direction::Inbound, "input", "110", FRAGMENTS),
    (Direction::Outbound, "output", "mangle", ""),
];

/// What does not open a TCP connection is none of the policy's business. Nothing is asked
/// of connection tracking: it would take a connection that a helper expects, or one whose
/// ports were used before, for a part of another.
const CHAIN_HEAD: &str = "\
\t\tmeta l4proto != tcp accept
\t\ttcp flags & (fin | syn | rst | ack) != syn accept
";

/// IPv6 puts fragments together only after this hook: the first one is judged, and is not
/// let in where its header ends too early for that.
const FRAGMENTS: &str = "\
\t\tfrag frag-off != 0 accept
\t\tfrag more-fragments 1 counter drop comment \"SYN in fragments\"
";

const NS_PER_S: i64 = 1_000_000_000;

impl Policy {
    /// The ruleset, as `nft -f` reads it; `now_ns` (since the Unix epoch) tells which rules
    /// have ended.
    pub fn to_nft(&self, inexpressible: Inexpressible, now_ns: i128) -> Result<String, NftError> {
        let mut peers = HashMap::new();
        for rule in &self.tables.rules {
            let list = rule.peers.of(&self.tables.peers);
            if let Some((place, list)) = list_place(rule).zip(list) {
                peers.entry(place).or_insert_with(|| Peers::of(list));
            }
        }
        let export = Export {
            policy: self,
            inexpressible,
            now_ns: value::saturating_ns(now_ns),
            peers,
        };
        export.ruleset()
    }

    fn place(&self, index: usize) -> (String, usize) {
        self.rules.get(index).map_or((String::new(), 0), |info| {
            (info.name.to_string(), info.line)
        })
    }
}

/// What packets of each family show of the peers in a network, IPv4 first.
#[cfg(test)]
pub(crate) fn of_packets(
    network: port_monitor_common::policy::Network,
) -> [Vec<crate::policy::analysis::cells::Interval>; 2] {
    Peers::of(&[port_monitor_common::policy::Peer::Network(network)]).families()
}

/// A policy on its way to nftables.
struct Export<'p> {
    policy: &'p Policy,
    inexpressible: Inexpressible,
    now_ns: i64,
    /// Of all rules that do not take any.
    peers: HashMap<ListPlace, Peers>,
}

impl Export<'_> {
    fn ruleset(&self) -> Result<String, NftError> {
        let mut sets = Sets::default();
        let listen = self.listen()?;
        let mut chains = Vec::new();
        for (direction, hook, priority, more) in CHAINS {
            let mut chain = format!(
                "\tchain {hook} {{\n\t\ttype filter hook {hook} priority {priority}; policy accept;\n\
                 {CHAIN_HEAD}{more}"
            );
            for line in self.chain(direction, &mut sets)? {
                // Writing to a string does not fail.
                _ = writeln!(chain, "\t\t{line}");
            }
            chains.push(chain + "\t}\n");
        }
        let mut text = HEAD.to_owned();
        for line in listen {
            _ = writeln!(text, "\t# {line}");
        }
        sets.write(&mut text);
        text.push_str(&chains.join("\n"));
        text.push_str("}\n");
        Ok(text)
    }

    fn rules(&self, direction: Direction) -> impl Iterator<Item = (usize, &Rule)> {
        let rules = self.policy.tables.rules.iter().enumerate();
        rules.filter(move |(_, rule)| rule.direction == direction)
    }

    fn has_ended(&self, rule: &Rule) -> bool {
        self.now_ns >= rule.until_ns
    }

    /// What is left out because nothing in nftables judges what listens.
    fn listen(&self) -> Result<Vec<String>, NftError> {
        let tables = &self.policy.tables;
        let mut lines = Vec::new();
        if tables.judges_udp {
            if self.inexpressible == Inexpressible::Refuse {
                return Err(NftError::Udp);
            }
            lines.push("left out: UDP, of which everything is allowed".to_owned());
        }
        for (index, rule) in self.rules(Direction::Listen) {
            let what = "what listens";
            if self.has_ended(rule) {
                lines.push(self.ended(index));
            } else if self.inexpressible == Inexpressible::Refuse {
                return Err(self.inexpressible(index, what));
            } else {
                lines.push(self.left_out(index, rule, what));
            }
        }
        if tables.defaults.listen.action == Action::Deny {
            if self.inexpressible == Inexpressible::Refuse {
                return Err(NftError::ListenDefault);
            }
            lines.push("left out: the listen default, deny".to_owned());
        }
        Ok(lines)
    }

    fn chain(&self, direction: Direction, sets: &mut Sets) -> Result<Vec<String>, NftError> {
        let mut lines = Vec::new();
        for (index, rule) in self.rules(direction) {
            if self.has_ended(rule) {
                lines.push(format!("# {}", self.ended(index)));
                continue;
            }
            let Some(ports) = self.ports(rule) else {
                let (name, _) = self.policy.place(index);
                lines.push(format!("# {name} matches no TCP connection"));
                continue;
            };
            match (beyond_nft(rule), self.inexpressible) {
                (None, _) => lines.extend(self.rule(index, rule, ports, sets)),
                (Some(what), Inexpressible::Refuse) => return Err(self.inexpressible(index, what)),
                (Some(what), Inexpressible::LeaveOut) => {
                    if rule.action == Action::Deny && self.guards(index, rule) {
                        let (name, line) = self.policy.place(index);
                        return Err(NftError::Widens { name, line, what });
                    }
                    lines.push(format!("# {}", self.left_out(index, rule, what)));
                }
            }
        }
        lines.extend(self.default(direction));
        Ok(lines)
    }

    fn default(&self, direction: Direction) -> Vec<String> {
        let mut lines = Vec::new();
        let default = self.policy.tables.defaults.of(direction);
        // As `status` calls them: no rule has such a name.
        let name = match direction {
            Direction::Inbound => "default inbound",
            Direction::Outbound | Direction::Listen => "default outbound",
        };
        if default.action == Action::Allow {
            lines.push(format!("counter accept comment \"{name}\""));
            return lines;
        }
        if !default.filters_loopback {
            let side = side(direction);
            for network in [format!("ip {side} 127.0.0.0/8"), format!("ip6 {side} ::1")] {
                lines.push(format!(
                    "{network} counter accept comment \"default, loopback\""
                ));
            }
        }
        let deny = self.verdict(direction, Action::Deny);
        lines.push(format!("counter {deny} comment \"{name}\""));
        lines
    }

    /// The TCP ports of the rule, those of all where it does not ask; `None` where it has
    /// none.
    fn ports(&self, rule: &Rule) -> Option<Ports> {
        let is_tcp = |ports: &&PortRange| Transport::of(ports.first).0 == Transport::Tcp;
        match rule.ports.of(&self.policy.tables.ports) {
            None => Some(Ports::Any),
            Some(ports) => {
                let ports = value::joined(ports.iter().filter(is_tcp).copied().collect());
                (!ports.is_empty()).then_some(Ports::OneOf(ports))
            }
        }
    }

    /// One rule; several where its peers are of several kinds.
    fn rule(&self, index: usize, rule: &Rule, ports: Ports, sets: &mut Sets) -> Vec<String> {
        let (name, _) = self.policy.place(index);
        let ports = match ports {
            Ports::Any => None,
            Ports::OneOf(ranges) => {
                Some(format!("tcp dport {}", set(ranges.into_iter().map(range))))
            }
        };
        let uids = self.uids(rule);
        let uids = uids.map(|uids| {
            let uids = order::set(uids.iter().copied());
            format!("meta skuid {}", set(uids.iter().map(u32::to_string)))
        });
        let until = (rule.until_ns < i64::MAX).then(|| {
            let whole = rule.until_ns.div_euclid(NS_PER_S);
            // nftables counts seconds: an allow ends with the last whole one.
            let begun = i64::from(rule.until_ns.rem_euclid(NS_PER_S) > 0);
            let end = match rule.action {
                Action::Allow => whole,
                Action::Deny => whole.saturating_add(begun),
            };
            format!("meta time < {end}")
        });
        let verdict = self.verdict(rule.direction, rule.action);
        let peers = self.peers(rule).map_or_else(
            || vec![None],
            |(place, peers)| sets.conditions(place, peers, side(rule.direction)),
        );
        if peers.is_empty() {
            return vec![format!("# {name} matches no peer")];
        }
        let rules = peers.into_iter().map(|peer| {
            let conditions = [ports.clone(), peer, uids.clone(), until.clone()];
            let words = conditions
                .into_iter()
                .flatten()
                .chain([format!("counter {verdict} comment \"{name}\"")]);
            words.collect::<Vec<_>>().join(" ")
        });
        rules.collect()
    }

    /// The peers of a rule, and where they are; `None` is any.
    fn peers(&self, rule: &Rule) -> Option<(ListPlace, &Peers)> {
        let place = list_place(rule)?;
        self.peers.get(&place).map(|peers| (place, peers))
    }

    const fn verdict(&self, direction: Direction, action: Action) -> &'static str {
        match (action, direction, self.policy.intent.inbound) {
            (Action::Allow, ..) => "accept",
            (Action::Deny, Direction::Inbound, Refusal::Drop) => "drop",
            (Action::Deny, ..) => "reject with tcp reset",
        }
    }

    /// Without this deny rule, something may be allowed.
    fn guards(&self, index: usize, rule: &Rule) -> bool {
        let default = self.policy.tables.defaults.of(rule.direction);
        let peers = |rule: &Rule| self.peers(rule).map(|(_, peers)| peers);
        let spares_loopback =
            !default.filters_loopback && peers(rule).is_none_or(|peers| peers.touches(&LOOPBACK));
        let mut later = self.rules(rule.direction).filter(|&(at, _)| at > index);
        default.action == Action::Allow
            || spares_loopback
            || later.any(|(_, later)| {
                let peers_meet = match (peers(rule), peers(later)) {
                    (Some(peers), Some(later)) => peers.meet(later),
                    _ => true,
                };
                later.action == Action::Allow
                    && !self.has_ended(later)
                    && self.ports_and_users_meet(rule, later)
                    && peers_meet
            })
    }

    fn ports_and_users_meet(&self, rule: &Rule, other: &Rule) -> bool {
        let ports_meet = match (self.ports(rule), self.ports(other)) {
            (Some(Ports::OneOf(ports)), Some(Ports::OneOf(others))) => {
                let meet = |a: &PortRange, b: &PortRange| a.first <= b.last && b.first <= a.last;
                ports.iter().any(|a| others.iter().any(|b| meet(a, b)))
            }
            (Some(_), Some(_)) => true,
            (None, _) | (_, None) => false,
        };
        let users_meet = match (self.uids(rule), self.uids(other)) {
            (Some(uids), Some(others)) => {
                let uids = order::set(uids.iter());
                others.iter().any(|uid| uids.contains(uid))
            }
            _ => true,
        };
        ports_meet && users_meet
    }

    /// The users of a rule; `None` for any.
    fn uids(&self, rule: &Rule) -> Option<&[u32]> {
        let users = rule.owner(OwnerCondition::User);
        users.of(&self.policy.tables.owners)
    }

    fn inexpressible(&self, index: usize, what: &'static str) -> NftError {
        let (name, line) = self.policy.place(index);
        NftError::Inexpressible { name, line, what }
    }

    fn left_out(&self, index: usize, rule: &Rule, what: &str) -> String {
        let (name, line) = self.policy.place(index);
        let action = match rule.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let direction = spelled(rule.direction);
        format!(
            "left out: {name} (line {line}), {action} {direction}: nftables cannot match {what}"
        )
    }

    /// What is said of a rule whose `until` has passed.
    fn ended(&self, index: usize) -> String {
        let (name, line) = self.policy.place(index);
        format!("left out: {name} (line {line}) has ended")
    }
}

const fn list_place(rule: &Rule) -> Option<ListPlace> {
    match rule.peers {
        Accepts::Any => None,
        Accepts::OneOf { start, len } => Some((start, len)),
    }
}

/// The TCP ports of a rule.
enum Ports {
    Any,
    OneOf(Vec<PortRange>),
}

/// The condition of the rule that nftables cannot match.
fn beyond_nft(rule: &Rule) -> Option<&'static str> {
    // The user is what can be matched, of what this host sends.
    let mut asked = OwnerCondition::scopes().chain([OwnerCondition::User]);
    let beyond = asked.find(|&condition| {
        let is_user = condition == OwnerCondition::User;
        rule.asks([condition]) && !(is_user && rule.direction != Direction::Inbound)
    });
    beyond.map(|condition| about(condition).beyond_nft)
}

/// The address of the peer, as nftables calls it.
const fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound | Direction::Listen => "saddr",
        Direction::Outbound => "daddr",
    }
}

fn range(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

/// One value, or the set of several, all of them different.
fn set(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    match &values[..] {
        [value] => value.clone(),
        values => format!("{{ {} }}", values.join(", ")),
    }
}
