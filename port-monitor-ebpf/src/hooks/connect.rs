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
    hooks::connection::{self, Connection},
    mem::{Direct, Probe},
    sock::{self, Flow},
    task,
};

#[fentry(function = "tcp_connect")]
fn pm_connect_fe(ctx: FEntryContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: `sk` is the function's argument, a live socket.
    if let Some(flow) = unsafe { sock::flow::<Direct>(sk) } {
        attempt(&ctx, sk, &flow);
    }
    0
}

#[kprobe]
fn pm_connect_kp(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        // SAFETY: as above.
        if let Some(flow) = unsafe { sock::flow::<Probe>(sk) } {
            attempt(&ctx, sk, &flow);
        }
    }
    0
}

/// Reports an attempt by the running thread, and remembers it until its outcome.
#[inline(always)]
pub(crate) fn attempt(ctx: &impl EbpfContext, sk: *const u8, flow: &Flow) {
    let attempt = Connection::attempt(sk);
    let owner_passes = filter::owner_passes(&attempt.owner, task::current());
    connection::remember_attempt(sk, &attempt, owner_passes, flow);
    emit::emit(
        ctx,
        &Draft {
            hook: Hook::Connect,
            kind: EventKind::Connect,
            flags: 0,
            id: attempt.id,
            ts_ns: attempt.ts_ns,
            detail: 0,
            flow,
            owner: &attempt.owner,
            owner_source: OwnerSource::Connect,
            owner_passes,
            is_inbound: false,
            stats: None,
        },
    );
}
