//! `sched_process_fork` and `sched_process_exit`: follows the process tree of
//! the watched command, however its children detach themselves.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use port_monitor_common::counters::Extra;

use crate::{emit, maps::TREE, task};

/// `(parent, child)`, in the parent, before the child first runs.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn pm_fork_rt(ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = try_fork(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn try_fork(parent: *const u8, child: *const u8) -> Option<()> {
    TREE.get_ptr(task::tgid(parent)?)?;
    if TREE.insert(task::tgid(child)?, 1, 0).is_err() {
        emit::count_extra(Extra::TreeFull);
    }
    Some(())
}

/// `(task, …)`, in the ending task.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn pm_exit_rt(ctx: RawTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    if task::process_is_ending(task)
        && let Some(tgid) = task::tgid(task)
    {
        let _: Result<(), i32> = TREE.remove(tgid);
    }
    0
}
