//! `security_sock_graft(sk, parent)`: an accepted socket gets its file, in the
//! accepting thread, right after `inet_csk_accept` (`net/socket.h`).
//!
//! An entry hook, so it also sees threads that were asleep in accept before the
//! attach. Beside the fexit of `accept` it reports only what that has not; on
//! the kprobe rung it reports every accept, because the kernel has few return
//! probes and each sleeping thread keeps one.

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use port_monitor_common::{
    counters::{Extra, Watcher},
    event::FLAG_PREATTACH,
    site::Site,
};

use crate::{
    account::{self, Look, Stop, ours, readable},
    emit,
    hooks::accept,
    maps::REPORTED,
    mem::{self, Direct, Probe},
    sock, task,
};

/// Notes that `accept` reports what the running thread has accepted.
#[inline(always)]
pub(crate) fn mark() {
    if let Some((word, bit)) = mine() {
        // One may be left of a graft that the kernel did not show.
        // SAFETY: a map value; no other thread changes this bit of it.
        if unsafe { word.read_volatile() } & bit == 0 {
            emit::add(word, bit);
        }
    }
}

/// Takes the note back; false when there is none.
#[inline(always)]
fn take_mark() -> bool {
    let Some((word, bit)) = mine() else {
        return false;
    };
    // SAFETY: as above.
    let is_marked = unsafe { word.read_volatile() } & bit != 0;
    if is_marked {
        emit::add(word, bit.wrapping_neg());
    }
    is_marked
}

/// The running thread's bit, and the word it is in.
#[inline(always)]
fn mine() -> Option<(*mut u64, u64)> {
    let thread = bpf_get_current_pid_tgid() as u32;
    let word = REPORTED.get_ptr_mut(thread / u64::BITS)?;
    Some((word, 1 << (thread % u64::BITS)))
}

#[fentry(function = "security_sock_graft")]
fn pm_graft_fe(ctx: FEntryContext) -> i32 {
    account::look(|| report_unmarked(&ctx, ctx.arg(0)));
    0
}

/// Beside the fexit of `accept` on a preemptible kernel: unlike a trampoline
/// program it is not skipped while a preempted task is in it.
#[kprobe]
fn pm_graft_mkp(ctx: ProbeContext) -> u32 {
    account::look(|| report_unmarked(&ctx, readable(ctx.arg(0), Site::Socket)?));
    0
}

/// By itself: every accept.
#[kprobe]
fn pm_graft_kp(ctx: ProbeContext) -> u32 {
    account::look(|| report(&ctx, readable(ctx.arg(0), Site::Socket)?));
    0
}

#[inline(always)]
fn report_unmarked(ctx: &impl EbpfContext, sk: *const u8) -> Look {
    let is_monitor = task::is_monitor((bpf_get_current_pid_tgid() >> 32) as u32);
    if is_monitor && accepted(sk).is_some() {
        account::add_extra(Extra::Proofs, Watcher::Graft.proof());
    }
    if take_mark() {
        return Err(Stop::NotOurs);
    }
    // As a number, like the first subflow's: to the verifier a pointer that it knows the
    // type of would lead another way through all that follows.
    let sk = mem::address(sk) as *const u8;
    let tcp = ours(accepted(sk))?;
    if !is_monitor {
        account::count_extra(Extra::AcceptPreattach);
    }
    accept::report::<Probe, Probe>(ctx, tcp, FLAG_PREATTACH)
}

#[inline(always)]
fn report(ctx: &impl EbpfContext, sk: *const u8) -> Look {
    accept::report::<Probe, Direct>(ctx, ours(accepted(sk))?, 0)
}

/// The connection behind a grafted socket; Unix sockets and others are grafted too.
#[inline(always)]
fn accepted(sk: *const u8) -> Option<*const u8> {
    sock::family::<Probe>(sk)?;
    sock::tcp(sk)
}
