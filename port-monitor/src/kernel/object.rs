//! The embedded eBPF object: loads its maps, with the run's settings as
//! read-only globals. Programs are loaded by the ladder.

use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use port_monitor_common::{
    config::{Config, Offsets},
    event::ABI_SYMBOL,
};

use super::pod::Wire;

/// The committed object; the build script has checked it against its sources.
static OBJECT: &[u8] = include_bytes_aligned!(env!("PORT_MONITOR_BPF_OBJECT"));

/// Creates the object's maps, for these settings.
///
/// `log_level` is aya-log's: 0 for off, 5 for trace.
pub(super) fn load(
    offsets: &Offsets,
    config: &Config,
    ring_bytes: u32,
    max_connections: u32,
    follows_tree: bool,
    counter_slots: u32,
    log_level: u8,
) -> Result<Ebpf, EbpfError> {
    let offsets = Wire(*offsets);
    let config = Wire(*config);
    let abi = u32::from(port_monitor_common::ABI_VERSION);
    let mut loader = EbpfLoader::new();
    if !follows_tree {
        // The kernel allocates every entry at once.
        loader.map_max_entries("pm_tree", 1);
    }
    loader
        .btf(None)
        .override_global("OFFSETS", &offsets, true)
        .override_global("CONFIG", &config, true)
        .override_global(ABI_SYMBOL, &abi, true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .map_max_entries("pm_events", ring_bytes)
        .map_max_entries("pm_connections", max_connections)
        .map_max_entries("pm_counters", counter_slots)
        .load(OBJECT)
}
