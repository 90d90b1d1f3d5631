//! The maps of the policies, and the ring of what they deny.

use std::{fmt, io::ErrorKind, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, InnerMap, Map, MapData, MapError, RingBuf},
};
use port_monitor_common::{
    addr,
    denial::Denial,
    generation::{
        ADDRESSES, ASKS_SELF, ExeKey, GENERATIONS, GroupKey, Header, Hits, MASKS, PORT_WORDS,
        RuleEntry, State, TALLIES, Tally, UserKey,
    },
    mask::Mask,
    pages::{Ends, PageV4, PageV6},
    policy::MAX_RULES,
};
use rustix::mm::ProtFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    super::{
        aya_workarounds::generation_tables::InEachGeneration,
        bpf::{self, MapShape},
        error::KernelError,
        mapped::Mapped,
        pod::Wire,
    },
    host,
};
use crate::{base::order, policy::tables::lower::Lowered};

pub(in crate::kernel) mod memory;
mod monitor;

type Words = [u32; 4];
type Pages<Page> = Array<MapData, Wire<Page>>;

/// The maps of an instance.
#[derive(Debug)]
pub(in crate::kernel) struct Tables {
    state: Mapped<u64>,
    policies: Mapped<Header>,
    rules: Mapped<RuleEntry>,
    masks: Mapped<Mask>,
    ports: Mapped<u64>,
    hits: Mapped<Hits>,
    ends: Mapped<Ends>,
    networks_v4: InEachGeneration<Pages<PageV4>>,
    networks_v6: InEachGeneration<Pages<PageV6>>,
    users: InEachGeneration<HashMap<MapData, UserKey, u32>>,
    groups: InEachGeneration<HashMap<MapData, GroupKey, u32>>,
    exes: InEachGeneration<HashMap<MapData, Wire<ExeKey>, u32>>,
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

/// `BPF_MAP_TYPE_HASH`.
const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// Linux 5.10: the inner array may have another length than that of the object.
const BPF_F_INNER_MAP: u32 = 1 << 12;

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
            ends: mapped(&data("pm_ends")?)?,
            networks_v4: Map::HashOfMaps(data("pm_networks_v4")?).try_into()?,
            networks_v6: Map::HashOfMaps(data("pm_networks_v6")?).try_into()?,
            users: Map::HashOfMaps(data("pm_users")?).try_into()?,
            groups: Map::HashOfMaps(data("pm_groups")?).try_into()?,
            exes: Map::HashOfMaps(data("pm_exes")?).try_into()?,
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

    /// Which generation is in force.
    pub(super) fn state(&self) -> State {
        State(self.state.get(0).unwrap_or(0))
    }

    /// Puts `to` in the place of `from`, by one store of one word; false where the state is
    /// another by now.
    pub(super) fn exchange_state(&self, from: State, to: State) -> bool {
        self.state.exchange(0, 0, from.0, to.0)
    }

    /// The policy in a generation.
    pub(super) fn header(&self, generation: u32) -> Header {
        self.policies
            .get(generation as usize)
            .unwrap_or(Header::NONE)
    }

    /// A rule of the policy in a generation.
    pub(super) fn rule(&self, generation: u32, rule: usize) -> Option<RuleEntry> {
        self.rules.get(generation as usize * MAX_RULES + rule)
    }

    /// How often a rule decided.
    pub(super) fn hits(&self, generation: u32, rule: usize) -> Hits {
        let each = (GENERATIONS * TALLIES) as usize;
        let first = (generation * TALLIES) as usize + rule;
        let cpus = (first..self.hits.len()).step_by(each);
        cpus.filter_map(|place| self.hits.get(place))
            .fold(Hits::default(), |all, hits| Hits {
                count: all.count + hits.count,
                last_ns: all.last_ns.max(hits.last_ns),
            })
    }

    /// How often something else decided.
    pub(super) fn tally(&self, generation: u32, tally: Tally) -> Hits {
        self.hits(generation, MAX_RULES + tally as usize)
    }

    /// Adds a count of a generation that no program looks at any more to one of another; gives
    /// what was added. A count is its generation and its number.
    pub(super) fn add_hits(&self, from: (u32, u32), to: (u32, u32)) -> u64 {
        let each = (GENERATIONS * TALLIES) as usize;
        let mut added = 0;
        for cpu in (0..self.hits.len()).step_by(each) {
            let place = |(generation, tally)| cpu + (generation * TALLIES + tally) as usize;
            let before = self.hits.get(place(from)).unwrap_or_default();
            self.hits.add(place(to), 0, before.count);
            self.hits.raise(place(to), 1, before.last_ns);
            added += before.count;
        }
        added
    }

    /// Makes a generation that no program looks at say that there is no policy.
    pub(super) fn clear(&mut self, generation: u32) -> Result<(), KernelError> {
        self.policies.set(generation as usize, &Header::NONE);
        self.hang(generation, &Variable::default())?;
        let each = (GENERATIONS * TALLIES) as usize;
        for cpu in (0..self.hits.len()).step_by(each) {
            let first = cpu + (generation * TALLIES) as usize;
            for place in first..first + TALLIES as usize {
                self.hits.set(place, &Hits::default());
            }
        }
        Ok(())
    }

    /// Writes a policy into a generation that no program looks at, under this header.
    pub(super) fn write(
        &mut self,
        generation: u32,
        policy: &Lowered,
        (header, ends): (&Header, &Ends),
    ) -> Result<(), KernelError> {
        self.clear(generation)?;
        self.fill(generation, policy)?;
        if header.asks & ASKS_SELF != 0 {
            self.write_own_addresses()?;
        }
        self.ends.set(generation as usize, ends);
        self.policies.set(generation as usize, header);
        Ok(())
    }

    /// Writes all but the header of a policy into an empty generation.
    fn fill(&mut self, generation: u32, policy: &Lowered) -> Result<(), KernelError> {
        let place = generation as usize;
        for (n, mask) in policy.masks.iter().enumerate() {
            self.masks.set(place * MASKS as usize + n, mask);
        }
        for (n, word) in policy.ports.iter().enumerate() {
            self.ports.set(place * PORT_WORDS as usize + n, word);
        }
        for (n, rule) in policy.rules.iter().enumerate() {
            self.rules.set(place * MAX_RULES + n, rule);
        }
        self.hang(generation, &Variable::of(policy)?)
    }

    /// Puts tables into a generation in place of those that are there, which end.
    fn hang(&mut self, generation: u32, tables: &Variable) -> Result<(), KernelError> {
        put(
            &mut self.networks_v4,
            generation,
            tables.networks_v4.as_ref(),
        )?;
        put(
            &mut self.networks_v6,
            generation,
            tables.networks_v6.as_ref(),
        )?;
        put(&mut self.users, generation, tables.users.as_ref())?;
        put(&mut self.groups, generation, tables.groups.as_ref())?;
        put(&mut self.exes, generation, tables.exes.as_ref())
    }

    /// Brings the list of this host's addresses up to date.
    pub(super) fn write_own_addresses(&mut self) -> Result<(), KernelError> {
        let own = order::set(host::addresses().into_iter().map(addr::to_words));
        if own.len() > ADDRESSES as usize {
            log::warn!("this host has more than {ADDRESSES} addresses: `self` is not all of them");
        }
        remove_all(&mut self.own, |addr| !own.contains(addr))?;
        for addr in own.into_iter().take(ADDRESSES as usize) {
            self.own.insert(addr, 1, 0)?;
        }
        Ok(())
    }
}

/// What is as large as a policy needs; nothing where it needs none.
#[derive(Default)]
struct Variable {
    networks_v4: Option<Pages<PageV4>>,
    networks_v6: Option<Pages<PageV6>>,
    users: Option<HashMap<MapData, UserKey, u32>>,
    groups: Option<HashMap<MapData, GroupKey, u32>>,
    exes: Option<HashMap<MapData, Wire<ExeKey>, u32>>,
}

impl Variable {
    fn of(policy: &Lowered) -> Result<Self, KernelError> {
        let exes = policy.exes.iter().map(|&(device, inode, mask)| {
            let key = ExeKey {
                inode,
                device,
                reserved: 0,
            };
            (Wire(key), mask)
        });
        Ok(Self {
            networks_v4: pages(&policy.networks.v4)?,
            networks_v6: pages(&policy.networks.v6)?,
            users: owners(policy.users.iter().copied())?,
            groups: owners(policy.groups.iter().copied())?,
            exes: owners(exes)?,
        })
    }
}

/// A map of as many pages.
fn pages<P: Copy>(pages: &[P]) -> Result<Option<Pages<P>>, KernelError>
where
    Wire<P>: Pod,
{
    let Some(count) = count(pages.len()) else {
        return Ok(None);
    };
    let mut map: Pages<P> = Map::Array(like(MapShape {
        map_type: ARRAY,
        key_size: 4,
        value_size: size::<P>(),
        max_entries: count,
        map_flags: BPF_F_INNER_MAP,
    })?)
    .try_into()?;
    for (n, page) in (0..).zip(pages) {
        map.set(n, Wire(*page), 0)?;
    }
    Ok(Some(map))
}

/// A map of as many owners and their masks.
fn owners<K: Pod>(
    owners: impl ExactSizeIterator<Item = (K, u32)>,
) -> Result<Option<HashMap<MapData, K, u32>>, KernelError> {
    let Some(count) = count(owners.len()) else {
        return Ok(None);
    };
    let mut map: HashMap<MapData, K, u32> = Map::HashMap(like(MapShape {
        map_type: HASH,
        key_size: size::<K>(),
        value_size: 4,
        max_entries: count,
        map_flags: 0,
    })?)
    .try_into()?;
    for (owner, mask) in owners {
        map.insert(owner, mask, 0)?;
    }
    Ok(Some(map))
}

/// A map like those that the object has in its maps of maps.
fn like(shape: MapShape) -> Result<MapData, KernelError> {
    let map = bpf::typed_map(shape).map_err(|error| KernelError::Map(error.to_string()))?;
    Ok(MapData::from_fd(map)?)
}

fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// How many entries a map is to have: none without any.
fn count(entries: usize) -> Option<u32> {
    u32::try_from(entries).ok().filter(|count| *count > 0)
}

/// Puts a table into a generation; takes away what is there where there is none.
fn put<T: InnerMap>(
    generations: &mut InEachGeneration<T>,
    generation: u32,
    table: Option<&T>,
) -> Result<(), KernelError> {
    if let Some(table) = table {
        return Ok(generations.insert(generation, table, 0)?);
    }
    match generations.remove(&generation) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
            Ok(())
        }
        removed => Ok(removed?),
    }
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
