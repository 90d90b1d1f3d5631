//! `inet_sock_set_state`: how an attempt and how a connection ended. Runs in
//! softirq as a rule, so the owner is the one remembered, never `current`.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};
use port_monitor_common::{counters::Watcher, site::Site, tcp_state::TcpState};

use crate::{
    account::{self, Look, readable},
    globals::offset,
    read::{
        mem::{Direct, Mem, Probe},
        task::read,
    },
    report::{connection, once},
};

/// The state changes of a raw tracepoint: socket, old and new state.
#[inline(always)]
pub(crate) fn state_change(ctx: &RawTracePointContext) -> (*const u8, TcpState, TcpState) {
    let state = |n| TcpState(ctx.arg::<u32>(n) as u8);
    (ctx.arg(0), state(1), state(2))
}

/// The state changes of a tracepoint with typed arguments: socket, old and new state.
#[inline(always)]
fn typed_change(ctx: &BtfTracePointContext) -> (*const u8, TcpState, TcpState) {
    let state = |n| TcpState(ctx.arg::<u32>(n) as u8);
    (ctx.arg(0), state(1), state(2))
}

/// The state changes of a perf event's tracepoint: socket, old and new state.
#[inline(always)]
pub(crate) fn event_change(ctx: &TracePointContext) -> Look<(*const u8, TcpState, TcpState)> {
    let event = ctx.as_ptr().cast();
    let sk: *const u8 = readable(read(event, offset!(state_skaddr)), Site::Event)?;
    let old: u32 = readable(read(event, offset!(state_oldstate)), Site::Event)?;
    let new: u32 = readable(read(event, offset!(state_newstate)), Site::Event)?;
    Ok((sk, TcpState(old as u8), TcpState(new as u8)))
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_outcome_rt(ctx: RawTracePointContext) -> i32 {
    first::<Probe>(&ctx, state_change(&ctx));
    0
}

/// What `pm_outcome_rt` does, once more: the kernel lets no program interrupt itself, so what a
/// softirq does in the middle of the first is seen by this one, and what it does
/// in the middle of this one by the first. Each change is reported once.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_again_rt(ctx: RawTracePointContext) -> i32 {
    again::<Probe>(&ctx, state_change(&ctx));
    0
}

/// What `pm_outcome_rt` does, where the kernel has typed arguments for it: it reads the socket
/// by ordinary loads.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn pm_outcome_bt(ctx: BtfTracePointContext) -> i32 {
    first::<Direct>(&ctx, typed_change(&ctx));
    0
}

/// What `pm_again_rt` does, likewise.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn pm_again_bt(ctx: BtfTracePointContext) -> i32 {
    again::<Direct>(&ctx, typed_change(&ctx));
    0
}

#[inline(always)]
fn first<M: Mem>(ctx: &impl EbpfContext, (sk, old, new): (*const u8, TcpState, TcpState)) {
    account::look(|| {
        once::see(once::change::<M>(sk, old, new), || {
            connection::changed::<M, false, { Watcher::Outcome.proof() }>(ctx, sk, old, new)
        })
    });
}

#[inline(always)]
fn again<M: Mem>(ctx: &impl EbpfContext, (sk, old, new): (*const u8, TcpState, TcpState)) {
    account::look(|| {
        once::see_again(once::change::<M>(sk, old, new), || {
            connection::changed::<M, false, { Watcher::Again.proof() }>(ctx, sk, old, new)
        })
    });
}

/// What `pm_outcome_rt` does, where the kernel may preempt a task in the middle of it: by a
/// perf event, which runs with preemption off and is skipped only where it
/// interrupts another one.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn pm_again_tp(ctx: TracePointContext) -> u32 {
    account::look(|| try_again(&ctx));
    0
}

#[inline(always)]
fn try_again(ctx: &TracePointContext) -> Look {
    let (sk, old, new) = event_change(ctx)?;
    connection::changed::<Probe, false, { Watcher::AgainEvent.proof() }>(ctx, sk, old, new)
}
