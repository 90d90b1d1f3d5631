//! `security_sock_graft(sk, parent)`: an accepted socket gets its file, in the
//! accepting thread, right after `inet_csk_accept` (`net/socket.h`).
//!
//! An entry hook, so it also sees threads that were asleep in accept before the
//! attach. Beside the fexit of `accept` it reports only what that has not; on
//! the kprobe backend it reports every accept, because the kernel has few return
//! probes and each sleeping thread keeps one.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use port_monitor_common::{
    counters::{Extra, Watcher},
    event::FLAG_PREATTACH,
    site::Site,
};

use crate::{
    account::{self, Look, Stop, ours, readable},
    monitor::accept,
    read::{
        mem::{self, Direct, Probe},
        sock, task,
    },
    report::once::{self, What},
};

#[fentry(function = "security_sock_graft")]
fn pm_graft_fe(ctx: FEntryContext) -> i32 {
    account::look(|| report_unmarked(&ctx, ctx.arg(0)));
    0
}

/// Beside the fexit of `accept` on a preemptible kernel: unlike a trampoline
/// program it is not skipped while a preempted task is in it.
#[kprobe]
fn pm_graft_mkp(ctx: ProbeContext) -> u32 {
    account::look(|| report_unmarked(&ctx, readable(ctx.arg(0), Site::Socket)?));
    0
}

/// By itself: every accept.
#[kprobe]
fn pm_graft_kp(ctx: ProbeContext) -> u32 {
    account::look(|| report(&ctx, readable(ctx.arg(0), Site::Socket)?));
    0
}

#[inline(always)]
fn report_unmarked(ctx: &impl EbpfContext, sk: *const u8) -> Look {
    let is_monitor = task::is_monitor(task::current_tgid());
    if is_monitor && accepted(sk).is_some() {
        account::add_extra(Extra::Proofs, Watcher::Graft.proof());
    }
    if once::take_mark(What::Accept) {
        return Err(Stop::NotOurs);
    }
    // As a number, like the first subflow's: to the verifier a pointer that it knows the
    // type of would lead another way through all that follows.
    let sk = mem::address(sk) as *const u8;
    let tcp = ours(accepted(sk))?;
    if !is_monitor {
        account::count_extra(Extra::AcceptPreattach);
    }
    accept::report::<Probe, Probe>(ctx, tcp, FLAG_PREATTACH)
}

#[inline(always)]
fn report(ctx: &impl EbpfContext, sk: *const u8) -> Look {
    accept::report::<Probe, Direct>(ctx, ours(accepted(sk))?, 0)
}

/// The connection behind a grafted socket; Unix sockets and others are grafted too.
#[inline(always)]
fn accepted(sk: *const u8) -> Option<*const u8> {
    sock::family::<Probe>(sk)?;
    sock::tcp(sk)
}
