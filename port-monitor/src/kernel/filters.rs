//! The filters of a run, written into the kernel's maps.

use std::{borrow::Borrow, hash::Hash};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use port_monitor_common::{
    config::{
        FILTER_ANY_PORT, FILTER_CGROUP, FILTER_COMM, FILTER_LOCAL_PORT, FILTER_ONLY_DENIED,
        FILTER_ONLY_IN, FILTER_ONLY_OUT, FILTER_ONLY_V4, FILTER_ONLY_V6, FILTER_PID,
        FILTER_REMOTE_NET, FILTER_REMOTE_PORT, FILTER_TREE, FILTER_UID, PORT_SET_WORDS, PortFilter,
    },
    policy::Network,
};

use super::{groups, maps::map};
use crate::{
    events::decode::Direction, host::groups::Groups, policy::text::network::spellings,
    ports::port_set::PortSet,
};

/// An address family to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, IPv4-mapped IPv6 included.
    V4,
    /// IPv6 proper.
    V6,
}

/// What to keep; an empty list or `None` keeps everything. Different filters
/// all have to match, the values of one are alternatives.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Process ids.
    pub pids: Vec<u32>,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Names of threads or their processes, NUL-padded.
    pub comms: Vec<[u8; 16]>,
    /// cgroups, whether they are there yet or not; descendants match too.
    pub groups: Groups,
    /// Only the processes added with [`super::Kernel::watch_process`], and
    /// their descendants.
    pub tree: bool,
    /// Local ports.
    pub local_ports: Option<PortSet>,
    /// Remote ports.
    pub remote_ports: Option<PortSet>,
    /// Ports of either end.
    pub any_ports: Option<PortSet>,
    /// Remote networks.
    pub remote_nets: Vec<Network>,
    /// Address family.
    pub family: Option<Family>,
    /// Direction.
    pub direction: Option<Direction>,
    /// Only what the policy does not want, as far as the kernel side can tell.
    pub only_denied: bool,
}

impl Filters {
    /// Nothing is kept back.
    pub fn keep_all(&self) -> bool {
        self.bits() == 0
    }

    /// The `FILTER_*` bits of the filters that are on.
    pub(super) fn bits(&self) -> u32 {
        let on = [
            (FILTER_PID, !self.pids.is_empty()),
            (FILTER_UID, !self.uids.is_empty()),
            (FILTER_COMM, !self.comms.is_empty()),
            (FILTER_CGROUP, !self.groups.is_empty()),
            (FILTER_TREE, self.tree),
            (FILTER_LOCAL_PORT, self.local_ports.is_some()),
            (FILTER_REMOTE_PORT, self.remote_ports.is_some()),
            (FILTER_ANY_PORT, self.any_ports.is_some()),
            (FILTER_REMOTE_NET, !self.remote_nets.is_empty()),
            (FILTER_ONLY_V4, self.family == Some(Family::V4)),
            (FILTER_ONLY_V6, self.family == Some(Family::V6)),
            (FILTER_ONLY_IN, self.direction == Some(Direction::Inbound)),
            (FILTER_ONLY_OUT, self.direction == Some(Direction::Outbound)),
            (FILTER_ONLY_DENIED, self.only_denied),
        ];
        on.into_iter()
            .filter(|&(_, is_on)| is_on)
            .fold(0, |bits, (bit, _)| bits | bit)
    }

    /// Fills the maps; before anything is attached.
    pub(super) fn write(&self, ebpf: &mut Ebpf) -> Result<(), MapError> {
        insert_all(ebpf, "pm_pids", &self.pids)?;
        insert_all(ebpf, "pm_uids", &self.uids)?;
        insert_all(ebpf, "pm_comms", &self.comms)?;
        groups::write(ebpf, &self.groups)?;
        write_ports(ebpf, PortFilter::Local, self.local_ports.as_ref())?;
        write_ports(ebpf, PortFilter::Remote, self.remote_ports.as_ref())?;
        write_ports(ebpf, PortFilter::Any, self.any_ports.as_ref())?;
        let mut nets = LpmTrie::<_, [u8; 16], u8>::try_from(map(ebpf, "pm_remote_nets")?)?;
        // The programs compare the address as it is on the socket.
        for (prefix_len, first) in self.remote_nets.iter().flat_map(spellings) {
            nets.insert(&Key::new(prefix_len, first), 1, 0)?;
        }
        Ok(())
    }
}

fn insert_all<K: Pod + Eq + Hash>(ebpf: &mut Ebpf, name: &str, keys: &[K]) -> Result<(), MapError> {
    let mut set = HashMap::<_, K, u8>::try_from(map(ebpf, name)?)?;
    keys.iter().try_for_each(|key| insert(&mut set, key))
}

fn insert<M: std::borrow::BorrowMut<MapData>, K: Pod>(
    set: &mut HashMap<M, K, u8>,
    key: impl Borrow<K>,
) -> Result<(), MapError> {
    set.insert(key, 1, 0)
}

fn write_ports(ebpf: &mut Ebpf, set: PortFilter, ports: Option<&PortSet>) -> Result<(), MapError> {
    let Some(ports) = ports else {
        return Ok(());
    };
    let mut array = Array::<_, u64>::try_from(map(ebpf, "pm_port_sets")?)?;
    for (index, word) in (set as u32 * PORT_SET_WORDS..).zip(ports.words().iter()) {
        if *word != 0 {
            array.set(index, word, 0)?;
        }
    }
    Ok(())
}
