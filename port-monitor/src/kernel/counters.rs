//! The kernel's counters, summed over the CPUs. They are read from memory: a
//! bpf(2) that reads a map makes the kernel skip kprobe programs meanwhile.

use aya::{
    Ebpf,
    maps::{Map, MapError},
};
use port_monitor_common::counters::{Counter, Extra, Hook, ROW, slot};
use rustix::mm::ProtFlags;

use super::{KernelError, mapped::Mapped};
use crate::record::HookCount;

/// The size of a map that has a row of `each` for every CPU the kernel may ever have.
pub(super) fn of_each_cpu(each: u32) -> Result<u32, KernelError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(file, error)| KernelError::Map(format!("read {file}: {error}")))?;
    u32::try_from(cpus)
        .ok()
        .and_then(|cpus| cpus.checked_mul(each))
        .ok_or_else(|| KernelError::Map(format!("{cpus} CPUs are too many")))
}

/// The counter map of the loaded object, mapped read-only.
pub struct Counters {
    rows: Mapped<[u64; ROW]>,
}

impl Counters {
    /// Maps the counters of the object.
    pub(super) fn map(ebpf: &Ebpf) -> Result<Self, KernelError> {
        let Some(Map::Array(map)) = ebpf.map("pm_counters") else {
            return Err(KernelError::from(MapError::InvalidName {
                name: "pm_counters".to_owned(),
            }));
        };
        let rows = Mapped::new(map, ProtFlags::READ)?;
        Ok(Self { rows })
    }

    /// What one hook's program counts: everything but `skipped`.
    pub fn hook(&self, hook: Hook) -> HookCount {
        HookCount {
            hit: self.sum(slot(hook, Counter::Hit)),
            filtered: self.sum(slot(hook, Counter::Filtered)),
            reserve_failed: self.sum(slot(hook, Counter::ReserveFailed)),
            submitted: self.sum(slot(hook, Counter::Submitted)),
            skipped: 0,
        }
    }

    /// A counter outside the rows.
    pub fn extra(&self, extra: Extra) -> u64 {
        self.sum(extra as u32)
    }

    /// Events that hooks have seen.
    pub fn hits(&self) -> u64 {
        let hits = |hook| self.sum(slot(hook, Counter::Hit));
        Hook::ALL.into_iter().map(hits).sum()
    }

    /// Events the ring had no room for.
    pub fn ring_full(&self) -> u64 {
        let lost = |hook| self.sum(slot(hook, Counter::ReserveFailed));
        Hook::ALL.into_iter().map(lost).sum()
    }

    /// Events the ring had no room for, and connections the table had none for:
    /// ends that are not reported.
    pub fn gaps(&self) -> u64 {
        self.ring_full() + self.extra(Extra::ConnectionsFull)
    }

    fn sum(&self, index: u32) -> u64 {
        let rows = 0..self.rows.len();
        rows.filter_map(|cpu| self.rows.number(cpu, index as usize))
            .sum()
    }
}
