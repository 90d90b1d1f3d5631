//! `security_sock_graft(sk, parent)`: an accepted socket gets its file, in the
//! accepting thread, right after `inet_csk_accept` (`net/socket.h`).
//!
//! An entry hook, so it also sees threads that were asleep in accept before the
//! attach. It reports only what `accept` has not.

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
    maps::ACCEPTED,
    mem::{Direct, Mem, Probe},
    sock, task,
};

/// Notes that `accept` reports `sk`; false when that cannot be noted, and the
/// report is left to this hook.
#[inline(always)]
pub(crate) fn mark(sk: *const u8) -> bool {
    ACCEPTED.insert(thread(), sk as u64, 0).is_ok()
}

#[fentry(function = "security_sock_graft")]
fn pm_graft_fe(ctx: FEntryContext) -> i32 {
    try_graft::<Direct>(&ctx, ctx.arg(0));
    0
}

#[kprobe]
fn pm_graft_kp(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        try_graft::<Probe>(&ctx, sk);
    }
    0
}

#[inline(always)]
fn try_graft<M: Mem>(ctx: &impl EbpfContext, sk: *const u8) {
    let thread = thread();
    // SAFETY: only this thread writes its own entry.
    let marked = unsafe { ACCEPTED.get(thread) }.copied();
    if marked.is_some() {
        let _: Result<(), i32> = ACCEPTED.remove(thread);
    }
    if marked == Some(sk as u64) {
        return;
    }
    // SAFETY: `sk` is the function's argument, a live socket.
    let is_ours = unsafe { sock::family::<M>(sk) }.is_some();
    // SAFETY: as above.
    if !is_ours || !unsafe { sock::is_tcp::<M>(sk) } {
        return;
    }
    if !task::is_monitor((bpf_get_current_pid_tgid() >> 32) as u32) {
        emit::count_extra(Extra::AcceptPreattach);
    }
    // SAFETY: as above.
    unsafe { accept::report::<M>(ctx, sk, FLAG_PREATTACH) };
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}
