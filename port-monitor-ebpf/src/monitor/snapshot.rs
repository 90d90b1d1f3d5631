//! `iter/task_file` once more: the sockets that are older than the monitor.
//!
//! Runs after the hooks are attached. What a live hook has noted stays; a socket
//! that several processes hold is reported once. An attempt that is still without
//! an answer is noted for its outcome.

use core::{
    ffi::c_void,
    mem::{self, MaybeUninit},
};

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use port_monitor_common::{
    counters::Hook,
    event::{ClosedBy, EventKind, FLAG_INBOUND, OwnerSource, TcpEvent},
    site::Site,
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Stop, failed, readable},
    globals::config,
    maps::{CONNECTIONS, values::Connection},
    monitor::{
        holders::{TaskFile, socket_of},
        listen,
    },
    read::{mem::Probe, sock, task},
    report::{connection, emit, filter, turn},
};

/// `EEXIST`, as helpers return it.
const EEXIST: i32 = -17;

struct Context(*const TaskFile);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0.cast_mut().cast()
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn pm_sockets_it(ctx: *const TaskFile) -> i32 {
    // SAFETY: the kernel passes its iterator context.
    let task = unsafe { (*ctx).task };
    // SAFETY: as above.
    let file = unsafe { (*ctx).file };
    if !task.is_null()
        && !file.is_null()
        && let Some(sk) = socket_of(file).and_then(sock::tcp)
    {
        // SAFETY: the kernel passes its iterator context.
        let seq = || unsafe { *(*ctx).meta };
        turn::look(seq, || show(&Context(ctx), task, sk));
    }
    0
}

#[inline(always)]
fn show(ctx: &Context, task: *const u8, sk: *const u8) -> Look {
    let state = readable(sock::state::<Probe>(sk), Site::Socket)?;
    let is_attempt = is_attempt(sk, state);
    if state == TcpState::CLOSE || is_to_come(sk, state, is_attempt) {
        return Err(Stop::NotOurs);
    }
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = emit::record(&mut slot, EventKind::Preexisting);
    readable(sock::read::<Probe>(sk, event), Site::Socket)?;
    readable(task::read_owner(task, &mut event.owner), Site::Holder)?;
    if task::is_monitor(event.owner.tgid) {
        return Err(Stop::NotOurs);
    }
    event.owner_source = OwnerSource::Holder as u8;
    event.id = emit::connection_id::<Probe>(sk, event.ts_ns);
    event.detail = state.0.into();
    let is_inbound = match state {
        TcpState::LISTEN => true,
        TcpState::SYN_SENT | TcpState::SYN_RECV => !is_attempt,
        _ => crate::report::listeners::find_listener(event).is_some(),
    };
    if is_inbound {
        event.flags = FLAG_INBOUND;
    }
    let owner_passes = filter::owner_passes(&event.owner, || task);
    if owner_passes && filter::flow_passes(event) && !note(sk, state, is_attempt, event) {
        return Err(Stop::NotOurs);
    }
    let told = emit::emit(ctx, Hook::Snapshot, owner_passes, event);
    // It may have changed before it was noted.
    let new = match sock::state::<Probe>(sk) {
        Some(TcpState::CLOSE) => TcpState::CLOSE,
        Some(TcpState::SYN_SENT | TcpState::SYN_RECV) | None => return told,
        Some(_) if is_attempt => TcpState::ESTABLISHED,
        Some(_) => return told,
    };
    let old = if is_attempt {
        TcpState::SYN_SENT
    } else {
        state
    };
    account::look(|| connection::report(ctx, sk, old, new));
    told
}

/// The socket connects, and is not established: its peer may connect at the same time.
#[inline(always)]
fn is_attempt(sk: *const u8, state: TcpState) -> bool {
    state == TcpState::SYN_SENT || state == TcpState::SYN_RECV && !sock::is_passive::<Probe>(sk)
}

/// A hook will see it begin, or just does: the attempt whose SYN is to be sent, and the
/// listener that is to be entered into a table; on the tracepoint backend the Fast Open
/// connection whose handshake is to be complete.
#[inline(always)]
fn is_to_come(sk: *const u8, state: TcpState, is_attempt: bool) -> bool {
    if config!(sees_calls) == 0 {
        return state == TcpState::SYN_RECV && !is_attempt;
    }
    // Of one whose `connect` has returned, the first write tells nothing new.
    state == TcpState::SYN_SENT && sock::is_unsent(sk) && !sock::is_connecting::<Probe>(sk)
        || state == TcpState::LISTEN && sock::is_unhashed(sk)
}

/// Notes a socket; false when it is known already.
#[inline(always)]
fn note(sk: *const u8, state: TcpState, is_attempt: bool, event: &mut TcpEvent) -> bool {
    if state == TcpState::LISTEN {
        return listen::note_older(sk, event);
    }
    let closed_by = match state {
        TcpState::FIN_WAIT1 | TcpState::FIN_WAIT2 | TcpState::CLOSING => ClosedBy::Local,
        TcpState::CLOSE_WAIT | TcpState::LAST_ACK => ClosedBy::Peer,
        _ => ClosedBy::Unknown,
    };
    // When it began is not known.
    let now_ns = mem::replace(&mut event.ts_ns, 0);
    let noted = Connection::lend(event, !is_attempt, closed_by, |connection| {
        CONNECTIONS.insert(sk as u64, connection, BPF_NOEXIST.into())
    });
    event.ts_ns = now_ns;
    match noted {
        Ok(()) => true,
        Err(EEXIST) => false,
        Err(error) => {
            failed(Site::Remember, error);
            true
        }
    }
}
