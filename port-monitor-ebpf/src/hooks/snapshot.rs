//! `iter/task_file` once more: the sockets that are older than the monitor.
//!
//! Runs after the hooks are attached. What a live hook has noted stays; a socket
//! that several processes hold is reported once. An attempt that is still without
//! an answer is noted for its outcome.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST, helpers::generated::bpf_seq_write};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{ClosedBy, EventKind, Owner, OwnerSource},
    tcp_state::TcpState,
};

use crate::{
    emit::{self, Draft},
    filter,
    hooks::{
        connection::{self, Connection},
        listen,
        listeners::{TaskFile, socket_of},
        outcome, state,
    },
    maps::CONNECTIONS,
    mem::Probe,
    sock, task,
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
    if !task.is_null() && !file.is_null() && try_file(&Context(ctx), task, file).is_some() {
        // A byte for each connection, so that the reader of this file gets its
        // turn, and empties the ring, before that is full.
        let byte = 0_u8;
        // SAFETY: as above.
        let seq = unsafe { *(*ctx).meta };
        // SAFETY: the kernel's own file, and one byte of ours.
        unsafe { bpf_seq_write(seq.cast(), (&raw const byte).cast_mut().cast(), 1) };
    }
    0
}

#[inline(always)]
fn try_file(ctx: &Context, task: *const u8, file: *const u8) -> Option<()> {
    let sk = socket_of(file)?;
    // SAFETY: a socket that its file points back to.
    if !unsafe { sock::is_tcp::<Probe>(sk) } {
        return None;
    }
    // SAFETY: as above.
    let state = unsafe { sock::state::<Probe>(sk) }?;
    if matches!(state, TcpState::CLOSE | TcpState::SYN_RECV) {
        return None;
    }
    // SAFETY: as above.
    let flow = unsafe { sock::flow::<Probe>(sk) }?;
    let owner = task::owner_of(task)?;
    if task::is_monitor(owner.tgid) {
        return None;
    }
    let is_inbound = match state {
        TcpState::LISTEN => true,
        TcpState::SYN_SENT => false,
        _ => state::find_listener(&flow).is_some(),
    };
    let ts_ns = emit::now_ns();
    let id = emit::connection_id(sk, ts_ns);
    let owner_passes = filter::owner_passes(&owner, task);
    if owner_passes
        && filter::flow_passes(is_inbound, &flow)
        && !note(sk, state, &owner, id, is_inbound)
    {
        return None;
    }
    emit::emit(
        ctx,
        &Draft {
            hook: Hook::Snapshot,
            kind: EventKind::Preexisting,
            flags: 0,
            id,
            ts_ns,
            detail: u32::from(state.0),
            flow: &flow,
            owner: &owner,
            owner_source: OwnerSource::Holder,
            owner_passes,
            is_inbound,
            stats: None,
        },
    );
    // It may have changed before it was noted.
    // SAFETY: as above.
    let now = unsafe { sock::state::<Probe>(sk) }?;
    if state == TcpState::SYN_SENT && now != TcpState::SYN_SENT {
        outcome::report(ctx, sk, now);
    } else if state == TcpState::LISTEN && now == TcpState::CLOSE {
        let _: Option<()> = listen::closed(ctx, sk);
    } else if now == TcpState::CLOSE {
        connection::ended(ctx, sk, state);
    }
    Some(())
}

/// Notes a socket; false when it is known already.
#[inline(always)]
fn note(sk: *const u8, state: TcpState, owner: &Owner, id: u64, is_inbound: bool) -> bool {
    if state == TcpState::LISTEN {
        return listen::note_older(sk, owner, id);
    }
    let closed_by = match state {
        TcpState::FIN_WAIT1 | TcpState::FIN_WAIT2 | TcpState::CLOSING => ClosedBy::Local,
        TcpState::CLOSE_WAIT | TcpState::LAST_ACK => ClosedBy::Peer,
        _ => ClosedBy::Unknown,
    };
    let connection = Connection {
        owner: *owner,
        id,
        ts_ns: 0,
        is_open: (state != TcpState::SYN_SENT).into(),
        is_inbound: is_inbound.into(),
        owner_source: OwnerSource::Holder as u8,
        closed_by: closed_by as u8,
        closer_tgid: 0,
    };
    match CONNECTIONS.insert(sk as u64, connection, BPF_NOEXIST.into()) {
        Ok(()) => true,
        Err(EEXIST) => false,
        Err(_) => {
            emit::count_extra(Extra::ConnectionsFull);
            true
        }
    }
}
