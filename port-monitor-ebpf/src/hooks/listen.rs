//! `inet_hash(sk)`, `inet6_hash(sk)`: a socket listens from now on, with its port
//! chosen, in the listening thread (`net/ipv4/inet_hashtables.c`). The end is its
//! LISTEN→CLOSE.
//!
//! On the tracepoint rung CLOSE→LISTEN, which comes before the port of a socket
//! that was never bound is chosen, and before the kernel may still refuse.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{EventKind, Owner, OwnerSource},
    tcp_state::TcpState,
};

use crate::{
    emit::{self, Draft},
    filter,
    maps::LISTENING,
    mem::{Direct, Mem, Probe},
    sock::{self, Flow},
    task,
};

/// A socket that listens.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Listening {
    owner: Owner,
    id: u64,
    /// An [`OwnerSource`] by number.
    owner_source: u64,
}

#[fentry(function = "inet_hash")]
fn pm_listen4_fe(ctx: FEntryContext) -> i32 {
    let _: Option<()> = try_hash::<Direct>(&ctx, ctx.arg(0));
    0
}

#[fentry(function = "inet6_hash")]
fn pm_listen6_fe(ctx: FEntryContext) -> i32 {
    let _: Option<()> = try_hash::<Direct>(&ctx, ctx.arg(0));
    0
}

/// Either of them.
#[kprobe]
fn pm_listen_kp(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        let _: Option<()> = try_hash::<Probe>(&ctx, sk);
    }
    0
}

#[inline(always)]
fn try_hash<M: Mem>(ctx: &impl EbpfContext, sk: *const u8) -> Option<()> {
    // SAFETY: `sk` is the function's argument, a live socket.
    if unsafe { sock::state::<M>(sk) } != Some(TcpState::LISTEN) {
        return None;
    }
    // SAFETY: as above.
    if !unsafe { sock::is_tcp::<M>(sk) } {
        return None;
    }
    // SAFETY: as above.
    let flow = unsafe { sock::flow::<M>(sk) }?;
    opened(ctx, sk, &flow, &task::current_owner());
    Some(())
}

/// Reports that `sk` listens, made to by the running thread.
#[inline(always)]
pub(crate) fn opened(ctx: &impl EbpfContext, sk: *const u8, flow: &Flow, owner: &Owner) {
    let ts_ns = emit::now_ns();
    let listening = Listening {
        owner: *owner,
        id: emit::connection_id(sk, ts_ns),
        owner_source: OwnerSource::Listener as u64,
    };
    let owner_passes = filter::owner_passes(owner, task::current());
    let passes = owner_passes && filter::flow_passes(true, flow);
    // The look at the open sockets must not report it again.
    let is_wanted = emit::is_wanted(EventKind::Unlisten) || emit::is_wanted(EventKind::Preexisting);
    if task::is_monitor(owner.tgid) || is_wanted && passes {
        if LISTENING.insert(sk as u64, listening, 0).is_err() {
            emit::count_extra(Extra::ListenersFull);
        }
    } else {
        // Nor may it be taken for an earlier one at this address.
        let _: Result<(), i32> = LISTENING.remove(sk as u64);
    }
    emit(ctx, EventKind::Listen, &listening, flow, owner_passes);
}

/// Notes a listener that is older than the monitor; false when it is known
/// already.
#[inline(always)]
pub(crate) fn note_older(sk: *const u8, owner: &Owner, id: u64) -> bool {
    const EEXIST: i32 = -17;
    let listening = Listening {
        owner: *owner,
        id,
        owner_source: OwnerSource::Holder as u64,
    };
    match LISTENING.insert(sk as u64, listening, BPF_NOEXIST.into()) {
        Ok(()) => true,
        Err(EEXIST) => false,
        Err(_) => {
            emit::count_extra(Extra::ListenersFull);
            true
        }
    }
}

/// Reports that `sk` does not listen any more. Of several programs that see it,
/// one does.
#[inline(always)]
pub(crate) fn closed(ctx: &impl EbpfContext, sk: *const u8) -> Option<()> {
    // SAFETY: the entry is copied before it can be removed.
    let listening = unsafe { LISTENING.get(sk as u64) }.copied()?;
    LISTENING.remove(sk as u64).ok()?;
    // SAFETY: the hook's socket is live.
    let mut flow = unsafe { sock::flow::<Probe>(sk) }?;
    // SAFETY: as above.
    flow.local_port = unsafe { sock::lasting_local_port::<Probe>(sk) }?;
    emit(ctx, EventKind::Unlisten, &listening, &flow, true);
    Some(())
}

#[inline(always)]
fn emit(
    ctx: &impl EbpfContext,
    kind: EventKind,
    listening: &Listening,
    flow: &Flow,
    owner_passes: bool,
) {
    let is_holder = listening.owner_source == OwnerSource::Holder as u64;
    emit::emit(
        ctx,
        &Draft {
            hook: Hook::Listen,
            kind,
            flags: 0,
            id: listening.id,
            ts_ns: emit::now_ns(),
            detail: 0,
            flow,
            owner: &listening.owner,
            owner_source: if is_holder {
                OwnerSource::Holder
            } else {
                OwnerSource::Listener
            },
            owner_passes,
            is_inbound: true,
            stats: None,
        },
    );
}
