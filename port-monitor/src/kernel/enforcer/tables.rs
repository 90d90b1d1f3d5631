//! The maps of the policies, and the ring of what they deny.

use std::{collections::BTreeSet, fmt, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, RingBuf, lpm_trie::Key},
};
use port_monitor_common::{
    addr,
    denial::Denial,
    generation::{
        ExeKey, GroupKey, Header, Hits, MASKS, NetworkKey, PORT_WORDS, RuleEntry, SLOTS, State,
        TALLIES, Tally, UserKey,
    },
    mask::Mask,
    policy::MAX_RULES,
};
use rustix::mm::ProtFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    super::{KernelError, mapped::Mapped, pod::Wire},
    host,
};
use crate::policy::lower::Lowered;

type Words = [u32; 4];

/// The maps of an instance.
#[derive(Debug)]
pub(super) struct Tables {
    state: Mapped<u64>,
    policies: Mapped<Header>,
    rules: Mapped<RuleEntry>,
    masks: Mapped<Mask>,
    ports: Mapped<u64>,
    hits: Mapped<Hits>,
    networks: LpmTrie<MapData, Wire<NetworkKey>, u32>,
    users: HashMap<MapData, Wire<UserKey>, u32>,
    groups: HashMap<MapData, Wire<GroupKey>, u32>,
    exes: HashMap<MapData, Wire<ExeKey>, u32>,
    own: HashMap<MapData, Words, u8>,
    denials: Option<Ring>,
}

/// The ring of denials.
struct Ring(RingBuf<MapData>);

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring")
    }
}

/// Under which name the ring is pinned.
pub(super) const DENIALS: &str = "pm_events";

/// How many are taken from it at a time: as many as it holds.
const BATCH: usize = 4_096;

impl Tables {
    /// The maps pinned in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, KernelError> {
        Self::of(|name| Ok(MapData::from_pin(dir.join(name))?))
    }

    /// The maps that `data` finds by their names.
    fn of(mut data: impl FnMut(&str) -> Result<MapData, KernelError>) -> Result<Self, KernelError> {
        Ok(Self {
            state: mapped(&data("pm_state")?)?,
            policies: mapped(&data("pm_policies")?)?,
            rules: mapped(&data("pm_rules")?)?,
            masks: mapped(&data("pm_masks")?)?,
            ports: mapped(&data("pm_ports")?)?,
            hits: mapped(&data("pm_hits")?)?,
            networks: Map::from_map_data(data("pm_networks")?)?.try_into()?,
            users: Map::from_map_data(data("pm_users")?)?.try_into()?,
            groups: Map::from_map_data(data("pm_groups")?)?.try_into()?,
            exes: Map::from_map_data(data("pm_exes")?)?.try_into()?,
            own: Map::from_map_data(data("pm_self")?)?.try_into()?,
            denials: None,
        })
    }

    /// Takes what was denied from the ring pinned in `dir`.
    pub(super) fn take_denials(&mut self, dir: &Path) -> Result<Vec<Denial>, KernelError> {
        let Ring(ring) = match &mut self.denials {
            Some(ring) => ring,
            none => {
                let data = MapData::from_pin(dir.join(DENIALS))?;
                none.insert(Ring(Map::from_map_data(data)?.try_into()?))
            }
        };
        let mut denials = Vec::new();
        while denials.len() < BATCH
            && let Some(record) = ring.next()
        {
            denials.extend(Denial::read_from_bytes(&record));
        }
        Ok(denials)
    }

    /// Which slot is in force.
    pub(super) fn state(&self) -> State {
        State(self.state.get(0).unwrap_or(0))
    }

    /// Puts `to` in the place of `from`, by one store of one word; false where the state is
    /// another by now.
    pub(super) fn exchange_state(&self, from: State, to: State) -> bool {
        self.state.exchange(0, 0, from.0, to.0)
    }

    /// The policy in a slot.
    pub(super) fn header(&self, slot: u32) -> Header {
        self.policies.get(slot as usize).unwrap_or(Header::NONE)
    }

    /// A rule of the policy in a slot.
    pub(super) fn rule(&self, slot: u32, rule: usize) -> Option<RuleEntry> {
        self.rules.get(slot as usize * MAX_RULES + rule)
    }

    /// How often a rule decided.
    pub(super) fn hits(&self, slot: u32, rule: usize) -> Hits {
        let each = (SLOTS * TALLIES) as usize;
        let first = (slot * TALLIES) as usize + rule;
        let cpus = (first..self.hits.len()).step_by(each);
        cpus.filter_map(|place| self.hits.get(place))
            .fold(Hits::default(), |all, hits| Hits {
                count: all.count + hits.count,
                last_ns: all.last_ns.max(hits.last_ns),
            })
    }

    /// How often something else decided.
    pub(super) fn tally(&self, slot: u32, tally: Tally) -> Hits {
        self.hits(slot, MAX_RULES + tally as usize)
    }

    /// Adds a count of a slot that no program looks at any more to one of another; gives
    /// what was added. A count is its slot and its number.
    pub(super) fn add_hits(&self, from: (u32, u32), to: (u32, u32)) -> u64 {
        let each = (SLOTS * TALLIES) as usize;
        let mut added = 0;
        for cpu in (0..self.hits.len()).step_by(each) {
            let place = |(slot, tally)| cpu + (slot * TALLIES + tally) as usize;
            let before = self.hits.get(place(from)).unwrap_or_default();
            self.hits.add(place(to), 0, before.count);
            self.hits.raise(place(to), 1, before.last_ns);
            added += before.count;
        }
        added
    }

    /// Makes a slot that no program looks at say that there is no policy.
    pub(super) fn clear(&mut self, slot: u32) -> Result<(), KernelError> {
        self.policies.set(slot as usize, &Header::NONE);
        let of_slot = |keys: Vec<Key<Wire<NetworkKey>>>| {
            let mut keys = keys;
            keys.retain(|key| key.data().0.slot == slot);
            keys
        };
        for key in of_slot(self.networks.keys().collect::<Result<_, _>>()?) {
            self.networks.remove(&key)?;
        }
        remove_all(&mut self.users, |key| key.0.slot == slot)?;
        remove_all(&mut self.groups, |key| key.0.slot == slot)?;
        remove_all(&mut self.exes, |key| key.0.slot == slot)?;
        let each = (SLOTS * TALLIES) as usize;
        for cpu in (0..self.hits.len()).step_by(each) {
            let first = cpu + (slot * TALLIES) as usize;
            for place in first..first + TALLIES as usize {
                self.hits.set(place, &Hits::default());
            }
        }
        Ok(())
    }

    /// Writes a policy into a slot that no program looks at, under this header.
    pub(super) fn write(
        &mut self,
        slot: u32,
        policy: &Lowered,
        header: &Header,
    ) -> Result<(), KernelError> {
        self.clear(slot)?;
        self.fill(slot, policy)?;
        self.write_own_addresses()?;
        self.policies.set(slot as usize, header);
        Ok(())
    }

    /// Writes all but the header of a policy into an empty slot.
    fn fill(&mut self, slot: u32, policy: &Lowered) -> Result<(), KernelError> {
        let place = slot as usize;
        for (n, mask) in policy.masks.iter().enumerate() {
            self.masks.set(place * MASKS as usize + n, mask);
        }
        for (n, word) in policy.ports.iter().enumerate() {
            self.ports.set(place * PORT_WORDS as usize + n, word);
        }
        for (n, rule) in policy.rules.iter().enumerate() {
            self.rules.set(place * MAX_RULES + n, rule);
        }
        for &(prefix_len, addr, mask) in &policy.networks {
            let key = Key::new(u32::BITS + prefix_len, Wire(NetworkKey { slot, addr }));
            self.networks.insert(&key, mask, 0)?;
        }
        for &(uid, mask) in &policy.users {
            self.users.insert(Wire(UserKey { slot, uid }), mask, 0)?;
        }
        for &(id, mask) in &policy.groups {
            let key = GroupKey {
                id,
                slot,
                reserved: 0,
            };
            self.groups.insert(Wire(key), mask, 0)?;
        }
        for &(device, inode, mask) in &policy.exes {
            let key = ExeKey {
                inode,
                slot,
                device,
            };
            self.exes.insert(Wire(key), mask, 0)?;
        }
        Ok(())
    }

    /// Brings the list of this host's addresses up to date.
    pub(super) fn write_own_addresses(&mut self) -> Result<(), KernelError> {
        let own: BTreeSet<Words> = host::addresses().into_iter().map(addr::to_words).collect();
        remove_all(&mut self.own, |addr| !own.contains(addr))?;
        for addr in own {
            self.own.insert(addr, 1, 0)?;
        }
        Ok(())
    }
}

/// Writes the monitor's policy into slot 0 of a fresh object.
pub(in crate::kernel) fn write_policy(ebpf: &Ebpf, policy: &Lowered) -> Result<(), KernelError> {
    let mut tables = Tables::of(|name| {
        let Some(Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data)) = ebpf.map(name)
        else {
            return Err(KernelError::from(MapError::InvalidName {
                name: name.to_owned(),
            }));
        };
        // The object keeps its own.
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|error| KernelError::Map(error.to_string()))?;
        Ok(MapData::from_fd(descriptor)?)
    })?;
    tables.fill(0, policy)?;
    tables.policies.set(0, &policy.header);
    Ok(())
}

fn mapped<T: FromBytes + IntoBytes>(map: &MapData) -> Result<Mapped<T>, KernelError> {
    Mapped::new(map, ProtFlags::READ | ProtFlags::WRITE)
}

fn remove_all<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    is_old: impl Fn(&K) -> bool,
) -> Result<(), KernelError> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in keys.iter().filter(|key| is_old(key)) {
        map.remove(key)?;
    }
    Ok(())
}
