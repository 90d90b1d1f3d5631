//! The listening sockets of the host: how exposed each is, whose it is, and who
//! came in. Pure: events in, a table of listeners out, no clock of its own.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use port_monitor_common::event::OwnerSource;

use crate::{
    events::{
        decode::{Action, Event},
        record::{Judgement, Record},
        wire::words::{self, Spelled as _},
    },
    host::groups::Groups,
};

/// Peers told apart at one listener; beyond that it is only known that there are
/// more.
pub const MAX_PEERS: usize = 4_096;
/// Listeners remembered after they closed; the oldest are forgotten first.
pub(super) const MAX_CLOSED: usize = 4_096;
/// How much later than the end of its listener an accept may be told at most: two programs
/// tell of them, each by its own clock, or the accepting thread has not returned yet.
const CLOSING_NS: u64 = 1_000_000_000;

/// Who can reach a listening address, as far as the address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every address of the host: `0.0.0.0`, `::`.
    Any,
    /// Any other address: reachable as far as routes and firewalls let it.
    Public,
    /// Private networks (RFC 1918, RFC 4193), the provider's (100.64.0.0/10, RFC
    /// 6598) and link-local ones.
    Private,
    /// This host only.
    Loopback,
}

impl Scope {
    /// Every scope, the most exposed first.
    pub const ALL: [Self; 4] = [Self::Any, Self::Public, Self::Private, Self::Loopback];

    /// The scope of a listening address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_unspecified() => Self::Any,
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) if is_private_v4(ip) => Self::Private,
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Self::Private,
            _ => Self::Public,
        }
    }

    /// The scope as every output spells it.
    pub(crate) fn name(self) -> &'static str {
        words::Scope::from(self).word()
    }
}

impl From<Scope> for words::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Any => Self::Any,
            Scope::Public => Self::Public,
            Scope::Private => Self::Private,
            Scope::Loopback => Self::Loopback,
        }
    }
}

const fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    ip.is_private() || ip.is_link_local() || first == 100 && second & 0xc0 == 64
}

/// The family of a socket, which is not always that of its addresses: an IPv6
/// socket may listen at, or speak, IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketFamily {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl SocketFamily {
    /// The family of the socket an event is about.
    const fn of(event: &Event) -> Self {
        // A listener has no peer, and its family's unspecified address for one.
        let is_v4 = event.remote_ip.is_ipv4() && !event.v4_mapped;
        if is_v4 { Self::V4 } else { Self::V6 }
    }
}

/// The distinct addresses that came in, up to [`MAX_PEERS`].
#[derive(Clone, Debug, Default)]
pub struct Peers {
    ips: HashSet<IpAddr>,
    is_capped: bool,
}

impl Peers {
    fn add(&mut self, ip: IpAddr) {
        if self.ips.len() < MAX_PEERS {
            self.ips.insert(ip);
        } else if !self.ips.contains(&ip) {
            self.is_capped = true;
        }
    }

    /// How many were told apart.
    pub fn count(&self) -> usize {
        self.ips.len()
    }

    /// There were more.
    pub const fn is_capped(&self) -> bool {
        self.is_capped
    }
}

/// Connections accepted at a listener while it was watched.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// How many.
    pub accepts: u64,
    /// Wall-clock time of the first one, ns since the Unix epoch.
    pub first_ns: Option<i128>,
    /// Of the last one.
    pub last_ns: Option<i128>,
    /// Where they came from.
    pub peers: Peers,
    /// Some came to several sockets at one address, and are counted at each:
    /// which of them accepted is not known.
    pub is_shared: bool,
}

impl Uses {
    fn add(&mut self, visit: &Visit) {
        self.accepts += 1;
        let wall_ns = visit.wall_ns;
        self.first_ns = Some(self.first_ns.map_or(wall_ns, |first| first.min(wall_ns)));
        self.last_ns = Some(self.last_ns.map_or(wall_ns, |last| last.max(wall_ns)));
        self.peers.add(visit.event.remote_ip);
    }
}

/// A listening socket.
#[derive(Clone, Debug)]
pub struct AuditedListener {
    /// The event that told of it: address, owner, verdict, opening time.
    pub record: Record,
    /// What it closed at, `CLOCK_BOOTTIME` and wall-clock ns.
    closed: Option<(u64, i128)>,
    /// Who came in.
    pub uses: Uses,
}

impl AuditedListener {
    /// Who can reach it.
    pub const fn scope(&self) -> Scope {
        Scope::of(self.record.event.local_ip)
    }

    /// It was there before the audit.
    pub const fn is_older(&self) -> bool {
        matches!(self.record.event.action, Action::Preexisting { .. })
    }

    /// Wall-clock time it opened, ns since the Unix epoch; `None` where that was
    /// before the audit.
    pub fn opened_ns(&self) -> Option<i128> {
        (!self.is_older()).then_some(self.record.wall_ns)
    }

    /// Wall-clock time it closed, ns since the Unix epoch.
    pub fn closed_ns(&self) -> Option<i128> {
        self.closed.map(|(_, wall_ns)| wall_ns)
    }

    /// How long it was watched, in an audit that lasted from `began_ns` to
    /// `ended_ns`.
    pub fn watched(&self, began_ns: i128, ended_ns: i128) -> Duration {
        let from_ns = self.opened_ns().unwrap_or(began_ns);
        let ns = self.closed_ns().unwrap_or(ended_ns) - from_ns;
        Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
    }

    /// It breaks the policy.
    pub fn is_violation(&self) -> bool {
        self.record
            .judgement
            .as_ref()
            .is_some_and(Judgement::is_violation)
    }

    fn was_open_at(&self, ts_ns: u64) -> bool {
        (self.is_older() || self.record.event.ts_ns <= ts_ns)
            && self.closed.is_none_or(|(closed, _)| ts_ns <= closed)
    }

    /// When it closed, if that was just before.
    fn closed_just_before(&self, ts_ns: u64) -> Option<u64> {
        let (closed, _) = self.closed?;
        (closed..closed.saturating_add(CLOSING_NS))
            .contains(&ts_ns)
            .then_some(closed)
    }

    /// How closely the address and device it listens at fit a connection that
    /// was accepted; `None` where they do not.
    fn fit(&self, accept: &Event) -> Option<(bool, bool)> {
        let listener = &self.record.event;
        let takes_address = listener.local_ip == accept.local_ip
            || listener.local_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || listener.local_ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && accept.local_ip.is_ipv4();
        let fits = SocketFamily::of(listener) == SocketFamily::of(accept)
            && takes_address
            && (listener.ifindex.is_none() || listener.ifindex == accept.ifindex);
        fits.then_some((
            listener.local_ip == accept.local_ip,
            listener.ifindex.is_some(),
        ))
    }
}

/// Which listeners to list, by whose they are and what they take. An empty list or
/// `None` takes all; different ones all have to match.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Process ids of the owners.
    pub pids: Vec<u32>,
    /// Real user ids of the owners.
    pub uids: Vec<u32>,
    /// cgroups; those below them match too.
    pub groups: Groups,
    /// Sockets that take connections of this family.
    pub family: Option<SocketFamily>,
}

impl Selection {
    /// Whether a listening socket is one to list.
    pub fn takes(&self, record: &Record) -> bool {
        let owner = record.event.owner.as_ref();
        let cgroup = record.process.cgroup.as_deref();
        let is_one = |wanted: &[u32], value: Option<u32>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.contains(&value))
        };
        is_one(&self.pids, owner.map(|owner| owner.pid))
            && is_one(&self.uids, owner.map(|owner| owner.uid))
            && (self.groups.is_empty() || cgroup.is_some_and(|path| self.groups.cover(path)))
            && self.takes_family(&record.event)
    }

    /// An IPv6 wildcard takes IPv4 too.
    fn takes_family(&self, event: &Event) -> bool {
        match self.family {
            None => true,
            Some(SocketFamily::V4) => event.local_ip.is_ipv4() || event.local_ip.is_unspecified(),
            Some(SocketFamily::V6) => event.local_ip.is_ipv6(),
        }
    }
}

/// An accept and when it was.
#[derive(Clone, Copy, Debug)]
struct Visit {
    event: Event,
    wall_ns: i128,
}

/// Network namespace and local port.
type Place = (u32, Option<u16>);

/// The listeners found so far.
#[derive(Clone, Debug, Default)]
pub struct AuditedListeners {
    /// By the id of the listening socket.
    by_id: HashMap<u64, AuditedListener>,
    places: HashMap<Place, Vec<u64>>,
    /// Closed ones, oldest first.
    closed: VecDeque<u64>,
    /// Accepts from before every older listener is known.
    held: Vec<Visit>,
    is_settled: bool,
    /// Closed listeners that had to be forgotten.
    pub forgotten: u64,
    /// Accepts at no listener that is known.
    pub strays: u64,
}

impl AuditedListeners {
    /// Takes an event; what is about no listener is passed over.
    pub fn take(&mut self, record: &Record) {
        let event = record.event;
        let visit = Visit {
            event,
            wall_ns: record.wall_ns,
        };
        match event.action {
            Action::Preexisting { .. } if event.action.is_listener() => self.open(record),
            Action::Listen => self.open(record),
            Action::Unlisten => self.close(record),
            Action::Accept if self.is_settled => self.visit(&visit),
            Action::Accept => self.held.push(visit),
            Action::Preexisting { .. }
            | Action::Connect
            | Action::Connected { .. }
            | Action::Failed { .. }
            | Action::Close(_)
            | Action::Restored
            | Action::Progress(_) => {}
        }
    }

    /// Every listener older than the audit has been told of: accepts that came before
    /// find theirs now.
    pub fn settle(&mut self) {
        self.is_settled = true;
        for visit in std::mem::take(&mut self.held) {
            self.visit(&visit);
        }
    }

    /// Whether [`AuditedListeners::settle`] was called.
    pub const fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Every listener, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &AuditedListener> {
        self.by_id.values()
    }

    fn open(&mut self, record: &Record) {
        let event = &record.event;
        let listener = AuditedListener {
            record: record.clone(),
            closed: None,
            uses: Uses::default(),
        };
        if self.by_id.insert(event.id, listener).is_none() {
            let place = (event.netns_ino, event.local_port);
            self.places.entry(place).or_default().push(event.id);
        }
    }

    fn close(&mut self, record: &Record) {
        let event = &record.event;
        let Some(listener) = self.by_id.get_mut(&event.id) else {
            return;
        };
        listener.closed = Some((event.ts_ns, record.wall_ns));
        self.closed.push_back(event.id);
        if self.closed.len() > MAX_CLOSED
            && let Some(id) = self.closed.pop_front()
        {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) {
        let Some(listener) = self.by_id.remove(&id) else {
            return;
        };
        self.forgotten += 1;
        let place = (
            listener.record.event.netns_ino,
            listener.record.event.local_port,
        );
        if let Some(ids) = self.places.get_mut(&place) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.places.remove(&place);
            }
        }
    }

    /// Those that were open to an accept and fit it best; `None` where none was.
    fn open_to(&self, accept: &Event) -> Option<Vec<u64>> {
        let was_open = |listener: &AuditedListener| listener.was_open_at(accept.ts_ns);
        self.best(accept, |listener| was_open(listener).then_some(0))
    }

    /// The one that was closed last, if that was just before the accept is told: nobody comes
    /// in where nobody listens. Where one may have listened there whose port is not known,
    /// `None`.
    fn closed_under(&self, accept: &Event) -> Option<Vec<u64>> {
        let nowhere = Event {
            local_port: None,
            ..*accept
        };
        if self.open_to(&nowhere).is_some() {
            return None;
        }
        self.best(accept, |listener| listener.closed_just_before(accept.ts_ns))
    }

    /// Of the listeners at the place of an accept that have a rank, the ones that fit it best,
    /// and of those the ones of the highest rank.
    fn best(
        &self,
        accept: &Event,
        rank: impl Fn(&AuditedListener) -> Option<u64>,
    ) -> Option<Vec<u64>> {
        let place = (accept.netns_ino, accept.local_port);
        let ids = self.places.get(&place).map_or(&[][..], Vec::as_slice);
        let fits = ids.iter().filter_map(|id| {
            let listener = self.by_id.get(id)?;
            let rank = rank(listener)?;
            Some(((listener.fit(accept)?, rank), *id))
        });
        let fits: Vec<_> = fits.collect();
        let best = fits.iter().map(|(fit, _)| *fit).max()?;
        let ids = fits.into_iter().filter(|(fit, _)| *fit == best);
        Some(ids.map(|(_, id)| id).collect())
    }

    /// Counts an accept where it came in: at the very address, else at the
    /// wildcard.
    fn visit(&mut self, visit: &Visit) {
        let event = &visit.event;
        let fits = self.open_to(event).or_else(|| self.closed_under(event));
        let Some(fits) = fits else {
            self.strays += 1;
            return;
        };
        let fits = fits
            .into_iter()
            .filter_map(|id| Some((id, self.by_id.get(&id)?)));
        let fits: Vec<_> = fits.collect();
        let own: Vec<u64> = fits
            .iter()
            .filter(|(_, listener)| accepted_by_owner(listener, event))
            .map(|(id, _)| *id)
            .collect();
        let ids = match *own {
            [only] => vec![only],
            _ => fits.iter().map(|(id, _)| *id).collect(),
        };
        let is_shared = ids.len() > 1;
        for id in ids {
            if let Some(listener) = self.by_id.get_mut(&id) {
                listener.uses.add(visit);
                listener.uses.is_shared |= is_shared;
            }
        }
    }
}

/// Whether the process that listens is the one that accepted.
fn accepted_by_owner(listener: &AuditedListener, accept: &Event) -> bool {
    match (&listener.record.event.owner, &accept.owner) {
        (Some(owner), Some(acceptor)) => {
            acceptor.source == OwnerSource::Accept
                && (owner.pid, owner.start_ns) == (acceptor.pid, acceptor.start_ns)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
