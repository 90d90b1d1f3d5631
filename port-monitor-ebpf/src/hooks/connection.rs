//! What is remembered of a connection from its attempt or accept to its end:
//! state changes run in softirq as a rule, where `current` is anybody.

use aya_ebpf::{EbpfContext, helpers::bpf_get_current_pid_tgid};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{ClosedBy, EventKind, Owner, OwnerSource},
    tcp_state::TcpState,
};

use crate::{
    emit::{self, Draft},
    filter,
    hooks::listen,
    maps::CONNECTIONS,
    mem::Probe,
    sock::{self, Flow},
    task,
};

/// An attempt without an outcome, or a connection without an end.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Connection {
    pub(crate) owner: Owner,
    pub(crate) id: u64,
    /// Attempt or accept, `CLOCK_BOOTTIME` ns; zero: not seen.
    pub(crate) ts_ns: u64,
    /// Non-zero: established.
    pub(crate) is_open: u8,
    pub(crate) is_inbound: u8,
    /// An [`OwnerSource`] by number.
    pub(crate) owner_source: u8,
    /// A [`ClosedBy`] by number.
    pub(crate) closed_by: u8,
    /// Who closed this end; zero: nobody yet.
    pub(crate) closer_tgid: u32,
}

impl Connection {
    /// An attempt by the running thread, now.
    #[inline(always)]
    pub(crate) fn attempt(sk: *const u8) -> Self {
        let ts_ns = emit::now_ns();
        Self {
            owner: task::current_owner(),
            id: emit::connection_id(sk, ts_ns),
            ts_ns,
            is_open: 0,
            is_inbound: 0,
            owner_source: OwnerSource::Connect as u8,
            closed_by: ClosedBy::Unknown as u8,
            closer_tgid: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn owner_source(&self) -> OwnerSource {
        match self.owner_source {
            1 => OwnerSource::Connect,
            2 => OwnerSource::Accept,
            3 => OwnerSource::Listener,
            4 => OwnerSource::Holder,
            _ => OwnerSource::Unknown,
        }
    }
}

/// Connections are remembered beyond their beginning: for their end, or because
/// the look at the open sockets must not report them again.
#[inline(always)]
pub(crate) fn is_end_wanted() -> bool {
    emit::is_wanted(EventKind::Close) || emit::is_wanted(EventKind::Preexisting)
}

/// Remembers the connection on `sk`.
#[inline(always)]
pub(crate) fn remember(sk: *const u8, connection: &Connection) {
    if CONNECTIONS.insert(sk as u64, connection, 0).is_err() {
        emit::count_extra(Extra::ConnectionsFull);
    }
}

/// Forgets the connection on `sk`; false when there is none. Of several programs
/// that see its end, one is told true.
#[inline(always)]
fn forget(sk: *const u8) -> bool {
    CONNECTIONS.remove(sk as u64).is_ok()
}

/// The pending attempt on `sk`, which is forgotten.
#[inline(always)]
pub(crate) fn take_attempt(sk: *const u8) -> Option<Connection> {
    // SAFETY: the entry is copied before it can be removed.
    let attempt = unsafe { CONNECTIONS.get(sk as u64) }.copied()?;
    if attempt.is_open == 0 && forget(sk) {
        Some(attempt)
    } else {
        None
    }
}

/// Remembers an attempt for its outcome and its end, if somebody asks for them.
#[inline(always)]
pub(crate) fn remember_attempt(
    sk: *const u8,
    attempt: &Connection,
    owner_passes: bool,
    flow: &Flow,
) {
    let wanted = emit::is_wanted(EventKind::Connected)
        || emit::is_wanted(EventKind::Failed)
        || is_end_wanted();
    let passes = owner_passes && filter::may_pass_when_bound(flow);
    if task::is_monitor(attempt.owner.tgid) || wanted && passes {
        remember(sk, attempt);
    } else {
        // Nor may it be taken for an earlier socket's at this address.
        forget(sk);
    }
}

/// Remembers an inbound connection for its end, if somebody asks for that.
#[inline(always)]
pub(crate) fn remember_inbound(
    ctx: &impl EbpfContext,
    sk: *const u8,
    draft: &Draft<'_>,
    state: TcpState,
) {
    let passes = draft.owner_passes && filter::flow_passes(true, draft.flow);
    if !task::is_monitor(draft.owner.tgid) && !(is_end_wanted() && passes) {
        forget(sk);
        return;
    }
    // The peer may have closed before anybody accepted.
    let closed_by = if state == TcpState::CLOSE_WAIT {
        ClosedBy::Peer
    } else {
        ClosedBy::Unknown
    };
    remember(
        sk,
        &Connection {
            owner: *draft.owner,
            id: draft.id,
            ts_ns: draft.ts_ns,
            is_open: 1,
            is_inbound: 1,
            owner_source: draft.owner_source as u8,
            closed_by: closed_by as u8,
            closer_tgid: 0,
        },
    );
    // SAFETY: the accepted socket is live.
    if unsafe { sock::state::<Probe>(sk) } == Some(TcpState::CLOSE) {
        ended(ctx, sk, state);
    }
}

/// Notes or reports what a state change says of the end of a connection.
#[inline(always)]
pub(crate) fn changed(ctx: &impl EbpfContext, sk: *const u8, old: TcpState, new: TcpState) {
    match (old, new) {
        (TcpState::LISTEN, TcpState::CLOSE) => {
            let _: Option<()> = listen::closed(ctx, sk);
        }
        (_, TcpState::CLOSE) => ended(ctx, sk, old),
        // A FIN leaves in the thread that closes.
        (TcpState::ESTABLISHED | TcpState::SYN_RECV, TcpState::FIN_WAIT1) => {
            note_end(sk, Some(ClosedBy::Local), running_process());
        }
        (TcpState::CLOSE_WAIT, TcpState::LAST_ACK) => note_end(sk, None, running_process()),
        (TcpState::ESTABLISHED | TcpState::SYN_RECV, TcpState::CLOSE_WAIT) => {
            note_end(sk, Some(ClosedBy::Peer), 0);
        }
        _ => {}
    }
}

#[inline(always)]
fn running_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Notes who closed the connection on `sk` first, and who closed this end.
#[inline(always)]
fn note_end(sk: *const u8, first: Option<ClosedBy>, closer_tgid: u32) {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(sk as u64) {
        // SAFETY: a map value; only changes of this very socket's state, which do
        // not run concurrently, write it.
        let connection = unsafe { &mut *connection };
        if let Some(first) = first {
            connection.closed_by = first as u8;
        }
        connection.closer_tgid = closer_tgid;
    }
}

/// Reports the end of the connection on `sk`, which was in the state `last`.
#[inline(always)]
pub(crate) fn ended(ctx: &impl EbpfContext, sk: *const u8, last: TcpState) {
    // SAFETY: the entry is copied before it can be removed.
    let Some(connection) = (unsafe { CONNECTIONS.get(sk as u64) }).copied() else {
        return;
    };
    if connection.is_open != 0 && forget(sk) {
        let _: Option<()> = report_end(ctx, sk, &connection, last);
    }
}

#[inline(always)]
fn report_end(
    ctx: &impl EbpfContext,
    sk: *const u8,
    connection: &Connection,
    last: TcpState,
) -> Option<()> {
    // SAFETY: the hook's socket is live.
    let mut flow = unsafe { sock::flow::<Probe>(sk) }?;
    // SAFETY: as above.
    flow.local_port = unsafe { sock::lasting_local_port::<Probe>(sk) }?;
    // SAFETY: as above.
    let errno = unsafe { sock::error::<Probe>(sk) }?;
    // SAFETY: as above.
    let mut stats = unsafe { sock::stats(sk) }?;
    let ts_ns = emit::now_ns();
    if connection.ts_ns != 0 {
        stats.duration_ns = ts_ns.saturating_sub(connection.ts_ns);
    }
    stats.closer_tgid = connection.closer_tgid;
    stats.closed_by = if connection.closed_by == ClosedBy::Unknown as u8 {
        let by = closed_first(last, errno);
        if by as u8 == ClosedBy::LocalReset as u8 {
            stats.closer_tgid = running_process();
        }
        by as u8
    } else {
        connection.closed_by
    };
    emit::emit(
        ctx,
        &Draft {
            hook: Hook::Close,
            kind: EventKind::Close,
            flags: 0,
            id: connection.id,
            ts_ns,
            detail: errno,
            flow: &flow,
            owner: &connection.owner,
            owner_source: connection.owner_source(),
            owner_passes: true,
            is_inbound: connection.is_inbound != 0,
            stats: Some(&stats),
        },
    );
    Some(())
}

/// Who ended a connection, where nobody saw a FIN: it came before the connection
/// was remembered, which the last state tells; or there was none, and the errno is
/// that of `tcp_reset`, `tcp_abort`, or `tcp_write_err`, which gives what an ICMP
/// said of the silence, else `ETIMEDOUT`.
#[inline(always)]
fn closed_first(last: TcpState, errno: u32) -> ClosedBy {
    const EPIPE: u32 = 32;
    const ECONNABORTED: u32 = 103;
    const ECONNRESET: u32 = 104;
    match (last, errno) {
        (TcpState::CLOSE_WAIT | TcpState::LAST_ACK, _) => ClosedBy::Peer,
        (TcpState::FIN_WAIT1 | TcpState::FIN_WAIT2 | TcpState::CLOSING, _) => ClosedBy::Local,
        (_, 0 | ECONNABORTED) => ClosedBy::LocalReset,
        (_, EPIPE | ECONNRESET) => ClosedBy::PeerReset,
        _ => ClosedBy::Timeout,
    }
}
