//! The kernel's counters, summed over the CPUs, and the failures it counted. They are read from memory: a
//! bpf(2) that reads a map makes the kernel skip kprobe programs meanwhile.

use std::cell::Cell;

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
};
use port_monitor_common::{
    counters::{Counter, Extra, Hook, ROW, extra_slot, slot},
    site::{ERRNOS, INJECT, Site, TOTAL},
};
use rustix::mm::ProtFlags;

use super::{error::KernelError, mapped::Mapped};
use crate::events::record::{Failed, HookCount};

/// The size of a map that has a row of `each` for every CPU the kernel may ever have.
pub(super) fn of_each_cpu(each: u32) -> Result<u32, KernelError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(file, error)| KernelError::Map(format!("read {file}: {error}")))?;
    u32::try_from(cpus)
        .ok()
        .and_then(|cpus| cpus.checked_mul(each))
        .ok_or_else(|| KernelError::Map(format!("{cpus} CPUs are too many")))
}

/// The counter maps of the loaded object.
pub struct Counters {
    rows: Mapped<[u64; ROW]>,
    failures: Mapped<u64>,
    /// Of all failures, how many had been counted when those that lose events were last
    /// looked for, and how many of these there were.
    known: Cell<(u64, u64)>,
}

impl Counters {
    /// Maps the counters of the object.
    pub(super) fn map(ebpf: &Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            rows: Mapped::new(array(ebpf, "pm_counters")?, ProtFlags::READ)?,
            failures: Mapped::new(
                array(ebpf, "pm_failures")?,
                ProtFlags::READ | ProtFlags::WRITE,
            )?,
            known: Cell::default(),
        })
    }

    /// Has the programs fail at a site from now on: only where they were loaded for that.
    pub(super) fn inject(&self, site: Site) {
        self.failures.set(INJECT as usize, &(site as u64 + 1));
    }

    /// What failed in the kernel: site, errno, and how often.
    pub fn failures(&self) -> Vec<Failed> {
        if self.failure(TOTAL) == 0 {
            return Vec::new();
        }
        let errnos = Site::ALL
            .into_iter()
            .flat_map(|site| (0..ERRNOS).map(move |errno| (site, errno)));
        let failed = errnos.map(|(site, errno)| Failed {
            site,
            errno,
            count: self.failure(site as u32 * ERRNOS + errno),
        });
        failed.filter(|failed| failed.count > 0).collect()
    }

    /// How often something failed at a site.
    pub(super) fn failures_at(&self, site: Site) -> u64 {
        let errnos = 0..ERRNOS;
        errnos
            .map(|errno| self.failure(site as u32 * ERRNOS + errno))
            .sum()
    }

    fn failure(&self, index: u32) -> u64 {
        self.failures.number(index as usize, 0).unwrap_or(0)
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
        self.sum(extra_slot(extra))
    }

    /// Events that hooks have seen.
    pub fn hits(&self) -> u64 {
        let hits = |hook| self.sum(slot(hook, Counter::Hit));
        Hook::ALL.into_iter().map(hits).sum()
    }

    /// Events that a filter in the kernel has kept back.
    pub fn filtered(&self) -> u64 {
        let filtered = |hook| self.sum(slot(hook, Counter::Filtered));
        Hook::ALL.into_iter().map(filtered).sum()
    }

    /// Events the ring had no room for.
    pub fn ring_full(&self) -> u64 {
        let lost = |hook| self.sum(slot(hook, Counter::ReserveFailed));
        Hook::ALL.into_iter().map(lost).sum()
    }

    /// Events the ring had no room for, and failures for which events of connections are
    /// not reported.
    pub fn gaps(&self) -> u64 {
        let total = self.failure(TOTAL);
        let (known, mut gaps) = self.known.get();
        if total != known {
            let loses = |failed: &Failed| failed.site.gives_up() || failed.site == Site::Remember;
            let failures = self.failures().into_iter();
            gaps = failures.filter(loses).map(|failed| failed.count).sum();
            self.known.set((total, gaps));
        }
        self.ring_full() + gaps
    }

    /// Looks that programs began, and those of them that ended without an event: for there
    /// was nothing to report, or they were the self-test's.
    pub fn looks(&self) -> (u64, u64) {
        let not_ours = self.extra(Extra::NotOurs) + self.extra(Extra::SelfTest);
        (
            self.extra(Extra::Ours) + self.extra(Extra::NotOurs),
            not_ours,
        )
    }

    fn sum(&self, index: u32) -> u64 {
        let rows = 0..self.rows.len();
        rows.filter_map(|cpu| self.rows.number(cpu, index as usize))
            .sum()
    }
}

/// An array of the object.
pub(super) fn array<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a MapData, KernelError> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => Ok(map),
        _ => Err(KernelError::from(MapError::InvalidName {
            name: name.to_owned(),
        })),
    }
}
