//! Who is at the other end, where that is on this host too. Pure: events in,
//! owners out.
//!
//! The kernel has one socket for a flow of a network namespace. So two ends that
//! are established at the same time, and whose flows are each other's opposite,
//! are the two ends of one connection. Nothing less makes them peers: an end that
//! has ended, or that was closed before it was accepted, never gets a peer, and
//! whoever uses its addresses next is not taken for it.

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use foldhash::fast::RandomState;
use port_monitor_common::tcp_state::TcpState;
use zerocopy::{ByteHash, Immutable, IntoBytes};

use crate::events::{
    decode::{Action, Event},
    record::{Peer, Process},
};

/// Connections of one generation: what fills a hash table of 2^17 places.
///
/// As many as this are always remembered, and at most twice as many. Beyond that
/// the oldest are forgotten, and have no peer from then on.
const GENERATION: usize = 114_688;

/// Owners that many connections share.
const RECENT: usize = 256;

/// The connections within this host that are open.
#[derive(Debug)]
pub struct Peers {
    /// Connections begun since the last turn of generations.
    young: HashMap<Key, Ends, RandomState>,
    /// Those begun before, where they have not ended.
    old: HashMap<Key, Ends, RandomState>,
    generation: usize,
    /// Ends that began earlier than this, `CLOCK_BOOTTIME` ns, may have ended
    /// unseen.
    trusted_from_ns: u64,
    recent: Box<[Option<Arc<Peer>>; RECENT]>,
}

/// A connection, whichever of its ends is asked. Hashed in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable, ByteHash)]
#[repr(C)]
struct Key {
    /// IPv4 as IPv4-mapped; the smaller endpoint first.
    ips: [[u8; 16]; 2],
    ports: [u16; 2],
    netns_ino: u32,
    /// The interface that link-local addresses belong to.
    zone: u32,
}

/// What is known of the two ends, in the order of the key.
type Ends = [Option<End>; 2];

/// An established end.
#[derive(Clone, Debug)]
struct End {
    id: u64,
    sight: Sight,
}

/// What an end knows of its peer. An owner that no hook saw is `None`.
#[derive(Clone, Debug)]
enum Sight {
    /// Nothing yet.
    Alone {
        own: Option<Arc<Peer>>,
        since_ns: u64,
    },
    /// Who it is.
    Paired { peer: Option<Arc<Peer>> },
}

impl Peers {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::with_generation(GENERATION)
    }

    fn with_generation(generation: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            generation,
            trusted_from_ns: 0,
            recent: Box::new([const { None }; RECENT]),
        }
    }

    /// Events were lost, at the latest at `now_ns` (`CLOCK_BOOTTIME`): the ends
    /// that wait for a peer may be gone. Those that have theirs keep it.
    pub const fn distrust(&mut self, now_ns: u64) {
        self.trusted_from_ns = now_ns;
    }

    /// Takes note of `event`, whose owner is `process`; the owner of the other
    /// end, as far as it is known by now.
    pub fn see(&mut self, event: &Event, process: &Arc<Process>) -> Option<Arc<Peer>> {
        let (key, side) = Key::of(event)?;
        match event.action {
            // There is no connection yet, or never.
            Action::Connect | Action::Failed { .. } | Action::Listen | Action::Unlisten => None,
            Action::Preexisting { state, .. } if !is_established(state) => None,
            // Its flow may be another connection's by now.
            Action::Accept if event.ended => None,
            Action::Connected { handshake_us } => {
                // Its SYN may have come to the listener, but not earlier.
                let handshake_us = u64::from(handshake_us.unwrap_or(u32::MAX));
                let attempt_ns = event.ts_ns.saturating_sub(handshake_us * 1_000);
                self.begin(key, side, event, process, attempt_ns)
            }
            Action::Accept | Action::Preexisting { .. } | Action::Restored => {
                self.begin(key, side, event, process, 0)
            }
            Action::Close(_) => self.end(key, side, event.id),
            Action::Progress(_) => self.known(key, side, event.id),
        }
    }

    /// Connections remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// An end is established. Its peer is not older than `not_before_ns`, if it
    /// is a peer that accepted.
    fn begin(
        &mut self,
        key: Key,
        side: usize,
        event: &Event,
        process: &Arc<Process>,
        not_before_ns: u64,
    ) -> Option<Arc<Peer>> {
        let own = self.owner(event, process);
        let not_before_ns = not_before_ns.max(self.trusted_from_ns);
        let ends = self.ends(key);
        let sight = match ends.get_mut(1 - side)?.as_mut().map(|end| &mut end.sight) {
            Some(other) if other.is_alone_since(not_before_ns) => {
                let paired = Sight::Paired { peer: own };
                Sight::Paired {
                    peer: std::mem::replace(other, paired).into_owner(),
                }
            }
            Some(_) | None => Sight::Alone {
                own,
                since_ns: event.ts_ns,
            },
        };
        let peer = sight.peer().cloned();
        *ends.get_mut(side)? = Some(End {
            id: event.id,
            sight,
        });
        peer
    }

    /// The owner of the peer of an end that goes on.
    fn known(&self, key: Key, side: usize, id: u64) -> Option<Arc<Peer>> {
        let mut generations = [&self.young, &self.old].into_iter();
        let ends = generations.find_map(|generation| generation.get(&key))?;
        let end = ends.get(side)?.as_ref().filter(|end| end.id == id)?;
        end.sight.peer().cloned()
    }

    /// An end is no more, and is forgotten. Its peer still knows it.
    fn end(&mut self, key: Key, side: usize, id: u64) -> Option<Arc<Peer>> {
        let mut generations = [&mut self.young, &mut self.old].into_iter();
        let end = generations.find_map(|generation| {
            let Entry::Occupied(mut ends) = generation.entry(key) else {
                return None;
            };
            let end = ends.get_mut().get_mut(side)?.take_if(|end| end.id == id);
            if ends.get().iter().all(Option::is_none) {
                ends.remove();
            }
            Some(end)
        });
        end??.sight.peer().cloned()
    }

    /// The ends of a connection, remembered from now on.
    fn ends(&mut self, key: Key) -> &mut Ends {
        let mut known = None;
        if self.young.len() >= self.generation {
            // It is not forgotten with the others.
            known = self.old.remove(&key);
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(key).or_insert_with(|| {
            // To look into an empty table costs a hash too.
            let in_old = || (!old.is_empty()).then(|| old.remove(&key)).flatten();
            known.or_else(in_old).unwrap_or_default()
        })
    }

    /// The owner of the event's end, one for all its connections.
    fn owner(&mut self, event: &Event, process: &Arc<Process>) -> Option<Arc<Peer>> {
        let owner = event.owner.as_ref()?;
        let is_same = |peer: &Peer| {
            peer.pid == owner.pid
                && peer.start_ns == owner.start_ns
                && peer.comm == owner.process_comm
                && Arc::ptr_eq(&peer.process, process)
        };
        // A process may take another name.
        let hash = owner.process_comm.0.iter().fold(owner.pid, |hash, &byte| {
            hash.wrapping_mul(31) ^ u32::from(byte)
        });
        let place = self.recent.get_mut(hash as usize % RECENT)?;
        place.take_if(|peer| !is_same(peer));
        let peer = place.get_or_insert_with(|| {
            Arc::new(Peer {
                pid: owner.pid,
                start_ns: owner.start_ns,
                comm: owner.process_comm,
                process: Arc::clone(process),
            })
        });
        Some(Arc::clone(peer))
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self::new()
    }
}

impl Key {
    /// The connection of `event` and which end of it the event is about; `None`
    /// where the other end is elsewhere. To its own addresses a host connects
    /// from the very address, unless it is told otherwise.
    fn of(event: &Event) -> Option<(Self, usize)> {
        let (local_ip, remote_ip) = (event.local_ip, event.remote_ip);
        if local_ip != remote_ip && !local_ip.is_loopback() && !remote_ip.is_loopback() {
            return None;
        }
        let local = (mapped(local_ip), event.local_port?);
        let remote = (mapped(remote_ip), event.remote_port);
        let ((first, second), side) = match local.cmp(&remote) {
            Ordering::Less => ((local, remote), 0),
            Ordering::Greater => ((remote, local), 1),
            // Connected to itself: one end.
            Ordering::Equal => return None,
        };
        let key = Self {
            ips: [first.0, second.0],
            ports: [first.1, second.1],
            netns_ino: event.netns_ino,
            zone: zone(event),
        };
        Some((key, side))
    }
}

impl Sight {
    const fn is_alone_since(&self, from_ns: u64) -> bool {
        match self {
            Self::Alone { since_ns, .. } => *since_ns >= from_ns,
            Self::Paired { .. } => false,
        }
    }

    const fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Alone { .. } => None,
            Self::Paired { peer } => peer.as_ref(),
        }
    }

    fn into_owner(self) -> Option<Arc<Peer>> {
        match self {
            Self::Alone { own, .. } => own,
            Self::Paired { .. } => None,
        }
    }
}

const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// A socket found in this state has, or had, a peer.
const fn is_established(state: TcpState) -> bool {
    !matches!(state, TcpState::SYN_SENT | TcpState::LISTEN)
}

fn zone(event: &Event) -> u32 {
    let is_zoned = matches!(event.local_ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    event.ifindex.filter(|_| is_zoned).unwrap_or_default()
}

#[cfg(test)]
mod tests;
