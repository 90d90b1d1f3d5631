//! `inet_sock_set_state`, all by itself: the tracepoint rung.
//!
//! Attempts at CLOSE→`SYN_SENT`, in the connecting thread, before the kernel
//! chooses a local port. Inbound connections at `SYN_RECV`→ESTABLISHED, in
//! softirq, so their owner is the process that made the listener listen.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{EventKind, Owner, OwnerSource},
    tcp_state::TcpState,
};

use crate::{
    emit::{self, Draft},
    filter,
    globals::config,
    hooks::{
        connect, connection, listen,
        outcome::{self, state_change},
    },
    maps::LISTENERS,
    mem::Probe,
    sock::{self, Addr, Flow, WILDCARD, WILDCARD_V4},
    task,
};

/// Where a socket listens.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ListenerKey {
    addr: Addr,
    netns_ino: u32,
    port: u32,
}

/// Who listens there.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Listener {
    owner: Owner,
    /// The listening socket: one socket may be held by several processes.
    sk: u64,
    /// Listening sockets with this key: several with `SO_REUSEPORT`.
    sockets: u32,
    /// `OWNER_PASSES`, `AMBIGUOUS`.
    flags: u32,
}

/// [`Listener::flags`]: the owner filters let the owner pass.
const OWNER_PASSES: u32 = 1;
/// [`Listener::flags`]: several processes listen here; which of them gets a
/// connection is not known before it is accepted.
const AMBIGUOUS: u32 = 2;

/// What a process does with its own socket. Softirqs that interrupt it run
/// `pm_remote_rt`: two programs, because the kernel lets none interrupt itself.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_local_rt(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = state_change(&ctx);
    let is_unlisten = old == TcpState::LISTEN && new == TcpState::CLOSE;
    if new == TcpState::SYN_SENT || new == TcpState::LISTEN || is_unlisten {
        let _: Option<()> = try_local(&ctx, sk, new);
    }
    0
}

#[inline(always)]
fn try_local(ctx: &impl EbpfContext, sk: *const u8, new: TcpState) -> Option<()> {
    // SAFETY: the tracepoint's socket is live.
    if !unsafe { sock::is_tcp::<Probe>(sk) } {
        return None;
    }
    // SAFETY: as above.
    let mut flow = unsafe { sock::flow::<Probe>(sk) }?;
    if new == TcpState::SYN_SENT {
        connect::attempt(ctx, sk, &flow);
    } else if new == TcpState::LISTEN {
        let owner = task::current_owner();
        listens(sk, &flow, &owner, task::current());
        listen::opened(ctx, sk, &flow, &owner);
    } else {
        // SAFETY: as above.
        flow.local_port = unsafe { sock::lasting_local_port::<Probe>(sk) }?;
        unlisten(&flow);
    }
    Some(())
}

/// What a peer's packet does with a socket: the outcome of an attempt, an inbound
/// connection, the end of either.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_remote_rt(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = state_change(&ctx);
    if outcome::ends_attempt(old, new) && outcome::report(&ctx, sk, new) {
        return 0;
    }
    if old == TcpState::SYN_RECV && new == TcpState::ESTABLISHED {
        if config!(acceptor) == 0 {
            let _: Option<()> = try_established(&ctx, sk);
        }
    } else {
        connection::changed(&ctx, sk, old, new);
    }
    0
}

#[inline(always)]
fn try_established(ctx: &impl EbpfContext, sk: *const u8) -> Option<()> {
    // SAFETY: the tracepoint's socket is live.
    if unsafe { sock::is_tcp::<Probe>(sk) } {
        // SAFETY: as above.
        established(ctx, sk, &unsafe { sock::flow::<Probe>(sk) }?);
    }
    Some(())
}

/// Notes who listens on `sk`.
#[inline(always)]
pub(crate) fn listens(sk: *const u8, flow: &Flow, owner: &Owner, task: *const u8) {
    let key = key(flow, flow.local_addr);
    let passes = filter::owner_passes(owner, task);
    if let Some(known) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: a map value; the fields are written by process-context hooks
        // of sockets that the port's bucket lock serialises.
        let known = unsafe { &mut *known };
        if known.sk != sk as u64 {
            known.sockets += 1;
            if known.owner.tgid != owner.tgid {
                known.flags |= AMBIGUOUS;
            }
            // Whoever of them accepts: the filters let it pass only if they let
            // all of them pass.
            if !passes {
                known.flags &= !OWNER_PASSES;
            }
        }
        return;
    }
    let listener = Listener {
        owner: *owner,
        sk: sk as u64,
        sockets: 1,
        flags: if passes { OWNER_PASSES } else { 0 },
    };
    if LISTENERS.insert(key, listener, 0).is_err() {
        emit::count_extra(Extra::ListenersFull);
    }
}

#[inline(always)]
fn unlisten(flow: &Flow) {
    let key = key(flow, flow.local_addr);
    if let Some(known) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: as in `listens`.
        let known = unsafe { &mut *known };
        if known.sockets > 1 {
            known.sockets -= 1;
        } else {
            let _: Result<(), i32> = LISTENERS.remove(key);
        }
    }
}

/// Reports an inbound connection whose handshake is complete.
#[inline(always)]
fn established(ctx: &impl EbpfContext, sk: *const u8, flow: &Flow) {
    let ts_ns = emit::now_ns();
    let unknown = Owner::default();
    let (owner, owner_source, owner_passes) = match find_listener(flow) {
        Some(listener) => {
            let passes = listener.flags & OWNER_PASSES != 0;
            if listener.flags & AMBIGUOUS == 0 {
                (&listener.owner, OwnerSource::Listener, passes)
            } else {
                (&unknown, OwnerSource::Unknown, passes)
            }
        }
        None => (
            &unknown,
            OwnerSource::Unknown,
            filter::unknown_owner_passes(),
        ),
    };
    let draft = Draft {
        hook: Hook::Accept,
        kind: EventKind::Accept,
        flags: 0,
        id: emit::connection_id(sk, ts_ns),
        ts_ns,
        detail: 0,
        flow,
        owner,
        owner_source,
        owner_passes,
        is_inbound: true,
        stats: None,
    };
    emit::emit(ctx, &draft);
    connection::remember_inbound(ctx, sk, &draft, TcpState::ESTABLISHED);
}

/// The listener a connection came to: its very address, else a wildcard; an
/// IPv6 wildcard takes IPv4 too.
#[inline(always)]
pub(crate) fn find_listener(flow: &Flow) -> Option<&'static Listener> {
    lookup(flow, flow.local_addr)
        .or_else(|| {
            let is_v4 = sock::is_v4(&flow.local_addr);
            if is_v4 {
                lookup(flow, WILDCARD_V4)
            } else {
                None
            }
        })
        .or_else(|| lookup(flow, WILDCARD))
}

#[inline(always)]
fn lookup(flow: &Flow, addr: Addr) -> Option<&'static Listener> {
    // SAFETY: the entry is read at once; a listener closed meanwhile leaves
    // its last owner.
    unsafe { LISTENERS.get(key(flow, addr)) }
}

#[inline(always)]
fn key(flow: &Flow, addr: Addr) -> ListenerKey {
    ListenerKey {
        addr,
        netns_ino: flow.netns_ino,
        port: u32::from(flow.local_port),
    }
}
