//! What two programs see is told by the one that comes first: it leaves a mark for the running
//! thread, which the other takes away; or for what comes next on its CPU.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use port_monitor_common::{
    counters::{Extra, Watcher},
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Row, Stop},
    globals::config,
    maps::{MARKS, REPORTED},
    read::{mem::Mem, task},
};

/// What is told once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Accept = 0,
    Attempt = 1,
    Listen = 2,
    /// An attempt, or that a socket listens, for whoever counts what neither has told.
    Local = 3,
}

/// The order in which the kernel runs two programs that see the same: perf events, where they
/// were attached first, before raw tracepoints (`kernel/tracepoint.c`), and kprobes before
/// trampolines (`ftrace_set_direct_func`, `kernel/trace/ftrace.c`).
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    First,
    Second,
}

/// Whether the program that comes first has told it. Where a kernel may preempt a task in the
/// middle of a program it skips either of them at times; elsewhere only one is attached.
#[inline(always)]
pub(crate) fn is_told(turn: Turn, what: What) -> bool {
    if config!(twice) == 0 {
        return false;
    }
    if what == What::Attempt && task::is_monitor(task::current_tgid()) {
        let watcher = match turn {
            Turn::First => Watcher::AttemptFirst,
            Turn::Second => Watcher::AttemptSecond,
        };
        account::add_extra(Extra::FurtherProofs, watcher.proof());
    }
    match turn {
        Turn::First => {
            mark(what);
            false
        }
        Turn::Second if take_mark(what) => true,
        Turn::Second => {
            account::count_extra(match what {
                What::Listen => Extra::ListensSecond,
                _ => Extra::AttemptsSecond,
            });
            false
        }
    }
}

/// Notes that what the running thread does is told.
#[inline(always)]
pub(crate) fn mark(what: What) {
    if let Some((word, bit)) = mine(what) {
        // One may be left where the kernel skipped the program that takes it.
        // SAFETY: a map value; no other thread changes this bit of it.
        if unsafe { word.read_volatile() } & bit == 0 {
            account::add(word, bit);
        }
    }
}

/// Takes the note back; false when there is none.
#[inline(always)]
pub(crate) fn take_mark(what: What) -> bool {
    let Some((word, bit)) = mine(what) else {
        return false;
    };
    // SAFETY: as above.
    let is_marked = unsafe { word.read_volatile() } & bit != 0;
    if is_marked {
        account::add(word, bit.wrapping_neg());
    }
    is_marked
}

/// No change of a socket's state has been seen to its end, or one that each program proves to
/// see by itself.
const UNSEEN: u64 = 0;
const PROVING: u64 = 1;

/// A change of a socket's state, as a number.
#[inline(always)]
pub(crate) fn change<M: Mem>(sk: *const u8, old: TcpState, new: TcpState) -> u64 {
    M::number(sk) ^ (u64::from(old.0) << 8 | u64::from(new.0)) << 48
}

/// Has the first of two programs `look` at a change, and notes that it has for the second, which
/// runs next. While it looks nothing is noted: the kernel lets no program interrupt itself,
/// so what a softirq does meanwhile, only the second sees. Nor is anything where it gives up: the
/// second tries again.
#[inline(always)]
pub(crate) fn see(change: u64, look: impl FnOnce() -> Look) -> Look {
    note_seen(UNSEEN);
    let told = look();
    if config!(in_turn) != 0
        && !matches!(told, Err(Stop::GaveUp(_)))
        && let Some(row) = Row::of_this_cpu()
        // SAFETY: a map value; what interrupts this has come to its end.
        && unsafe { row.seen().read_volatile() } != PROVING
    {
        // SAFETY: as above.
        unsafe { row.seen().write_volatile(change) };
    }
    told
}

/// Each program is to see this change by itself.
#[inline(always)]
pub(crate) fn prove_each() {
    note_seen(PROVING);
}

#[inline(always)]
fn note_seen(change: u64) {
    if config!(in_turn) != 0
        && let Some(row) = Row::of_this_cpu()
    {
        // SAFETY: a map value of this CPU.
        unsafe { row.seen().write_volatile(change) };
    }
}

/// Has the second of the two programs `look` at a change that the first has not seen. It leaves
/// no note behind: where a softirq interrupts the first before that notes anything, a later
/// change of a socket at the same address would be taken for the one that was noted last.
#[inline(always)]
pub(crate) fn see_again(change: u64, look: impl FnOnce() -> Look) -> Look {
    let told = if is_seen(change) {
        Err(Stop::NotOurs)
    } else {
        look()
    };
    note_seen(UNSEEN);
    told
}

/// The first of the two programs has seen this change.
#[inline(always)]
fn is_seen(change: u64) -> bool {
    // SAFETY: a map value of this CPU.
    config!(in_turn) != 0
        && Row::of_this_cpu().is_some_and(|row| unsafe { row.seen().read_volatile() } == change)
}

/// The running thread's bit, and the word it is in.
#[inline(always)]
fn mine(what: What) -> Option<(*mut u64, u64)> {
    let thread = bpf_get_current_pid_tgid() as u32;
    let word = REPORTED.get_ptr_mut(what as u32 * MARKS + thread / u64::BITS)?;
    Some((word, 1 << (thread % u64::BITS)))
}
