//! `inet_sock_set_state`: how an attempt and how a connection ended. Runs in softirq as a rule, so
//! the owner is the one remembered at the attempt, never `current`.

use aya_ebpf::{
    EbpfContext,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use port_monitor_common::{counters::Hook, event::EventKind, tcp_state::TcpState};

use crate::{
    emit::{self, Draft},
    hooks::connection::{self, Connection},
    maps::CONNECTIONS,
    mem::Probe,
    sock,
    task::{self, read},
};

/// `skaddr`, `oldstate` and `newstate` in the format of `sock:inet_sock_set_state`.
const SKADDR: usize = 8;
const OLDSTATE: usize = 16;
const NEWSTATE: usize = 20;

/// The state changes of a raw tracepoint: socket, old and new state.
#[inline(always)]
pub(crate) fn state_change(ctx: &RawTracePointContext) -> (*const u8, TcpState, TcpState) {
    let state = |n| TcpState(ctx.arg::<u32>(n) as u8);
    (ctx.arg(0), state(1), state(2))
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_outcome_rt(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = state_change(&ctx);
    changed(&ctx, sk, old, new);
    0
}

/// The same once more: the kernel lets no program interrupt itself, so what a
/// softirq does in the middle of the first is seen by this one, and what it does
/// in the middle of this one by the first. Each change is reported once.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_again_rt(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = state_change(&ctx);
    changed(&ctx, sk, old, new);
    0
}

/// The same where the kernel may preempt a task in the middle of a program: by a
/// perf event, which runs with preemption off and is skipped only where it
/// interrupts another one.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn pm_again_tp(ctx: TracePointContext) -> u32 {
    let _: Option<()> = try_again(&ctx);
    0
}

#[inline(always)]
fn try_again(ctx: &TracePointContext) -> Option<()> {
    let event = ctx.as_ptr().cast();
    let sk: *const u8 = read(event, SKADDR)?;
    let old: u32 = read(event, OLDSTATE)?;
    let new: u32 = read(event, NEWSTATE)?;
    changed(ctx, sk, TcpState(old as u8), TcpState(new as u8));
    Some(())
}

#[inline(always)]
fn changed(ctx: &impl EbpfContext, sk: *const u8, old: TcpState, new: TcpState) {
    if !ends_attempt(old, new) || is_returned(sk, new) || !report(ctx, sk, new) {
        connection::changed(ctx, sk, old, new);
    }
}

/// The attempt fails within `connect`, not by an error on the socket nor because
/// its owner gives it up: `unsent` reports what `connect` returns, if somebody asks.
#[inline(always)]
fn is_returned(sk: *const u8, new: TcpState) -> bool {
    // SAFETY: the tracepoint's socket is live.
    new == TcpState::CLOSE
        && emit::is_wanted(EventKind::Failed)
        && unsafe { sock::error::<Probe>(sk) } == Some(0)
        && unsafe { sock::is_within_connect(sk) }
}

/// The change may end an attempt: `SYN_RECV` comes of a simultaneous open.
#[inline(always)]
pub(crate) fn ends_attempt(old: TcpState, new: TcpState) -> bool {
    (old == TcpState::SYN_SENT || old == TcpState::SYN_RECV)
        && (new == TcpState::ESTABLISHED || new == TcpState::CLOSE)
}

/// Reports the outcome of the attempt on `sk`; false when none is pending.
#[inline(always)]
pub(crate) fn report(ctx: &impl EbpfContext, sk: *const u8, new: TcpState) -> bool {
    let key = sk as u64;
    let Some(attempt) = CONNECTIONS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a map value; only changes of this very socket's state, which do
    // not run concurrently, write or remove it.
    let attempt = unsafe { &mut *attempt };
    if attempt.is_open != 0 {
        return false;
    }
    let _: Option<()> = report_attempt(ctx, sk, new, attempt);
    let is_monitor = task::is_monitor(attempt.owner.tgid);
    if new == TcpState::ESTABLISHED && (is_monitor || connection::is_end_wanted()) {
        attempt.is_open = 1;
    } else {
        let _: Result<(), i32> = CONNECTIONS.remove(key);
    }
    true
}

#[inline(always)]
fn report_attempt(
    ctx: &impl EbpfContext,
    sk: *const u8,
    new: TcpState,
    attempt: &Connection,
) -> Option<()> {
    // SAFETY: the tracepoint's socket is live.
    let mut flow = unsafe { sock::flow::<Probe>(sk) }?;
    // SAFETY: as above.
    flow.local_port = unsafe { sock::lasting_local_port::<Probe>(sk) }?;
    let ts_ns = emit::now_ns();
    let (kind, detail) = if new == TcpState::ESTABLISHED {
        (EventKind::Connected, handshake_us(attempt.ts_ns, ts_ns))
    } else {
        // SAFETY: as above.
        (EventKind::Failed, unsafe { sock::error::<Probe>(sk) }?)
    };
    emit::emit(
        ctx,
        &Draft {
            hook: Hook::Outcome,
            kind,
            flags: 0,
            id: attempt.id,
            ts_ns,
            detail,
            flow: &flow,
            owner: &attempt.owner,
            owner_source: attempt.owner_source(),
            owner_passes: true,
            is_inbound: false,
            stats: None,
        },
    );
    Some(())
}

/// Zero where the beginning was not seen, and only there.
#[inline(always)]
fn handshake_us(start_ns: u64, end_ns: u64) -> u32 {
    if start_ns == 0 {
        return 0;
    }
    let us = end_ns.saturating_sub(start_ns) / 1_000;
    if us > u64::from(u32::MAX) {
        u32::MAX
    } else if us == 0 {
        1
    } else {
        us as u32
    }
}
