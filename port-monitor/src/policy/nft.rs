//! A policy as an nftables ruleset: the same rules in the same order, as far as
//! nftables can tell their conditions. What it cannot is refused or left out, but
//! never so that more is allowed.

use std::fmt::Write as _;

use ipnet::IpNet;
use port_monitor_common::{
    addr::v4_mapped,
    policy::{Accepts, Action, Direction, Network, Peer, PortRange, Rule, Transport, is_loopback},
};
use thiserror::Error;

use super::{Policy, condition::spelled, intent::Refusal, overlap, value};

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
# ECONNREFUSED. `meta skuid` is the user that opened the socket.
table inet port_monitor
delete table inet port_monitor
table inet port_monitor {
";

/// What does not open a TCP connection is none of the policy's business.
const CHAIN_HEAD: &str = "\
\t\tmeta l4proto != tcp accept
\t\tct state established,related accept
\t\ttcp flags & (fin | syn | rst | ack) != syn accept
";

impl Policy {
    /// The ruleset, as `nft -f` reads it.
    pub fn to_nft(&self, inexpressible: Inexpressible) -> Result<String, NftError> {
        let mut text = HEAD.to_owned();
        for line in self.nft_listen(inexpressible)? {
            text.push_str("\t# ");
            text.push_str(&line);
            text.push('\n');
        }
        for (index, (direction, name)) in [
            (Direction::Inbound, "input"),
            (Direction::Outbound, "output"),
        ]
        .into_iter()
        .enumerate()
        {
            if index > 0 {
                text.push('\n');
            }
            // Writing to a string does not fail.
            _ = writeln!(
                text,
                "\tchain {name} {{\n\t\ttype filter hook {name} priority filter; policy accept;"
            );
            text.push_str(CHAIN_HEAD);
            for line in self.nft_chain(direction, inexpressible)? {
                text.push_str("\t\t");
                text.push_str(&line);
                text.push('\n');
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        Ok(text)
    }

    /// What is left out because nothing in nftables judges what listens.
    fn nft_listen(&self, inexpressible: Inexpressible) -> Result<Vec<String>, NftError> {
        let mut lines = Vec::new();
        if self.tables.judges_udp {
            if inexpressible == Inexpressible::Refuse {
                return Err(NftError::Udp);
            }
            lines.push("left out: UDP, of which everything is allowed".to_owned());
        }
        for (index, rule) in self.tables.rules.iter().enumerate() {
            if rule.direction == Direction::Listen {
                let what = "what listens";
                if inexpressible == Inexpressible::Refuse {
                    return Err(self.inexpressible(index, what));
                }
                lines.push(self.left_out(index, what));
            }
        }
        if self.tables.defaults.listen.action == Action::Deny {
            if inexpressible == Inexpressible::Refuse {
                return Err(NftError::ListenDefault);
            }
            lines.push("left out: the listen default, deny".to_owned());
        }
        Ok(lines)
    }

    fn nft_chain(
        &self,
        direction: Direction,
        inexpressible: Inexpressible,
    ) -> Result<Vec<String>, NftError> {
        let mut lines = Vec::new();
        for (index, rule) in self.tables.rules.iter().enumerate() {
            if rule.direction != direction {
                continue;
            }
            match (beyond_nft(rule), inexpressible) {
                (None, _) => lines.extend(self.nft_rule(index, rule)),
                (Some(what), Inexpressible::Refuse) => return Err(self.inexpressible(index, what)),
                (Some(what), Inexpressible::LeaveOut) => {
                    if rule.action == Action::Deny && self.guards(index, rule) {
                        let (name, line) = self.place(index);
                        return Err(NftError::Widens { name, line, what });
                    }
                    lines.push(format!("# {}", self.left_out(index, what)));
                }
            }
        }
        let default = self.tables.defaults.of(direction);
        let deny = self.nft_verdict(direction, Action::Deny);
        if default.action == Action::Allow {
            lines.push("counter accept comment \"default\"".to_owned());
            return Ok(lines);
        }
        if !default.filters_loopback {
            let side = side(direction);
            for network in [format!("ip {side} 127.0.0.0/8"), format!("ip6 {side} ::1")] {
                lines.push(format!(
                    "{network} counter accept comment \"default: loopback\""
                ));
            }
        }
        lines.push(format!("counter {deny} comment \"default\""));
        Ok(lines)
    }

    /// One rule; several where its peers are of several kinds.
    fn nft_rule(&self, index: usize, rule: &Rule) -> Vec<String> {
        let (name, _) = self.place(index);
        let is_tcp = |ports: &&PortRange| Transport::of(ports.first).0 == Transport::Tcp;
        let ports = rule.ports.of(&self.tables.ports);
        if ports.is_some_and(|ports| !ports.iter().any(|range| is_tcp(&range))) {
            return vec![format!("# {name} matches no TCP connection")];
        }
        let ports = ports.map(|ports| {
            let ranges = ports.iter().filter(is_tcp).copied().map(range);
            format!("tcp dport {}", set(ranges))
        });
        let uids = rule.uids.of(&self.tables.uids);
        let uids = uids.map(|uids| format!("meta skuid {}", set(uids.iter().map(u32::to_string))));
        let until = (rule.until_ns < i64::MAX).then(|| {
            let second = 1_000_000_000;
            let whole = rule.until_ns.div_euclid(second);
            // nftables counts seconds: an allow ends with the last whole one.
            let begun = i64::from(rule.until_ns.rem_euclid(second) > 0);
            let end = match rule.action {
                Action::Allow => whole,
                Action::Deny => whole.saturating_add(begun),
            };
            format!("meta time < {end}")
        });
        let verdict = self.nft_verdict(rule.direction, rule.action);
        let peers = match rule.peers.of(&self.tables.peers) {
            None => vec![None],
            Some(peers) => kinds(side(rule.direction), peers)
                .into_iter()
                .map(Some)
                .collect(),
        };
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

    const fn nft_verdict(&self, direction: Direction, action: Action) -> &'static str {
        match (action, direction, self.intent.inbound) {
            (Action::Allow, ..) => "accept",
            (Action::Deny, Direction::Inbound, Refusal::Drop) => "drop",
            (Action::Deny, ..) => "reject with tcp reset",
        }
    }

    /// Without this deny rule, something may be allowed.
    fn guards(&self, index: usize, rule: &Rule) -> bool {
        let default = self.tables.defaults.of(rule.direction);
        let rules = self.tables.view();
        let mut later = rules.rules.iter().skip(index + 1);
        let peers = rule.peers.of(rules.peers);
        let is_allowed = |later: &Rule| {
            later.direction == rule.direction
                && later.action == Action::Allow
                && overlap::meet(rule, later, &rules)
        };
        default.action == Action::Allow
            || (!default.filters_loopback
                && peers.is_none_or(|peers| peers.iter().any(on_loopback)))
            || later.any(is_allowed)
    }

    fn place(&self, index: usize) -> (String, usize) {
        self.rules.get(index).map_or((String::new(), 0), |info| {
            (info.name.to_string(), info.line)
        })
    }

    fn inexpressible(&self, index: usize, what: &'static str) -> NftError {
        let (name, line) = self.place(index);
        NftError::Inexpressible { name, line, what }
    }

    fn left_out(&self, index: usize, what: &str) -> String {
        let (name, line) = self.place(index);
        let rule = self.tables.rules.get(index);
        let action = rule.map_or("", |rule| match rule.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        });
        let direction = rule.map_or("", |rule| spelled(rule.direction));
        format!(
            "left out: {name} (line {line}), {action} {direction}: nftables cannot match {what}"
        )
    }
}

/// The condition of the rule that nftables cannot match.
fn beyond_nft(rule: &Rule) -> Option<&'static str> {
    let asks = |accepts: Accepts| accepts != Accepts::Any;
    if asks(rule.units) {
        Some("a systemd unit")
    } else if asks(rule.cgroups) {
        // It takes the path for the cgroup that has it when the ruleset is loaded.
        Some("a cgroup by its path")
    } else if asks(rule.exes) {
        Some("an executable")
    } else if asks(rule.uids) && rule.direction == Direction::Inbound {
        Some("the user of an inbound connection")
    } else {
        None
    }
}

/// Some address of the peer is of loopback.
fn on_loopback(peer: &Peer) -> bool {
    let v4 = v4_mapped([127, 0, 0, 1]);
    match peer {
        Peer::ThisHost => true,
        Peer::Network(network) => {
            is_loopback(&network.first())
                || network.contains(&v4)
                || network.contains(&1_u128.to_be_bytes())
        }
    }
}

/// The address of the peer, as nftables calls it.
const fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound | Direction::Listen => "saddr",
        Direction::Outbound => "daddr",
    }
}

/// The peers as conditions, any of which may hold.
fn kinds(side: &str, peers: &[Peer]) -> Vec<String> {
    let networks = peers.iter().filter_map(|peer| match peer {
        Peer::Network(network) => ip_net(network),
        Peer::ThisHost => None,
    });
    // Sets must not hold what overlaps.
    let networks = IpNet::aggregate(&networks.collect());
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = networks
        .into_iter()
        .partition(|network| network.addr().is_ipv4());
    let mut kinds = Vec::new();
    for (family, field, networks) in [("ipv4", "ip", v4), ("ipv6", "ip6", v6)] {
        if networks.iter().any(|network| network.prefix_len() == 0) {
            kinds.push(format!("meta nfproto {family}"));
        } else if !networks.is_empty() {
            let networks = set(networks.iter().map(address_or_network));
            kinds.push(format!("{field} {side} {networks}"));
        }
    }
    if peers.contains(&Peer::ThisHost) {
        kinds.push(format!("fib {side} type local"));
    }
    kinds
}

fn ip_net(network: &Network) -> Option<IpNet> {
    let family_len = if network.is_v4() { 96 } else { 0 };
    let prefix_len = u8::try_from(network.prefix_len() - family_len).ok()?;
    IpNet::new(value::address(network.first()), prefix_len).ok()
}

fn address_or_network(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

fn range(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

/// One value, or the set of several.
fn set(values: impl Iterator<Item = String>) -> String {
    let mut distinct: Vec<String> = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    match &distinct[..] {
        [value] => value.clone(),
        values => format!("{{ {} }}", values.join(", ")),
    }
}
