//! The embedded eBPF object: loads its maps, with the run's settings as
//! read-only globals. Programs are loaded by the backends.

use aya::{Ebpf, EbpfError};
use flate2::{Decompress, FlushDecompress};
use port_monitor_common::{
    config::Config,
    event::ABI_SYMBOL,
    generation::{MASKS, PORT_WORDS, RULES},
    offsets::Offsets,
};
use zerocopy::IntoBytes as _;

use super::{
    aya_workarounds::{blanked_names::Few, file_limit},
    holders::CLOSERS,
    pod::Wire,
    ring::VIOLATIONS,
    settings::MIN_RING_BYTES,
};

/// The committed object, as the build script has packed it, after it has checked it against its
/// sources.
static PACKED: &[u8] = include_bytes!(env!("PORT_MONITOR_BPF_PACKED"));
/// Its size when it is unpacked.
const BYTES: usize = match usize::from_str_radix(env!("PORT_MONITOR_BPF_BYTES"), 10) {
    Ok(bytes) => bytes,
    Err(_) => panic!("not a number"),
};

/// The committed object, unpacked: not kept, because it is needed once.
pub(super) struct Object(Vec<u64>);

impl Object {
    /// Unpacks it.
    pub(super) fn unpack() -> Self {
        // Aligned as an ELF file is.
        let mut words = vec![0; BYTES.div_ceil(size_of::<u64>())];
        let room = words.as_mut_bytes();
        if let Err(error) = Decompress::new(true).decompress(PACKED, room, FlushDecompress::Finish)
        {
            // What is left of it is no object, which whoever loads it will say.
            log::error!("unpack the eBPF object: {error}");
        }
        Self(words)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes().get(..BYTES).unwrap_or_default()
    }
}

/// The maps whose size depends on what the object is used for. The kernel allocates
/// all of a map at once.
pub(super) struct Sizes {
    entries: Vec<(&'static str, u32)>,
    /// Those whose entries it allocates one by one. No program of a tracepoint or kprobe
    /// may use one on a kernel with `PREEMPT_RT` before Linux 6.1.
    late: &'static [&'static str],
}

/// What only enforcement asks, beside `pm_state`.
pub(super) const POLICY_MAPS: [&str; 12] = [
    "pm_policies",
    "pm_rules",
    "pm_masks",
    "pm_ports",
    "pm_ends",
    "pm_networks_v4",
    "pm_networks_v6",
    "pm_users",
    "pm_groups",
    "pm_exes",
    "pm_self",
    "pm_hits",
];

/// Those of them that hold a table for each generation.
pub(super) const IN_EACH_GENERATION: [&str; 5] = [
    "pm_networks_v4",
    "pm_networks_v6",
    "pm_users",
    "pm_groups",
    "pm_exes",
];

/// The ring of denials: with their headers, 4,096 of them.
const DENIALS_BYTES: u32 = 256 << 10;

/// What only the monitor fills.
const MONITOR_MAPS: [&str; 19] = [
    "pm_counters",
    "pm_failures",
    "pm_connections",
    "pm_reported",
    "pm_connecting",
    "pm_listening",
    "pm_listeners",
    "pm_listener_sks",
    "pm_pids",
    "pm_uids",
    "pm_comms",
    "pm_cgroups",
    "pm_nodes",
    "pm_patterns",
    "pm_tree",
    "pm_port_sets",
    "pm_remote_nets",
    "pm_state",
    "pm_executables",
];

impl Sizes {
    /// Of the monitor. `ring_bytes` is the ring's, `connections` the ends it
    /// remembers, `counters` the counters of all CPUs.
    pub(super) fn monitor(ring_bytes: u32, connections: u32, counters: u32) -> Self {
        let unused = POLICY_MAPS.map(|name| (name, 1));
        let sizes = [
            ("pm_events", ring_bytes),
            (VIOLATIONS, MIN_RING_BYTES),
            (CLOSERS, MIN_RING_BYTES),
            ("pm_connections", connections),
            ("pm_counters", counters),
        ];
        Self {
            entries: unused.into_iter().chain(sizes).collect(),
            late: &[],
        }
    }

    /// With room for so many policies, whose violations have a ring of their own as large as the
    /// other.
    pub(super) fn with_policies(mut self, policies: u32, ring_bytes: u32) -> Self {
        self.entries
            .extend(IN_EACH_GENERATION.map(|name| (name, policies)));
        self.entries.extend([
            ("pm_policies", policies),
            ("pm_ends", policies),
            ("pm_rules", policies * RULES),
            ("pm_masks", policies * MASKS),
            ("pm_ports", policies * PORT_WORDS),
            (VIOLATIONS, ring_bytes),
        ]);
        self
    }

    /// With so many slots for what processes execute.
    pub(super) fn with_executables(mut self, slots: u32) -> Self {
        self.entries.push(("pm_executables", slots));
        self
    }

    /// With a ring of those who close listeners: half as large as that of events, which has
    /// at least one, and a larger one, for each of them.
    pub(super) fn with_closers(mut self, ring_bytes: u32) -> Self {
        let bytes = (ring_bytes / 2).max(MIN_RING_BYTES);
        self.entries.push((CLOSERS, bytes));
        self
    }

    /// Without the tree of a command.
    pub(super) fn without_tree(mut self) -> Self {
        self.entries.push(("pm_tree", 1));
        self
    }

    /// Without a filter of cgroups.
    pub(super) fn without_groups(mut self) -> Self {
        self.entries.extend([("pm_cgroups", 1), ("pm_nodes", 1)]);
        self
    }

    /// With a filter of cgroups that has so many names to look for, and rows.
    pub(super) fn with_groups(mut self, names: u32, rows: u32) -> Self {
        let names = [("pm_names", names.max(1)), ("pm_patterns", rows.max(1))];
        self.entries.extend(names);
        self
    }

    /// With room for no more than so many listeners, for tests.
    pub(super) fn with_listeners(mut self, entries: u32) -> Self {
        self.entries.push(("pm_listening", entries));
        self
    }

    /// Of enforcement; `hits` are the counters of all CPUs.
    pub(super) fn enforcer(hits: u32) -> Self {
        let unused = MONITOR_MAPS.map(|name| (name, 1));
        let sizes = [
            ("pm_events", DENIALS_BYTES),
            (VIOLATIONS, MIN_RING_BYTES),
            (CLOSERS, MIN_RING_BYTES),
            ("pm_hits", hits),
        ];
        Self {
            entries: unused.into_iter().chain(sizes).collect(),
            late: &["pm_self"],
        }
    }
}

/// Creates the object's maps, for these settings, and takes these programs from it.
///
/// `log_level` is aya-log's: 0 for off, 5 for trace.
pub(super) fn load(
    offsets: &Offsets,
    config: &Config,
    sizes: &Sizes,
    log_level: u8,
    programs: &[&str],
) -> Result<Ebpf, EbpfError> {
    let object = Object::unpack();
    let mut few = Few::of(object.bytes(), programs);
    if let Some(few) = &mut few {
        for map in sizes.late {
            // It takes more memory otherwise.
            let _ = few.allocate_late(map);
        }
    }
    let offsets = Wire(*offsets);
    let config = Wire(*config);
    let abi = u32::from(port_monitor_common::ABI_VERSION);
    let mut loader = file_limit::new_loader();
    for &(map, entries) in &sizes.entries {
        loader.map_max_entries(map, entries);
    }
    loader
        .btf(None)
        .override_global("OFFSETS", &offsets, true)
        .override_global("CONFIG", &config, true)
        .override_global(ABI_SYMBOL, &abi, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .load(match &few {
            Some(few) => few.bytes(),
            None => object.bytes(),
        })
}

#[cfg(test)]
mod tests {
    use crate::kernel::object::*;

    #[test]
    fn the_object_is_the_committed_one() {
        let committed = std::fs::read(env!("PORT_MONITOR_BPF_OBJECT")).unwrap();
        let object = Object::unpack();
        assert!(object.bytes() == committed);
        assert!(PACKED.len() < committed.len() / 4);
        assert_eq!(object.bytes().as_ptr().addr() % 8, 0);
    }
}
