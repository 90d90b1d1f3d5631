//! `inet_csk_accept` on its return: the child socket, in the accepting thread
//! (`net/ipv4/inet_connection_sock.c`).
//!
//! A return probe does not see threads that were asleep in accept when it was
//! attached; `graft` does. The kretprobe stands in for `graft` on the kprobe
//! backend where the kernel has no `security_sock_graft`.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};
use port_monitor_common::{
    counters::Hook,
    event::{CloseEvent, EventKind, FLAG_ENDED, FLAG_INBOUND, OwnerSource},
    policy::Direction,
    site::Site,
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Stop, readable},
    judge::verdict,
    read::{
        mem::{self, Direct, Mem, Probe},
        sock, task,
    },
    report::{
        connection, emit, executable, filter,
        once::{self, What},
    },
};

/// Before Linux 6.10: `(sk, flags, err, kern)`, so the result is slot 4.
#[fexit(function = "inet_csk_accept")]
fn pm_accept_fe4(ctx: FExitContext) -> i32 {
    account::look(|| try_accept(&ctx, ctx.arg(4)));
    0
}

/// Since Linux 6.10: `(sk, arg)`, so the result is slot 2.
#[fexit(function = "inet_csk_accept")]
fn pm_accept_fe2(ctx: FExitContext) -> i32 {
    account::look(|| try_accept(&ctx, ctx.arg(2)));
    0
}

#[kretprobe]
fn pm_accept_krp(ctx: RetProbeContext) -> u32 {
    let sk: *const u8 = ctx.ret();
    account::look(|| {
        if sk.is_null() {
            return Err(Stop::NotOurs);
        }
        report::<Probe, Direct>(&ctx, sk, 0)
    });
    0
}

#[inline(always)]
fn try_accept(ctx: &impl EbpfContext, sk: *const u8) -> Look {
    // No connection: EAGAIN, EINTR, a closed listener.
    if sk.is_null() {
        return Err(Stop::NotOurs);
    }
    once::mark(What::Accept);
    report::<Direct, Direct>(ctx, sk, 0)
}

/// Reports a child socket accepted by the running thread, which is read by `T`.
#[inline(always)]
pub(crate) fn report<M: Mem, T: Mem>(ctx: &impl EbpfContext, sk: *const u8, flags: u16) -> Look {
    let mut slot = MaybeUninit::uninit();
    // In one place with that of its end: the stack is short.
    let record: &mut CloseEvent = emit::record(&mut slot, EventKind::Accept);
    let event = &mut record.event;
    task::read_current::<T, M>(&mut event.owner);
    readable(sock::read::<M>(sk, event), Site::Socket)?;
    if event.local_port == 0 {
        // The peer has reset it already.
        event.local_port = readable(sock::lasting_local_port::<Probe>(sk), Site::Socket)?;
    }
    let state = readable(sock::state::<M>(sk), Site::Socket)?;
    if state == TcpState::LISTEN || state == TcpState::SYN_SENT {
        // Neither is accepted; said, it spares the verifier the way.
        return Err(Stop::NotOurs);
    }
    let ended = if state == TcpState::CLOSE {
        FLAG_ENDED
    } else {
        0
    };
    event.flags = mem::forget((FLAG_INBOUND | flags | ended).into(), event.ts_ns) as u16;
    event.local_port = mem::forget(event.local_port.into(), event.ts_ns) as u16;
    event.owner_source = OwnerSource::Accept as u8;
    event.id = emit::connection_id::<M>(sk, event.ts_ns);
    verdict::stamp(Direction::Inbound, event);
    let owner_passes = filter::owner_passes(&event.owner, task::current);
    executable::note(&event.owner, owner_passes);
    let told = emit::emit_for::<M>(ctx, Hook::Accept, owner_passes, event);
    // It may have ended before it was remembered.
    if connection::remember_inbound(sk, owner_passes, event, state)
        && sock::state::<Probe>(sk) == Some(TcpState::CLOSE)
    {
        // No closure: its captures would take stack that this chain does not have.
        account::ended(connection::ended_early(ctx, sk, state, record));
    }
    told
}
