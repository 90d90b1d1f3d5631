//! `inet_csk_accept` on its return: the child socket, in the accepting thread
//! (`net/ipv4/inet_connection_sock.c`).
//!
//! A return probe does not see threads that were asleep in accept when it was
//! attached; `graft` does. The kretprobe stands in for `graft` on the kprobe
//! rung where the kernel has no `security_sock_graft`.

use aya_ebpf::{
    EbpfContext,
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};
use port_monitor_common::{
    counters::Hook,
    event::{EventKind, FLAG_ENDED, OwnerSource},
    tcp_state::TcpState,
};

use crate::{
    emit::{self, Draft},
    filter,
    hooks::{connection, graft},
    mem::{Direct, Mem, Probe},
    sock, task,
};

/// Before Linux 6.10: `(sk, flags, err, kern)`, so the result is slot 4.
#[fexit(function = "inet_csk_accept")]
fn pm_accept_fe4(ctx: FExitContext) -> i32 {
    try_accept(&ctx, ctx.arg(4));
    0
}

/// Since Linux 6.10: `(sk, arg)`, so the result is slot 2.
#[fexit(function = "inet_csk_accept")]
fn pm_accept_fe2(ctx: FExitContext) -> i32 {
    try_accept(&ctx, ctx.arg(2));
    0
}

#[kretprobe]
fn pm_accept_krp(ctx: RetProbeContext) -> u32 {
    let sk: *const u8 = ctx.ret();
    if !sk.is_null() {
        // SAFETY: `sk` is the function's result, a live socket.
        unsafe { report::<Probe>(&ctx, sk, 0) };
    }
    0
}

#[inline(always)]
fn try_accept(ctx: &impl EbpfContext, sk: *const u8) {
    // No connection: EAGAIN, EINTR, a closed listener.
    if sk.is_null() || !graft::mark(sk) {
        return;
    }
    // SAFETY: `sk` is the function's result, a live socket.
    unsafe { report::<Direct>(ctx, sk, 0) };
}

/// Reports a child socket accepted by the running thread.
#[inline(always)]
pub(crate) unsafe fn report<M: Mem>(ctx: &impl EbpfContext, sk: *const u8, flags: u16) {
    // SAFETY: the caller's socket.
    let Some(mut flow) = (unsafe { sock::flow::<M>(sk) }) else {
        return;
    };
    if flow.local_port == 0 {
        // The peer has reset it already.
        // SAFETY: as above.
        flow.local_port = unsafe { sock::lasting_local_port::<Probe>(sk) }.unwrap_or(0);
    }
    let ts_ns = emit::now_ns();
    let owner = task::current_owner();
    // SAFETY: the caller's socket.
    let Some(state) = (unsafe { sock::state::<M>(sk) }) else {
        return;
    };
    let ended = if state == TcpState::CLOSE {
        FLAG_ENDED
    } else {
        0
    };
    let draft = Draft {
        hook: Hook::Accept,
        kind: EventKind::Accept,
        flags: flags | ended,
        id: emit::connection_id(sk, ts_ns),
        ts_ns,
        detail: 0,
        flow: &flow,
        owner: &owner,
        owner_source: OwnerSource::Accept,
        owner_passes: filter::owner_passes(&owner, task::current()),
        is_inbound: true,
        stats: None,
    };
    emit::emit(ctx, &draft);
    connection::remember_inbound(ctx, sk, &draft, state);
}
