//! `sched_process_fork`, `sched_process_exit`, `sched_process_free`: follows the process
//! tree of the watched command, however its children detach themselves. A process that
//! exits belongs to it until all that it had open is closed, which is later.

use aya_ebpf::{bindings::BPF_EXIST, macros::raw_tracepoint, programs::RawTracePointContext};
use port_monitor_common::site::Site;

use crate::{
    account::{is_stored, removal, unreadable},
    maps::TREE,
    read::task,
};

/// What `TREE` has of a process that exits.
const EXITS: u8 = 2;

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
        removal(Site::Unfollow, || {
            TREE.insert(tgid, EXITS, BPF_EXIST.into())
        });
    }
    0
}

/// `(task)`, long after its end: its number may be another's, which has not ended.
#[raw_tracepoint(tracepoint = "sched_process_free")]
fn pm_free_rt(ctx: RawTracePointContext) -> i32 {
    if let Some(tgid) = task::tgid(ctx.arg(0))
        // SAFETY: the entry is read at once.
        && unsafe { TREE.get(tgid) }.copied() == Some(EXITS)
    {
        removal(Site::Unfollow, || TREE.remove(tgid));
    }
    0
}
