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
use port_monitor_common::{counters::Extra, event::FLAG_PREATTACH};

use crate::{
    emit,
    hooks::accept,
    maps::REPORTED,
    mem::{self, Probe},
    sock, task,
};

/// Notes that `accept` reports `sk`; false when that cannot be noted, and the
/// report is left to this hook.
#[inline(always)]
pub(crate) fn mark(sk: *const u8) -> bool {
    REPORTED.insert(sk as u64, 0, 0).is_ok()
}

/// Takes the note back; false when there is none.
#[inline(always)]
fn take_mark(sk: *const u8) -> bool {
    REPORTED.remove(sk as u64).is_ok()
}

#[fentry(function = "security_sock_graft")]
fn pm_graft_fe(ctx: FEntryContext) -> i32 {
    let _: Option<()> = report_unmarked(&ctx, ctx.arg(0));
    0
}

/// Beside the fexit of `accept` on a preemptible kernel: unlike a trampoline
/// program it is not skipped while a preempted task is in it.
#[kprobe]
fn pm_graft_mkp(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        let _: Option<()> = report_unmarked(&ctx, sk);
    }
    0
}

/// By itself: every accept.
#[kprobe]
fn pm_graft_kp(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        let _: Option<()> = report(&ctx, sk);
    }
    0
}

#[inline(always)]
fn report_unmarked(ctx: &impl EbpfContext, sk: *const u8) -> Option<()> {
    if take_mark(sk) {
        return None;
    }
    // As a number, like the first subflow's: to the verifier a pointer that it knows the
    // type of would lead another way through all that follows.
    let sk = mem::address(sk) as *const u8;
    let tcp = accepted(sk)?;
    if tcp != sk && take_mark(tcp) {
        return None;
    }
    if !task::is_monitor((bpf_get_current_pid_tgid() >> 32) as u32) {
        emit::count_extra(Extra::AcceptPreattach);
    }
    accept::report::<Probe>(ctx, tcp, FLAG_PREATTACH)
}

#[inline(always)]
fn report(ctx: &impl EbpfContext, sk: *const u8) -> Option<()> {
    accept::report::<Probe>(ctx, accepted(sk)?, 0)
}

/// The connection behind a grafted socket; Unix sockets and others are grafted too.
#[inline(always)]
fn accepted(sk: *const u8) -> Option<*const u8> {
    sock::family::<Probe>(sk)?;
    sock::tcp(sk)
}
