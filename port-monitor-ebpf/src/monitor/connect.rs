//! `tcp_connect(sk)`: a SYN is about to be sent, by the connecting thread, with
//! route and local port chosen (`net/ipv4/tcp_output.c`). Where the SYN has waited for
//! the first write, `unsent` has told of the attempt when `connect` returned.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use port_monitor_common::{
    counters::Hook,
    event::{EventKind, OwnerSource, TcpEvent},
    policy::Direction,
    site::Site,
};

use crate::{
    account::{self, Look, Stop, readable},
    judge::verdict,
    read::{
        mem::{Direct, Mem, Probe},
        sock, task,
    },
    report::{
        connection, emit, executable, filter,
        once::{self, Turn, What},
    },
};

#[fentry(function = "tcp_connect")]
fn pm_connect_fe(ctx: FEntryContext) -> i32 {
    account::look(|| try_connect::<Direct>(&ctx, ctx.arg(0), Turn::Second));
    0
}

/// By itself, or where a trampoline's program is skipped at times: a kprobe runs with preemption
/// off, and is skipped only while a task is preempted in the middle of a bpf(2).
#[kprobe]
fn pm_connect_kp(ctx: ProbeContext) -> u32 {
    account::look(|| {
        let sk = readable(ctx.arg(0), Site::Call)?;
        try_connect::<Probe>(&ctx, sk, Turn::First)
    });
    0
}

#[inline(always)]
fn try_connect<M: Mem>(ctx: &impl EbpfContext, sk: *const u8, turn: Turn) -> Look {
    if once::is_told(turn, What::Attempt) {
        return Err(Stop::NotOurs);
    }
    if (emit::is_wanted(EventKind::Connect) || emit::is_wanted(EventKind::Failed))
        && sock::is_connecting::<M>(sk)
    {
        connection::sends_late(sk);
        return Err(Stop::NotOurs);
    }
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = emit::record(&mut slot, EventKind::Connect);
    task::read_current::<Direct, M>(&mut event.owner);
    readable(sock::read::<M>(sk, event), Site::Socket)?;
    attempt::<M>(ctx, sk, event)
}

/// Reports an attempt by the event's owner, the running thread, and remembers it until
/// its outcome.
#[inline(always)]
pub(crate) fn attempt<M: Mem>(ctx: &impl EbpfContext, sk: *const u8, event: &mut TcpEvent) -> Look {
    identify::<M>(sk, event);
    verdict::stamp(Direction::Outbound, event);
    let owner_passes = filter::owner_passes(&event.owner, task::current);
    executable::note(&event.owner, owner_passes);
    connection::remember_attempt(sk, owner_passes, event);
    if sock::in_repair::<Probe>(sk) != 0 {
        // No SYN is sent. The change that comes next tells what was restored.
        return Err(Stop::NotOurs);
    }
    emit::emit_for::<M>(ctx, Hook::Connect, owner_passes, event)
}

/// Makes it the event of an attempt that its owner begins.
#[inline(always)]
pub(crate) fn identify<M: Mem>(sk: *const u8, event: &mut TcpEvent) {
    event.owner_source = OwnerSource::Connect as u8;
    // Its threads open the later subflows of a process's connection.
    event.owner.flags &= !(sock::is_subflow(sk) as u16);
    event.id = emit::connection_id::<M>(sk, event.ts_ns);
}
