//! The kernel's counters, summed over the CPUs.

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray},
};
use port_monitor_common::counters::{Counter, Extra, Hook, slot};

use crate::record::HookCount;

/// The counter map of the loaded object.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
}

impl Counters {
    /// Takes the map out of the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let map = ebpf
            .take_map("pm_counters")
            .ok_or_else(|| MapError::InvalidName {
                name: "pm_counters".to_owned(),
            })?;
        Ok(Self {
            map: PerCpuArray::try_from(map)?,
        })
    }

    /// What one hook's program counts: everything but `skipped`.
    pub fn hook(&self, hook: Hook) -> Result<HookCount, MapError> {
        Ok(HookCount {
            hit: self.sum(slot(hook, Counter::Hit))?,
            filtered: self.sum(slot(hook, Counter::Filtered))?,
            reserve_failed: self.sum(slot(hook, Counter::ReserveFailed))?,
            submitted: self.sum(slot(hook, Counter::Submitted))?,
            skipped: 0,
        })
    }

    /// A counter outside the rows.
    pub fn extra(&self, extra: Extra) -> Result<u64, MapError> {
        self.sum(extra as u32)
    }

    fn sum(&self, index: u32) -> Result<u64, MapError> {
        Ok(self.map.get(&index, 0)?.iter().sum())
    }
}
