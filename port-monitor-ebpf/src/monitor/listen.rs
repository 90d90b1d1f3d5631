//! `inet_hash(sk)`, `inet6_hash(sk)`: a socket listens from now on, with its port
//! chosen, in the listening thread (`net/ipv4/inet_hashtables.c`). The end is its
//! LISTEN→CLOSE.
//!
//! On the tracepoint backend CLOSE→LISTEN, which comes before the port of a socket
//! that was never bound is chosen, and before the kernel may still refuse.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{ClosedBy, EventKind, FLAG_INBOUND, OwnerSource, TcpEvent},
    policy::Direction,
    site::Site,
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Stop, failed, is_stored, readable, removal},
    judge::verdict,
    maps::{LISTENING, values::Connection},
    read::{
        mem::{Direct, Mem, Probe},
        sock, task,
    },
    report::{
        emit, executable, filter, listening,
        once::{self, Turn, What},
    },
};

#[fentry(function = "inet_hash")]
fn pm_listen4_fe(ctx: FEntryContext) -> i32 {
    account::look(|| try_hash::<Direct>(&ctx, ctx.arg(0), Turn::Second));
    0
}

#[fentry(function = "inet6_hash")]
fn pm_listen6_fe(ctx: FEntryContext) -> i32 {
    account::look(|| try_hash::<Direct>(&ctx, ctx.arg(0), Turn::Second));
    0
}

/// Either of them.
#[kprobe]
fn pm_listen_kp(ctx: ProbeContext) -> u32 {
    account::look(|| {
        let sk = readable(ctx.arg(0), Site::Socket)?;
        try_hash::<Probe>(&ctx, sk, Turn::First)
    });
    0
}

#[inline(always)]
fn try_hash<M: Mem>(ctx: &impl EbpfContext, sk: *const u8, turn: Turn) -> Look {
    let state = readable(sock::state::<M>(sk), Site::Socket)?;
    if state != TcpState::LISTEN || !sock::is_tcp::<M>(sk) || once::is_told(turn, What::Listen) {
        return Err(Stop::NotOurs);
    }
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = emit::record(&mut slot, EventKind::Listen);
    task::read_current::<Probe, Probe>(&mut event.owner);
    readable(sock::read::<M>(sk, event), Site::Socket)?;
    opened(ctx, sk, event)
}

/// Reports that `sk` listens, made to by the running thread.
#[inline(always)]
pub(crate) fn opened(ctx: &impl EbpfContext, sk: *const u8, event: &mut TcpEvent) -> Look {
    event.kind = EventKind::Listen as u8;
    event.flags = FLAG_INBOUND;
    event.owner_source = OwnerSource::Listener as u8;
    event.id = emit::connection_id::<Probe>(sk, event.ts_ns);
    verdict::stamp(Direction::Listen, event);
    let owner_passes = filter::owner_passes(&event.owner, task::current);
    executable::note(&event.owner, owner_passes);
    // What an earlier one at this address has left is not taken for this one's, also where
    // it can neither be replaced nor removed.
    if let Some(earlier) = listening::known(sk) {
        earlier.set_over();
        if earlier.is_rest_wanted() {
            account::count_extra(Extra::Unseen);
        }
    }
    // The look at the open sockets must not report it again.
    let is_wanted = emit::is_wanted(EventKind::Unlisten) || emit::is_wanted(EventKind::Preexisting);
    let passes = owner_passes && filter::flow_passes(event);
    if task::is_monitor(event.owner.tgid) || is_wanted && passes {
        Connection::lend(event, false, ClosedBy::Unknown, |listening| {
            is_stored(Site::RememberListener, || {
                LISTENING.insert(sk as u64, listening, 0)
            })
        });
    } else {
        removal(Site::ForgetListener, || LISTENING.remove(sk as u64));
    }
    emit::emit(ctx, Hook::Listen, owner_passes, event)
}

/// Notes a listener that is older than the monitor; false when it is known
/// already.
#[inline(always)]
pub(crate) fn note_older(sk: *const u8, event: &mut TcpEvent) -> bool {
    const EEXIST: i32 = -17;
    let noted = Connection::lend(event, false, ClosedBy::Unknown, |listening| {
        LISTENING.insert(sk as u64, listening, BPF_NOEXIST.into())
    });
    match noted {
        Ok(()) => true,
        Err(EEXIST) => false,
        Err(error) => {
            failed(Site::RememberListener, error);
            true
        }
    }
}
