//! `tcp_connect(sk)`: a SYN is about to be sent, by the connecting thread, with
//! route and local port chosen (`net/ipv4/tcp_output.c`).

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use port_monitor_common::{
    counters::Hook,
    event::{EventKind, OwnerSource},
};

use crate::{
    emit::{self, Draft},
    filter,
    hooks::outcome::{self, Pending},
    mem::{Direct, Mem, Probe},
    sock::{self, Flow},
    task,
};

#[fentry(function = "tcp_connect")]
fn pm_connect_fe(ctx: FEntryContext) -> i32 {
    try_connect::<Direct>(&ctx, ctx.arg(0));
    0
}

#[kprobe]
fn pm_connect_kp(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        try_connect::<Probe>(&ctx, sk);
    }
    0
}

#[inline(always)]
fn try_connect<M: Mem>(ctx: &impl EbpfContext, sk: *const u8) {
    // SAFETY: `sk` is the function's argument, a live socket.
    if let Some(flow) = unsafe { sock::flow::<M>(sk) } {
        attempt(ctx, sk, &flow);
    }
}

/// Reports an attempt by the running thread, and remembers it until its outcome.
#[inline(always)]
pub(crate) fn attempt(ctx: &impl EbpfContext, sk: *const u8, flow: &Flow) {
    let ts_ns = emit::now_ns();
    let pending = Pending {
        owner: task::current_owner(),
        id: emit::connection_id(sk, ts_ns),
        ts_ns,
    };
    let owner_passes = filter::owner_passes(&pending.owner, task::current());
    outcome::remember(sk, &pending, owner_passes, flow);
    emit::emit(
        ctx,
        &Draft {
            hook: Hook::Connect,
            kind: EventKind::Connect,
            flags: 0,
            id: pending.id,
            ts_ns,
            detail: 0,
            flow,
            owner: &pending.owner,
            owner_source: OwnerSource::Connect,
            owner_passes,
        },
    );
}
