//! Connections that have something in common: a process, a service, a remote address, a rule.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{AddAssign, SubAssign},
    sync::Arc,
};

use super::strip::Strip;
use crate::events::{
    decode::{Direction, Owner},
    record::{Process, Record},
};

/// Groups of a kind at most. Beyond that those that were seen longest ago are told as one.
const ROOM: usize = 8_192;

/// What connections are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// A process, by its id and its start; `None` where nobody knows whose they are.
    Process(Option<(u32, u64)>),
    /// A service port, seen by who opened the connection; `None` while the port is not known.
    Service(bool, Option<u16>),
    /// An address.
    Remote(IpAddr),
    /// A network: its first address, and how long its prefix is.
    Network(IpAddr, u8),
    /// A rule of the policy, or the default where it has no name; and whether it allows.
    Rule(Option<Arc<str>>, bool),
}

/// What a connection counts for, or many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Connections, attempts among them.
    pub(crate) all: u64,
    /// Of these, those that are open, or tried.
    pub(crate) open: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Those that break the policy.
    pub(crate) violations: u64,
    /// Payload bytes received, as far as was told.
    pub(crate) received: u64,
    /// Payload bytes sent, as far as was told.
    pub(crate) sent: u64,
}

/// What a recording tells may be more than any host has: sums stay right modulo 2⁶⁴.
impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.all = self.all.wrapping_add(other.all);
        self.open = self.open.wrapping_add(other.open);
        self.failed = self.failed.wrapping_add(other.failed);
        self.violations = self.violations.wrapping_add(other.violations);
        self.received = self.received.wrapping_add(other.received);
        self.sent = self.sent.wrapping_add(other.sent);
    }
}

impl SubAssign for Tally {
    fn sub_assign(&mut self, other: Self) {
        self.all = self.all.wrapping_sub(other.all);
        self.open = self.open.wrapping_sub(other.open);
        self.failed = self.failed.wrapping_sub(other.failed);
        self.violations = self.violations.wrapping_sub(other.violations);
        self.received = self.received.wrapping_sub(other.received);
        self.sent = self.sent.wrapping_sub(other.sent);
    }
}

/// One group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) key: Key,
    pub(crate) tally: Tally,
    /// When something of it was told last, ns since the Unix epoch.
    pub(crate) last_ns: i128,
    /// The process, as it was told last.
    pub(crate) owner: Option<Owner>,
    pub(crate) process: Arc<Process>,
    /// The name of the service.
    pub(crate) service: Option<&'static str>,
    /// Its last seconds; of rules alone.
    pub(crate) strip: Strip,
}

/// Networks as addresses are joined to them.
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;

/// The network that an address is joined to.
pub(crate) fn network_of(ip: IpAddr) -> Key {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Key::Network(Ipv4Addr::new(a, b, c, 0).into(), V4_PREFIX)
        }
        IpAddr::V6(ip) => {
            let first = ip.to_bits() >> 64 << 64;
            Key::Network(Ipv6Addr::from_bits(first).into(), V6_PREFIX)
        }
    }
}

/// Addresses joined to their networks.
pub(crate) fn joined<'a>(remotes: impl Iterator<Item = &'a Group>) -> Vec<Group> {
    let mut networks: HashMap<Key, Group> = HashMap::new();
    for remote in remotes {
        let Key::Remote(ip) = remote.key else {
            continue;
        };
        let key = network_of(ip);
        match networks.entry(key.clone()) {
            Entry::Occupied(mut entry) => {
                let network = entry.get_mut();
                network.tally += remote.tally;
                network.last_ns = network.last_ns.max(remote.last_ns);
            }
            Entry::Vacant(entry) => {
                entry.insert(Group {
                    key,
                    ..remote.clone()
                });
            }
        }
    }
    networks.into_values().collect()
}

/// The groups of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    by_key: HashMap<Key, Group>,
    /// Those for which there was no room.
    others: Tally,
    /// So many more go without room before it is looked for again: a look takes as long as
    /// there are groups.
    looks_later: usize,
}

impl Groups {
    /// Takes a connection out of the group that it was counted in, as it was counted, and
    /// counts it as it is now.
    pub(crate) fn recount(
        &mut self,
        (before, was): (Option<&Key>, Tally),
        (key, is): (&Key, Tally),
        record: &Record,
    ) {
        if let Some(before) = before {
            *self.tally(before) -= was;
            if before != key {
                self.forget_empty(before);
            }
        }
        if !self.by_key.contains_key(key) {
            self.begin(key, record);
        }
        let Some(group) = self.by_key.get_mut(key) else {
            self.others += is;
            return;
        };
        group.tally += is;
        group.last_ns = group.last_ns.max(record.wall_ns);
        if record.event.owner.is_some() {
            group.owner = record.event.owner;
            group.process = Arc::clone(&record.process);
        }
        if matches!(key, Key::Rule(..)) && before.is_none() {
            group.strip.advance(record.wall_ns);
            group.strip.present().begun += 1;
        }
    }

    /// Changes what a connection counts for where it was counted.
    pub(crate) fn correct(&mut self, key: &Key, was: Tally, is: Tally) {
        let tally = self.tally(key);
        *tally -= was;
        *tally += is;
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.by_key.values()
    }

    /// The one of this key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Group> {
        self.by_key.get(key)
    }

    /// What those count for that are not told one by one.
    pub(crate) const fn others(&self) -> Tally {
        self.others
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, wall_ns: i128) {
        for group in self.by_key.values_mut() {
            group.strip.advance(wall_ns);
        }
    }

    fn tally(&mut self, key: &Key) -> &mut Tally {
        match self.by_key.get_mut(key) {
            Some(group) => &mut group.tally,
            None => &mut self.others,
        }
    }

    /// A group that all connections have left, because their owner was found out later.
    fn forget_empty(&mut self, key: &Key) {
        if self
            .by_key
            .get(key)
            .is_some_and(|group| group.tally.all == 0)
        {
            self.by_key.remove(key);
        }
    }

    fn begin(&mut self, key: &Key, record: &Record) {
        if self.by_key.len() >= ROOM && !self.make_room() {
            return;
        }
        let service = match record.event.direction() {
            Direction::Outbound => record.ports.remote,
            Direction::Inbound => record.ports.local,
        };
        let group = Group {
            key: key.clone(),
            tally: Tally::default(),
            last_ns: record.wall_ns,
            owner: record.event.owner,
            process: Arc::clone(&record.process),
            service: service.and_then(|port| port.service).map(|(name, _)| name),
            strip: Strip::default(),
        };
        self.by_key.insert(key.clone(), group);
    }

    /// Gives up a quarter of those that have nothing open, seen longest ago; whether there is
    /// room now.
    fn make_room(&mut self) -> bool {
        if let Some(later) = self.looks_later.checked_sub(1) {
            self.looks_later = later;
            return false;
        }
        let idle = self.by_key.values().filter(|group| group.tally.open == 0);
        let mut idle: Vec<_> = idle
            .map(|group| (group.last_ns, group.key.clone()))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle.into_iter().take(ROOM / 4) {
            if let Some(group) = self.by_key.remove(&key) {
                self.others += group.tally;
            }
        }
        if self.by_key.len() > ROOM - ROOM / 8 {
            self.looks_later = ROOM / 4;
        }
        self.by_key.len() < ROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::lines::sample::connected;

    const ONE: Tally = Tally {
        all: 1,
        open: 1,
        failed: 0,
        violations: 0,
        received: 2,
        sent: 3,
    };

    fn total(groups: &Groups) -> Tally {
        let mut total = groups.others();
        groups.iter().for_each(|group| total += group.tally);
        total
    }

    #[test]
    fn a_network_has_the_sums_of_its_addresses_and_their_latest_time() {
        let mut groups = Groups::default();
        for (ip, wall_ns) in [
            ("10.0.0.1", 5),
            ("10.0.0.254", 3),
            ("10.0.1.1", 4),
            ("::ffff:10.0.0.7", 1),
            ("2001:db8::1", 8),
            ("2001:db8::ffff:0:0:1", 9),
            ("2001:db8:0:1::1", 2),
        ] {
            let (mut record, key) = (connected(), Key::Remote(ip.parse().unwrap()));
            record.wall_ns = wall_ns;
            groups.recount((None, Tally::default()), (&key, ONE), &record);
        }
        let mut networks: Vec<_> = joined(groups.iter())
            .into_iter()
            .map(|group| (group.key, group.tally.all, group.tally.sent, group.last_ns))
            .collect();
        networks.sort();
        let network = |first: &str, prefix| Key::Network(first.parse().unwrap(), prefix);
        let expected = [
            (network("10.0.0.0", 24), 3, 9, 5),
            (network("10.0.1.0", 24), 1, 3, 4),
            (network("2001:db8::", 64), 2, 6, 9),
            (network("2001:db8:0:1::", 64), 1, 3, 2),
        ];
        assert_eq!(networks, expected);
    }

    #[test]
    fn a_connection_counts_once_wherever_it_goes() {
        let (record, mut groups) = (connected(), Groups::default());
        let (unknown, known) = (Key::Process(None), Key::Process(Some((1, 2))));
        groups.recount((None, Tally::default()), (&unknown, ONE), &record);
        let over = Tally { open: 0, ..ONE };
        groups.recount((Some(&unknown), ONE), (&known, over), &record);
        assert_eq!(total(&groups), over);
        assert!(groups.get(&unknown).is_none());
        assert_eq!(groups.get(&known).unwrap().tally, over);
    }

    #[test]
    fn what_has_nothing_open_any_more_makes_room_again() {
        let (record, mut groups) = (connected(), Groups::default());
        let key = |pid: usize| Key::Process(Some((u32::try_from(pid).unwrap(), 0)));
        let over = Tally { open: 0, ..ONE };
        for pid in 0..ROOM + 10 {
            groups.recount((None, Tally::default()), (&key(pid), ONE), &record);
        }
        for pid in 0..ROOM {
            groups.recount((Some(&key(pid)), ONE), (&key(pid), over), &record);
        }
        let later = 2 * ROOM..3 * ROOM;
        for pid in later.clone() {
            groups.recount((None, Tally::default()), (&key(pid), over), &record);
        }
        assert!(groups.get(&key(later.end - 1)).is_some());
        assert_eq!(total(&groups).all, u64::try_from(2 * ROOM + 10).unwrap());
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_what_is_open_stays() {
        let (mut record, mut groups) = (connected(), Groups::default());
        let open = Key::Process(Some((0, 0)));
        groups.recount((None, Tally::default()), (&open, ONE), &record);
        let over = Tally { open: 0, ..ONE };
        let count = 3 * u32::try_from(ROOM).unwrap();
        for pid in 1..=count {
            record.wall_ns += 1;
            let key = Key::Process(Some((pid, 0)));
            groups.recount((None, Tally::default()), (&key, over), &record);
        }
        assert!(groups.iter().count() <= ROOM);
        assert!(groups.get(&open).is_some());
        assert!(groups.get(&Key::Process(Some((count, 0)))).is_some());
        assert_eq!(total(&groups).all, 1 + u64::from(count));
        assert_eq!(total(&groups).sent, 3 * (1 + u64::from(count)));
    }

    #[test]
    fn addresses_are_joined_to_their_networks_with_all_that_they_count_for() {
        let (record, mut groups) = (connected(), Groups::default());
        let ips = [
            "10.0.0.1",
            "10.0.0.255",
            "10.0.1.0",
            "2001:db8::1",
            "2001:db8::ffff:1",
        ];
        for ip in ips {
            let key = Key::Remote(ip.parse().unwrap());
            groups.recount((None, Tally::default()), (&key, ONE), &record);
        }
        let mut joined = joined(groups.iter());
        joined.sort_by(|one, other| one.key.cmp(&other.key));
        let joined = joined.iter().map(|network| match network.key {
            Key::Network(first, prefix) => (format!("{first}/{prefix}"), network.tally.sent),
            _ => panic!("{network:?}"),
        });
        let expected = [("10.0.0.0/24", 6), ("10.0.1.0/24", 3), ("2001:db8::/64", 6)];
        let expected = expected.map(|(network, sent)| (network.to_owned(), sent));
        assert_eq!(joined.collect::<Vec<_>>(), expected);
    }
}
