//! The kernel's counters, summed over the CPUs. They are read from memory: a
//! bpf(2) that reads a map makes the kernel skip kprobe programs meanwhile.

use std::{
    os::fd::AsFd as _,
    ptr, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{Map, MapError},
};
use port_monitor_common::counters::{Counter, Extra, Hook, ROW, slot};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::KernelError;
use crate::record::HookCount;

/// The size of the counter map: a row for each CPU the kernel may ever have.
pub(super) fn slots() -> Result<u32, KernelError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(file, error)| KernelError::Map(format!("read {file}: {error}")))?;
    u32::try_from(cpus)
        .ok()
        .and_then(|cpus| cpus.checked_mul(ROW))
        .ok_or_else(|| KernelError::Map(format!("{cpus} CPUs are too many")))
}

/// The counter map of the loaded object, mapped read-only.
pub struct Counters {
    slots: &'static [AtomicU64],
}

impl Counters {
    /// Maps the counters of the object.
    pub(super) fn map(ebpf: &Ebpf) -> Result<Self, KernelError> {
        let Some(Map::Array(map)) = ebpf.map("pm_counters") else {
            return Err(KernelError::from(MapError::InvalidName {
                name: "pm_counters".to_owned(),
            }));
        };
        let slots = slots()? as usize;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                slots * size_of::<u64>(),
                ProtFlags::READ,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )
        }
        .map_err(|error| KernelError::Map(format!("map the counters: {error}")))?;
        // SAFETY: the mapping has this many readable words, which the programs
        // change atomically; it lives until `drop`, and the slice is not handed
        // out.
        let slots = unsafe { slice::from_raw_parts(start.cast_const().cast(), slots) };
        Ok(Self { slots })
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

    /// Events the ring had no room for, and connections the table had none for:
    /// ends that are not reported.
    pub fn gaps(&self) -> u64 {
        let lost = |hook| self.sum(slot(hook, Counter::ReserveFailed));
        let lost: u64 = Hook::ALL.into_iter().map(lost).sum();
        lost + self.extra(Extra::ConnectionsFull)
    }

    fn sum(&self, index: u32) -> u64 {
        let rows = self.slots.chunks_exact(ROW as usize);
        rows.filter_map(|row| row.get(index as usize))
            .map(|slot| slot.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        let start = self.slots.as_ptr().cast_mut().cast();
        // SAFETY: the mapping of `map`, which nothing refers to any more.
        let unmapped = unsafe { munmap(start, size_of_val(self.slots)) };
        if let Err(error) = unmapped {
            log::warn!("unmap the counters: {error}");
        }
    }
}
