//! `inet_sock_set_state`: how an attempt ended. Runs in softirq as a rule, so
//! the owner is the one remembered at the attempt, never `current`.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{EventKind, Owner, OwnerSource},
    tcp_state::TcpState,
};

use crate::{
    emit::{self, Draft},
    filter,
    maps::PENDING,
    mem::Probe,
    sock::{self, Flow},
    task,
};

/// An attempt whose outcome is not known yet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Pending {
    pub(crate) owner: Owner,
    pub(crate) id: u64,
    pub(crate) ts_ns: u64,
}

impl Pending {
    /// An attempt by the running thread, now.
    #[inline(always)]
    pub(crate) fn new(sk: *const u8) -> Self {
        let ts_ns = emit::now_ns();
        Self {
            owner: task::current_owner(),
            id: emit::connection_id(sk, ts_ns),
            ts_ns,
        }
    }
}

/// Keeps what later events of this attempt will need.
#[inline(always)]
pub(crate) fn remember(sk: *const u8, pending: &Pending, owner_passes: bool, flow: &Flow) {
    let wanted = emit::is_wanted(EventKind::Connected) || emit::is_wanted(EventKind::Failed);
    let passes = owner_passes && filter::may_pass_when_bound(flow);
    if !task::is_monitor(pending.owner.tgid) && !(wanted && passes) {
        // Nor may an attempt be taken for an earlier socket's at this address.
        let _: Result<(), i32> = PENDING.remove(sk as u64);
        return;
    }
    if PENDING.insert(sk as u64, pending, 0).is_err() {
        emit::count_extra(Extra::PendingFull);
    }
}

/// The state changes of a raw tracepoint: socket, old and new state.
#[inline(always)]
pub(crate) fn state_change(ctx: &RawTracePointContext) -> (*const u8, TcpState, TcpState) {
    let state = |n| TcpState(ctx.arg::<u32>(n) as u8);
    (ctx.arg(0), state(1), state(2))
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_outcome_rt(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = state_change(&ctx);
    if ends_attempt(old, new) {
        report(&ctx, sk, new);
    }
    0
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
    // SAFETY: only this socket's own state changes, which do not run
    // concurrently, remove or replace the entry.
    let Some(pending) = (unsafe { PENDING.get(key) }) else {
        return false;
    };
    let _: Option<()> = report_pending(ctx, sk, new, pending);
    let _: Result<(), i32> = PENDING.remove(key);
    true
}

#[inline(always)]
fn report_pending(
    ctx: &impl EbpfContext,
    sk: *const u8,
    new: TcpState,
    pending: &Pending,
) -> Option<()> {
    // SAFETY: the tracepoint's socket is live.
    let mut flow = unsafe { sock::flow::<Probe>(sk) }?;
    // SAFETY: as above.
    flow.local_port = unsafe { sock::lasting_local_port::<Probe>(sk) }?;
    let ts_ns = emit::now_ns();
    let (kind, detail) = if new == TcpState::ESTABLISHED {
        (EventKind::Connected, handshake_us(pending.ts_ns, ts_ns))
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
            id: pending.id,
            ts_ns,
            detail,
            flow: &flow,
            owner: &pending.owner,
            owner_source: OwnerSource::Connect,
            owner_passes: true,
        },
    );
    Some(())
}

#[inline(always)]
fn handshake_us(start_ns: u64, end_ns: u64) -> u32 {
    let us = end_ns.saturating_sub(start_ns) / 1_000;
    if us > u64::from(u32::MAX) {
        u32::MAX
    } else {
        us as u32
    }
}
