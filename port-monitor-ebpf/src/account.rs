//! The account of the monitor's programs: each look at something begins with [`look`],
//! which counts it, and ends in exactly one of what `port_monitor_common::counters` has.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use port_monitor_common::{
    counters::{Extra, ROW, SEEN, extra_slot},
    site::{INJECT, Site, TOTAL, failure},
};

use crate::{
    globals::config,
    maps::{COUNTERS, FAILURES},
};

/// `EFAULT`, as helpers return it: what reading memory fails with.
const EFAULT: i32 = -14;
/// `ENOENT`, likewise: there is no such entry, or not any more.
const ENOENT: i32 = -2;
/// `EBUSY`, likewise: what failures that tests ask for fail with.
const EBUSY: i32 = -16;

/// Why a look ends without an event.
#[derive(Clone, Copy)]
pub(crate) enum Stop {
    /// There is nothing to report.
    NotOurs,
    /// What has to be known cannot be read.
    GaveUp(Site),
}

/// How a look ends: `Ok` with an event that is counted.
pub(crate) type Look<T = ()> = Result<T, Stop>;

/// The CPU the program runs on.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// The counters of this CPU.
#[derive(Clone, Copy)]
pub(crate) struct Row(*mut [u64; ROW]);

impl Row {
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<Self> {
        COUNTERS.get_ptr_mut(cpu()).map(Self)
    }

    /// Adds one to a counter.
    #[inline(always)]
    pub(crate) fn count(self, index: u32) {
        add_one(self.at(index));
    }

    /// Which change of a socket's state the first of two programs has seen here.
    #[inline(always)]
    pub(crate) fn seen(self) -> *mut u64 {
        self.at(SEEN)
    }

    #[inline(always)]
    fn at(self, index: u32) -> *mut u64 {
        self.0.cast::<u64>().wrapping_add(index as usize)
    }
}

/// Counts one of the [`Extra`] counters.
#[inline(always)]
pub(crate) fn count_extra(extra: Extra) {
    add_extra(extra, 1);
}

/// Adds to one of the [`Extra`] counters.
#[inline(always)]
pub(crate) fn add_extra(extra: Extra, more: u64) {
    if let Some(row) = Row::of_this_cpu() {
        add(row.at(extra_slot(extra)), more);
    }
}

/// Looks at something, and counts that and how it ends: in one number where there is
/// nothing to report, as most looks end.
#[inline(always)]
pub(crate) fn look(at: impl FnOnce() -> Look) {
    ended(if is_injected(Site::Socket) {
        Err(Stop::GaveUp(Site::Socket))
    } else {
        at()
    });
}

/// Counts a look that has ended.
#[inline(always)]
pub(crate) fn ended(ended: Look) {
    if let Err(Stop::GaveUp(site)) = ended {
        unreadable(site);
    }
    count_extra(match ended {
        Err(Stop::NotOurs) => Extra::NotOurs,
        Ok(()) | Err(Stop::GaveUp(_)) => Extra::Ours,
    });
}

/// What is there, or nothing to report.
#[inline(always)]
pub(crate) fn ours<T>(value: Option<T>) -> Look<T> {
    value.ok_or(Stop::NotOurs)
}

/// What could be read, or the end of the look.
#[inline(always)]
pub(crate) fn readable<T>(value: Option<T>, site: Site) -> Look<T> {
    value.ok_or(Stop::GaveUp(site))
}

/// Counts a failure: `error` is a negative errno.
#[inline(always)]
pub(crate) fn failed(site: Site, error: i32) {
    pm_failed(failure(site, error).into());
}

/// Counts a failure by its index. A function that the verifier looks at by itself, once,
/// whoever calls it: so there is little to look at on each of the many ways that lead here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_failed(index: u64) -> u64 {
    for index in [index as u32, TOTAL] {
        if let Some(count) = FAILURES.get_ptr_mut(index) {
            add_one(count);
        }
    }
    0
}

/// Counts something that could not be read.
#[inline(always)]
pub(crate) fn unreadable(site: Site) {
    failed(site, EFAULT);
}

/// Whether a map took what `store` gives it; counted where it did not.
#[inline(always)]
pub(crate) fn is_stored(site: Site, store: impl FnOnce() -> Result<(), i32>) -> bool {
    let result = if is_injected(site) {
        Err(EBUSY)
    } else {
        store()
    };
    if let Err(error) = result {
        failed(site, error);
    }
    result.is_ok()
}

/// Lets the result of a map go that another counter tells of: the caller says which.
#[inline(always)]
pub(crate) fn counted_elsewhere(_: Result<(), i32>) {}

/// Lets the error of a read go that leaves a zero in the record: what is missing there
/// tells of it.
#[inline(always)]
pub(crate) fn told_by_record(_: i64) {}

/// Lets the error of a write go that has no room for a record of an iterator: the kernel
/// comes to the same again when there is.
#[inline(always)]
pub(crate) fn asked_again(_: i64) {}

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is gone, by this call.
    Removed,
    /// There was none.
    Absent,
    /// It is still there: the failure is counted.
    Failed,
}

/// Removes an entry by `remove`.
#[inline(always)]
pub(crate) fn removal(site: Site, remove: impl FnOnce() -> Result<(), i32>) -> Removal {
    let result = if is_injected(site) {
        Err(EBUSY)
    } else {
        remove()
    };
    match result {
        Ok(()) => Removal::Removed,
        Err(ENOENT) => Removal::Absent,
        Err(error) => {
            failed(site, error);
            Removal::Failed
        }
    }
}

/// A test asks for a failure here.
#[inline(always)]
pub(crate) fn is_injected(site: Site) -> bool {
    if config!(inject) == 0 {
        return false;
    }
    FAILURES.get(INJECT).copied() == Some(site as u64 + 1)
}

/// Adds one to a number in a map.
#[inline(always)]
pub(crate) fn add_one(counter: *mut u64) {
    add(counter, 1);
}

/// Adds to a number in a map. Atomic, because another hook may interrupt
/// between load and store: tracing programs are preemptible.
#[inline(always)]
pub(crate) fn add(number: *mut u64, more: u64) {
    // The target's core has no atomic add; this form of it needs no more
    // than Linux 5.10 and the first BPF instruction set.
    // SAFETY: a map value is valid for as long as the program runs.
    unsafe {
        asm!("lock *(u64 *)({number} + 0) += {more}", number = in(reg) number, more = in(reg) more);
    }
}
