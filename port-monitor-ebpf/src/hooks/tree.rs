//! `sched_process_fork` and `sched_process_exit`: follows the process tree of
//! the watched command, however its children detach themselves.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use port_monitor_common::site::Site;

use crate::{
    account::{is_stored, removal, unreadable},
    maps::TREE,
    task,
};

/// `(parent, child)`, in the parent, before the child first runs.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn pm_fork_rt(ctx: RawTracePointContext) -> i32 {
    let (parent, child) = (task::tgid(ctx.arg(0)), task::tgid(ctx.arg(1)));
    if let (Some(parent), Some(child)) = (parent, child) {
        follow(parent, child);
    } else {
        unreadable(Site::Process);
    }
    0
}

#[inline(always)]
fn follow(parent: u32, child: u32) {
    if TREE.get_ptr(parent).is_some() {
        is_stored(Site::Follow, || TREE.insert(child, 1, 0));
    }
}

/// `(task, …)`, in the ending task.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn pm_exit_rt(ctx: RawTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    if task::process_is_ending(task)
        && let Some(tgid) = task::tgid(task)
    {
        removal(Site::Unfollow, || TREE.remove(tgid));
    }
    0
}
