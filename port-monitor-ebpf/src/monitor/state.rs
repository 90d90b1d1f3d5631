//! `inet_sock_set_state`, all by itself: the tracepoint backend.
//!
//! Attempts at CLOSE→`SYN_SENT`, in the connecting thread, before the kernel
//! chooses a local port. Inbound connections at `SYN_RECV`→ESTABLISHED, in
//! softirq: they are told with the listener's number, and userspace asks who has it open.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use port_monitor_common::{
    counters::{Extra, Watcher},
    event::{EventKind, Owner, TcpEvent},
    listener::{HOLDER_LOOKED, HOLDER_OPENED, HOLDER_PASSES, Holder},
    site::Site,
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Removal, Stop, is_stored, readable, removal},
    globals::{config, offset},
    maps::{
        CLOSERS, ESTABLISHED, LET_GO, LISTENER_SOCKETS, LISTENERS,
        values::{LetGo, Listener},
    },
    monitor::{
        connect, listen,
        outcome::{event_change, state_change},
    },
    read::{
        mem::{self, Direct, Mem, Probe},
        sock::{self, Addr},
        task,
    },
    report::{
        connection, emit, filter, listeners,
        once::{self, Turn, What},
    },
};

const _: () = {
    let end = offset_of!(TcpEvent, owner) + size_of::<Listener>();
    assert!(end == offset_of!(TcpEvent, local_addr) + size_of::<Addr>());
    assert!(offset_of!(Listener, number) == size_of::<Owner>());
};

impl Listener {
    /// Hands `keep` the event's owner as the one who made a listener's first socket listen.
    /// The event stays as it was.
    #[inline(always)]
    fn lend<R>(
        event: &mut TcpEvent,
        number: u32,
        exec_id: u32,
        keep: impl FnOnce(&Self) -> R,
    ) -> R {
        let listener = (&raw mut *event)
            .cast::<u8>()
            .wrapping_add(offset_of!(TcpEvent, owner))
            .cast::<Self>();
        // The address.
        // SAFETY: within the event, as asserted above.
        let rest = unsafe { &raw mut (*listener).number }.cast::<[u64; 2]>();
        // SAFETY: as above; aligned to 8 like the owner.
        let before = unsafe { rest.read_volatile() };
        // SAFETY: as above.
        unsafe {
            rest.cast::<[u32; 4]>()
                .write_volatile([number, 1, exec_id, 0])
        };
        // SAFETY: as above; any bytes are a value of it.
        let result = keep(unsafe { &*listener });
        // SAFETY: as above.
        unsafe { rest.write_volatile(before) };
        result
    }
}

/// What a process does with its own socket. Softirqs that interrupt it run
/// `pm_remote_rt`: two programs, because the kernel lets none interrupt itself.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_local_rt(ctx: RawTracePointContext) -> i32 {
    account::look(|| try_local(&ctx, state_change(&ctx), Turn::Second));
    0
}

/// What `pm_local_rt` does, before it, where the kernel may preempt a task in the middle of a
/// program, and skips the next one's: by a perf event, which runs with preemption off, and is
/// skipped only while a task is preempted in the middle of a bpf(2). Each change is told once.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn pm_local_tp(ctx: TracePointContext) -> u32 {
    account::look(|| try_local(&ctx, event_change(&ctx)?, Turn::First));
    0
}

#[inline(always)]
fn try_local(
    ctx: &impl EbpfContext,
    (sk, old, new): (*const u8, TcpState, TcpState),
    turn: Turn,
) -> Look {
    let is_unlisten = old == TcpState::LISTEN && new == TcpState::CLOSE;
    let is_local = begins(new) || is_unlisten;
    let what = if new == TcpState::SYN_SENT {
        What::Attempt
    } else {
        What::Listen
    };
    if !is_local || !sock::is_tcp::<Probe>(sk) || once::is_told(turn, what) {
        return Err(Stop::NotOurs);
    }
    if config!(twice) != 0 && begins(new) {
        once::mark(What::Local);
    }
    let mut slot = MaybeUninit::uninit();
    let event = emit::record(&mut slot, EventKind::Connect);
    readable(sock::read::<Probe>(sk, event), Site::Socket)?;
    if new == TcpState::SYN_SENT {
        task::read_current::<Direct, Probe>(&mut event.owner);
        connect::attempt::<Probe>(ctx, sk, event)
    } else if new == TcpState::LISTEN {
        task::read_current::<Probe, Probe>(&mut event.owner);
        listens(sk, event, task::current());
        listen::opened(ctx, sk, event)
    } else {
        event.local_port = readable(sock::lasting_local_port::<Probe>(sk), Site::Socket)?;
        unlisten(sk, event);
        Err(Stop::NotOurs)
    }
}

/// An attempt, or a socket listens from now on.
#[inline(always)]
fn begins(new: TcpState) -> bool {
    new == TcpState::SYN_SENT || new == TcpState::LISTEN
}

/// What a peer's packet does with a socket: the outcome of an attempt, an inbound
/// connection, the end of either.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_remote_rt(ctx: RawTracePointContext) -> i32 {
    account::look(|| try_remote(&ctx, state_change(&ctx)));
    0
}

#[inline(always)]
fn try_remote(ctx: &impl EbpfContext, (sk, old, new): (*const u8, TcpState, TcpState)) -> Look {
    if old == TcpState::SYN_RECV && is_told(sk) {
        return Err(Stop::NotOurs);
    }
    if config!(twice) != 0
        && begins(new)
        && sock::is_tcp::<Probe>(sk)
        && !once::take_mark(What::Local)
    {
        // The kernel skipped both programs that tell it.
        account::count_extra(if new == TcpState::LISTEN {
            Extra::ListensUnseen
        } else {
            Extra::AttemptsUnseen
        });
    }
    connection::changed::<Probe, true, { Watcher::Remote.proof() }>(ctx, sk, old, new)
}

/// What `pm_remote_rt` does, before it: the kernel lets no program interrupt itself, so what a
/// softirq does in the middle of one of them is seen by the other. Each change is reported once.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn pm_before_rt(ctx: RawTracePointContext) -> i32 {
    account::look(|| try_before::<{ Watcher::Before.proof() }>(&ctx, state_change(&ctx)));
    0
}

/// What `pm_before_rt` does, before it, where the kernel may preempt a task in the middle of
/// either of the two: by a perf event.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn pm_remote_tp(ctx: TracePointContext) -> u32 {
    account::look(|| try_before::<{ Watcher::RemoteEvent.proof() }>(&ctx, event_change(&ctx)?));
    0
}

#[inline(always)]
fn try_before<const WATCHER: u64>(
    ctx: &impl EbpfContext,
    (sk, old, new): (*const u8, TcpState, TcpState),
) -> Look {
    // The last of them tells what this one cannot note.
    if old == TcpState::SYN_RECV && (config!(twice) != 0 && is_told(sk) || !is_noted(sk)) {
        return Err(Stop::NotOurs);
    }
    connection::changed::<Probe, true, WATCHER>(ctx, sk, old, new)
}

/// Notes that the end of the handshake on `sk` is told.
#[inline(always)]
fn is_noted(sk: *const u8) -> bool {
    pm_noted(sk as u64) != 0
}

/// A function that the verifier looks at by itself, once: what comes after it does not depend on
/// what is on its stack.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_noted(sk: u64) -> u64 {
    let now = handshake(sk as *const u8);
    is_stored(Site::NoteTold, || ESTABLISHED.insert(sk, now, 0)).into()
}

/// The end of the handshake on `sk` is told. A thread that closes the socket before its
/// handshake is complete may be preempted between the two programs, and move to another CPU:
/// so it is not enough to know what was told last on this one.
#[inline(always)]
fn is_told(sk: *const u8) -> bool {
    // SAFETY: the number is copied before the entry can be replaced.
    unsafe { ESTABLISHED.get(sk as u64) }.copied() == Some(handshake(sk))
}

/// What tells a handshake from that of an earlier socket at this address: where its sequence
/// numbers are. Between two programs of the same change it stays as it is.
#[inline(always)]
fn handshake(sk: *const u8) -> u32 {
    Probe::read_or_zero(sk, offset!(tcp_write_seq))
}

/// Notes who listens on `sk`, once: it may listen again, or be found with another process.
#[inline(always)]
pub(crate) fn listens(sk: *const u8, event: &mut TcpEvent, task: *const u8) {
    const EEXIST: i32 = -17;
    let key = listeners::key(event, sock::words(&event.local_addr));
    let known = LISTENERS.get_ptr_mut(key);
    let number = match known {
        // SAFETY: a map value.
        Some(known) => unsafe { (*known).number },
        None => emit::connection_id::<Probe>(sk, emit::now_ns()) as u32 | 1,
    };
    let mut is_counted = false;
    let is_noted = is_stored(Site::RememberOwner, || {
        match LISTENER_SOCKETS.insert(sk as u64, number, BPF_NOEXIST.into()) {
            Err(EEXIST) => {
                is_counted = true;
                Ok(())
            }
            result => result,
        }
    });
    if is_counted {
        return;
    }
    if let Some(known) = known {
        // SAFETY: a map value; the fields are written by process-context hooks
        // of sockets that the port's bucket lock serialises.
        let known = unsafe { &mut *known };
        if is_noted {
            known.sockets += 1;
        } else {
            known.is_ambiguous = 1;
        }
        return;
    }
    // What is not noted is not counted either: nobody would take it back.
    if !is_noted {
        return;
    }
    let is_listed = Listener::lend(event, number, task::exec_id(task), |listener| {
        is_stored(Site::RememberOwner, || LISTENERS.insert(key, listener, 0))
    });
    if !is_listed {
        removal(Site::ForgetOwner, || LISTENER_SOCKETS.remove(sk as u64));
    }
}

#[inline(always)]
fn unlisten(sk: *const u8, event: &mut TcpEvent) {
    // SAFETY: the number is copied before the entry can be removed.
    let Some(number) = unsafe { LISTENER_SOCKETS.get(sk as u64) }.copied() else {
        // It was not counted.
        return;
    };
    let key = listeners::key(event, sock::words(&event.local_addr));
    let known = LISTENERS.get_ptr_mut(key);
    if let Some(known) = known {
        // SAFETY: a map value.
        let listener = unsafe { &*known };
        let lets_go = sock::has_fast_open_requests(sk);
        if lets_go {
            let let_go = LetGo {
                closed_ns: event.ts_ns,
                number: number.into(),
            };
            is_stored(Site::RememberOwner, || LET_GO.insert(key, &let_go, 0));
        }
        if lets_go || listener.is_asked != 0 {
            closes(sk, number, event, listener);
        }
    }
    if removal(Site::ForgetOwner, || LISTENER_SOCKETS.remove(sk as u64)) == Removal::Absent {
        return;
    }
    if let Some(known) = known {
        // SAFETY: as in `listens`.
        let known = unsafe { &mut *known };
        if known.sockets > 1 {
            known.sockets -= 1;
        } else {
            removal(Site::ForgetOwner, || LISTENERS.remove(key));
        }
    }
}

/// Tells the sockets of a listener apart.
#[inline(always)]
pub(crate) fn socket_number(sk: *const u8) -> u32 {
    emit::connection_id::<Probe>(sk, 0) as u32
}

/// Tells that the running thread closes a socket of the listener: of connections that came
/// to it there may be no other trace by the time they are told of.
#[inline(always)]
fn closes(sk: *const u8, number: u32, event: &mut TcpEvent, listener: &Listener) {
    /// Whoever reads it looks when there are questions.
    const BPF_RB_NO_WAKEUP: u64 = 1;
    let task = task::current();
    let (closed_ns, port) = (event.ts_ns, event.local_port.into());
    let closer = holder(event);
    closer.closed_ns = closed_ns;
    closer.listener = number;
    closer.port = port;
    closer.socket = socket_number(sk);
    closer.exec_id = task::exec_id(task);
    // What the kernel's threads close, others have given up. So has whoever let go of it while
    // this program's iterator held it: its reader closes it then (`task_file_seq_next`).
    if task::is_monitor(task::current_tgid()) {
        closer.flags = HOLDER_LOOKED;
    } else if !task::is_kernel_thread(task) {
        task::read_current::<Probe, Probe>(&mut closer.owner);
        closer.parent_tgid = task::parent_tgid(task).unwrap_or(0);
        if filter::owner_passes(&closer.owner, || task) {
            closer.flags = HOLDER_PASSES;
        }
        compare(listener, closer);
    }
    let closer = &*closer;
    is_stored(Site::TellCloser, || {
        CLOSERS.output::<Holder>(closer, BPF_RB_NO_WAKEUP)
    });
}

/// Makes it a holder, in the place of an event's owner and addresses: there is no room for
/// both on the stack.
#[inline(always)]
fn holder(event: &mut TcpEvent) -> &mut Holder {
    const _: () = {
        let start = offset_of!(TcpEvent, owner);
        assert!(start % align_of::<Holder>() == 0);
        assert!(start + size_of::<Holder>() <= size_of::<TcpEvent>());
    };
    let place = (&raw mut *event).cast::<u8>();
    let place = place.wrapping_add(offset_of!(TcpEvent, owner));
    // SAFETY: within the event, as asserted above.
    mem::zeroed(unsafe { &mut *place.cast::<MaybeUninit<Holder>>() })
}

/// Whether the process that closes a listener made it listen. If it exits, it has no program
/// any more; unless it has executed another since, it is the one it had then.
#[inline(always)]
fn compare(listener: &Listener, closer: &mut Holder) {
    let memory = &listener.owner;
    if (memory.tgid, memory.start_ns) != (closer.owner.tgid, closer.owner.start_ns) {
        return;
    }
    closer.flags |= HOLDER_OPENED;
    if closer.owner.exe_inode == 0 && listener.exec_id == closer.exec_id {
        closer.owner.exe_inode = memory.exe_inode;
        closer.owner.exe_device = memory.exe_device;
    }
}

/// The program of a process that exits while it still has the listening socket open, if it
/// made it listen: its memory goes before its files do.
#[inline(always)]
pub(crate) fn recall_program(sk: *const u8, holder: &mut Holder) -> Option<()> {
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = mem::zeroed(&mut slot);
    sock::read::<Probe>(sk, event)?;
    event.local_port = holder.port as u16;
    let key = listeners::key(event, sock::words(&event.local_addr));
    if let Some(listener) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: a map value; what it says of who made the socket listen is written once.
        compare(unsafe { &*listener }, holder);
    }
    Some(())
}
