//! Two rules at a time: does one hold all that the other matches, and which
//! connection do both match.

use std::{collections::HashSet, fmt, net::SocketAddr};

use port_monitor_common::policy::{
    Accepts, Decider, Direction, Facts, OwnerCondition, Peer, PortRange, Rule, Rules, Transport,
    is_loopback,
};

use super::Analysis;
use crate::base::sanitize::Quoted;
use crate::policy::{
    analysis::cells::{self, Interval, Place, RuleSet},
    rules::{compile::condition::spelled, table::Owner},
    text::value,
};

/// One connection, as `port-monitor policy explain` takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness<'a> {
    pub(crate) direction: Direction,
    /// Named by `Transport::port`.
    pub(crate) port: u32,
    pub(crate) place: Place,
    pub(crate) uid: Option<u32>,
    pub(crate) owner: Owner<'a>,
    /// The kernel itself.
    pub(crate) is_kernel: bool,
    pub(crate) now_ns: i64,
}

impl Witness<'_> {
    pub(crate) fn facts<'s>(&self, scopes: &'s [u32]) -> Facts<'s> {
        Facts {
            direction: self.direction,
            service_port: self.port,
            peer: self.place.addr,
            peer_is_self: self.place.is_self,
            uid: self.uid,
            scopes,
            is_kernel: self.is_kernel,
            now_ns: self.now_ns,
        }
    }
}

impl fmt::Display for Witness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, port) = Transport::of(self.port);
        write!(f, "{} {} ", spelled(self.direction), transport.name())?;
        match self.direction {
            Direction::Listen => write!(f, "[::]:{port}")?,
            Direction::Inbound | Direction::Outbound => {
                let peer = value::address(self.place.addr);
                write!(f, "{}", SocketAddr::new(peer, port))?;
            }
        }
        if let Some(uid) = self.uid {
            write!(f, " --user {uid}")?;
        }
        for condition in [OwnerCondition::Unit, OwnerCondition::Cgroup] {
            self.write_owner(condition, f)?;
        }
        if self.is_kernel {
            f.write_str(" --kernel")?;
        }
        OwnerCondition::singles().try_for_each(|condition| self.write_owner(condition, f))
    }
}

impl Witness<'_> {
    fn write_owner(&self, condition: OwnerCondition, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(value) = self.owner.name(condition) else {
            return Ok(());
        };
        // The root cgroup is stored without its slash.
        let value = if value.is_empty() { "/" } else { &*value };
        write!(f, " --{} {}", condition.key(), Quoted(value))
    }
}

/// The first of `opposite` that decides some connection that `rule` matches
/// too. A rule that `rule` holds whole is an exception to it, as meant.
pub(crate) fn find<'a>(
    analysis: &Analysis<'a>,
    rule: &Rule,
    opposite: &RuleSet,
) -> Option<(usize, Witness<'a>)> {
    opposite.iter().find_map(|index| {
        let other = analysis.rule(index)?;
        let witness = common(analysis, rule, other)?;
        let scopes = analysis.scopes.of(witness.owner);
        let facts = witness.facts(&scopes);
        let decider = analysis.rules.decide(&facts).by;
        let found = decider == Decider::Rule(u32::try_from(index).ok()?)
            && analysis.rules.mismatch(rule, &facts).is_none()
            && !covers(rule, other, &analysis.rules);
        found.then_some((index, witness))
    })
}

/// Some port, peer and uid is accepted by both rules.
pub(crate) fn meet(a: &Rule, b: &Rule, rules: &Rules<'_>) -> bool {
    common_port(a.ports.of(rules.ports), b.ports.of(rules.ports)).is_some()
        && common_place(a.peers.of(rules.peers), b.peers.of(rules.peers)).is_some()
        && common_uid([a, b], rules).is_ok()
}

/// A connection that both rules match, as far as it is easily found.
pub(crate) fn common<'a>(analysis: &Analysis<'a>, a: &Rule, b: &Rule) -> Option<Witness<'a>> {
    let rules = &analysis.rules;
    Some(Witness {
        direction: a.direction,
        port: common_port(a.ports.of(rules.ports), b.ports.of(rules.ports))?,
        place: common_place(a.peers.of(rules.peers), b.peers.of(rules.peers))?,
        uid: common_uid([a, b], rules).ok()?,
        owner: common_owner(analysis, a, b)?,
        is_kernel: false,
        now_ns: a.until_ns.min(b.until_ns) - 1,
    })
}

fn common_port(a: Option<&[PortRange]>, b: Option<&[PortRange]>) -> Option<u32> {
    const ALL: [PortRange; 2] = [Transport::Tcp.ports(), Transport::Udp.ports()];
    let (a, b) = (a.unwrap_or(&ALL), b.unwrap_or(&ALL));
    pairs(a, b).find_map(|(a, b)| {
        // Port 0 is one that is not known.
        let first = a.first.max(b.first);
        let (transport, port) = Transport::of(first);
        let first = transport.port(port.max(1));
        (first <= a.last.min(b.last)).then_some(first)
    })
}

fn common_place(a: Option<&[Peer]>, b: Option<&[Peer]>) -> Option<Place> {
    match (a, b) {
        (None, None) => Some(Place {
            // An address for examples (RFC 5737).
            addr: value::octets([192, 0, 2, 1].into()),
            is_self: false,
        }),
        (Some(peers), None) | (None, Some(peers)) => peers.first().map(place),
        (Some(a), Some(b)) if std::ptr::eq(a, b) => a.first().map(place),
        (Some(a), Some(b)) => common_peer(a, b),
    }
}

/// A peer that both lists accept: elsewhere rather than on this host, unless that is all
/// they have in common.
fn common_peer(a: &[Peer], b: &[Peer]) -> Option<Place> {
    let both = |is_self| {
        let [a, b] = [a, b].map(|peers| cells::peer_intervals(Some(peers), is_self));
        cells::common(&a, &b).first().copied()
    };
    if let Some(interval) = both(false) {
        return Some(at(inside(interval), false));
    }
    let is_this_host = [a, b].map(|peers| peers.contains(&Peer::ThisHost));
    if is_this_host == [true, true] {
        return Some(place(&Peer::ThisHost));
    }
    both(true).map(|interval| at(inside(interval), true))
}

fn place(peer: &Peer) -> Place {
    match peer {
        Peer::ThisHost => at(value::octets([127, 0, 0, 1].into()), true),
        Peer::Network(network) => {
            let [first, last] = [network.first(), network.last()].map(u128::from_be_bytes);
            at(inside((first, last)), false)
        }
    }
}

fn at(addr: [u8; 16], is_self: bool) -> Place {
    Place {
        addr,
        is_self: is_self || is_loopback(&addr),
    }
}

/// A host of the network: the address after its own, where there is one.
fn inside((first, last): Interval) -> [u8; 16] {
    first.saturating_add(1).min(last).to_be_bytes()
}

fn common_owner<'a>(analysis: &Analysis<'a>, a: &Rule, b: &Rule) -> Option<Owner<'a>> {
    let scope = |a: Accepts, b: Accepts, same: &dyn Fn(u32, u32) -> bool| {
        let scopes = analysis.rules.owners;
        common_entry(a.of(scopes), b.of(scopes), |&a, &b| same(a, b))
            .map(|scope| scope.and_then(|scope| analysis.scopes.name(scope)))
            .ok()
    };
    let name = |scope| analysis.scopes.name(scope).unwrap_or_default();
    let inside = |inner, outer| {
        let rest = name(inner).strip_prefix(name(outer));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let same = |a: u32, b: u32| a == b;
    let mut owner = Owner::default();
    for condition in OwnerCondition::scopes() {
        let (a, b) = (a.owner(condition), b.owner(condition));
        let name = match condition {
            OwnerCondition::Cgroup => scope(a, b, &inside).or_else(|| scope(b, a, &inside)),
            _ => scope(a, b, &same),
        };
        if let Some(name) = name? {
            owner = owner.with(condition, name);
        }
    }
    Some(owner)
}

/// As [`common_entry`], of long lists too.
fn common_uid(pair: [&Rule; 2], rules: &Rules<'_>) -> Result<Option<u32>, Disjoint> {
    const LONG: usize = 64;
    let [a, b] = pair.map(|rule| rule.owner(OwnerCondition::User).of(rules.owners));
    match (a, b) {
        (Some(a), Some(b)) if a.len().min(b.len()) > LONG => {
            let b: HashSet<u32> = b.iter().copied().collect();
            let found = a.iter().copied().find(|uid| b.contains(uid));
            found.map(Some).ok_or(Disjoint)
        }
        _ => common_entry(a, b, |a, b| a == b),
    }
}

/// Nothing is accepted by both rules.
struct Disjoint;

/// An entry of `a` that goes with one of `b`; none when both take any.
fn common_entry<T: Copy>(
    a: Option<&[T]>,
    b: Option<&[T]>,
    goes_with: impl Fn(&T, &T) -> bool,
) -> Result<Option<T>, Disjoint> {
    let entry = match (a, b) {
        (None, None) => return Ok(None),
        (Some(entries), None) | (None, Some(entries)) => entries.first().copied(),
        (Some(a), Some(b)) => pairs(a, b).find(|(a, b)| goes_with(a, b)).map(|(&a, _)| a),
    };
    entry.map(Some).ok_or(Disjoint)
}

fn pairs<'a, T>(a: &'a [T], b: &'a [T]) -> impl Iterator<Item = (&'a T, &'a T)> {
    a.iter().flat_map(move |a| b.iter().map(move |b| (a, b)))
}

/// The owners that tell `rule` from others: those with no more about them than
/// it asks for.
///
/// One is made when it is asked for: whoever looks at them gives up long before the last
/// where a rule has long lists.
pub(crate) fn owners<'a>(
    analysis: &Analysis<'a>,
    rule: &Rule,
) -> Box<dyn Iterator<Item = Owner<'a>> + 'a> {
    let names = analysis.scopes;
    let mut found: Box<dyn Iterator<Item = Owner<'a>> + 'a> =
        Box::new(std::iter::once(Owner::default()));
    for condition in OwnerCondition::scopes().rev() {
        let Some(asked) = rule.owner(condition).of(analysis.rules.owners) else {
            continue;
        };
        let with = move |owner: Owner<'a>, scope| match names.name(scope) {
            Some(name) => owner.with(condition, name),
            None => owner,
        };
        found = Box::new(
            found.flat_map(move |owner| asked.iter().map(move |&scope| with(owner, scope))),
        );
    }
    found
}

/// Every connection `b` matches, `a` matches too, as far as single entries
/// tell.
fn covers(a: &Rule, b: &Rule, rules: &Rules<'_>) -> bool {
    let owners = |condition| {
        let [a, b] = [a, b].map(|rule| rule.owner(condition).of(rules.owners));
        subset(a, b, |a, b| a == b)
    };
    a.until_ns >= b.until_ns
        && covers_ports(a, b, rules)
        && covers_peers(a, b, rules)
        && OwnerCondition::ALL.into_iter().all(owners)
}

pub(crate) fn covers_ports(a: &Rule, b: &Rule, rules: &Rules<'_>) -> bool {
    subset(a.ports.of(rules.ports), b.ports.of(rules.ports), |a, b| {
        a.first <= b.first && b.last <= a.last
    })
}

pub(crate) fn covers_peers(a: &Rule, b: &Rule, rules: &Rules<'_>) -> bool {
    let holds = |is_self| {
        let [a, b] = [a, b].map(|rule| cells::peer_intervals(rule.peers.of(rules.peers), is_self));
        cells::without(&b, &a).is_empty()
    };
    a.peers == Accepts::Any || a.peers == b.peers || (holds(false) && holds(true))
}

pub(crate) fn covers_uids(a: &Rule, b: &Rule, rules: &Rules<'_>) -> bool {
    let [a, b] = [a, b].map(|rule| rule.owner(OwnerCondition::User).of(rules.owners));
    subset(a, b, |a, b| a == b)
}

fn subset<T>(a: Option<&[T]>, b: Option<&[T]>, holds: impl Fn(&T, &T) -> bool) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => b.iter().all(|b| a.iter().any(|a| holds(a, b))),
    }
}
