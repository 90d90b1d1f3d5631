//! The accept system calls on their return: names the accepting thread on the
//! tracepoint rung, where the user asks for it. io_uring does not pass here.
//!
//! Since Linux 7 such a program may sleep, so it may be preempted, and the kernel skips
//! it for other threads of that CPU meanwhile. A second one sees what the first did not.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _, helpers::bpf_get_current_pid_tgid, macros::tracepoint,
    programs::TracePointContext,
};
use port_monitor_common::counters::Extra;

use crate::{
    emit,
    globals::offset,
    hooks::{accept, listeners::socket_of},
    maps::ACCEPTED,
    mem::{Direct, Probe},
    sock,
    task::{self, read},
};

/// `ret` in the format of `syscalls:sys_exit_*`.
const RET: usize = 16;

/// Both `sys_enter_accept` and `sys_enter_accept4`, where the kernel skips programs: the
/// mark of a call whose second program was skipped is not this one's.
#[tracepoint]
fn pm_enter_accept(_: TracePointContext) -> u32 {
    take_mark();
    0
}

/// Both `sys_exit_accept` and `sys_exit_accept4`.
#[tracepoint]
fn pm_sys_accept(ctx: TracePointContext) -> u32 {
    let accepted = accepted(&ctx);
    // Calls that accept nothing are marked too: the kernel counts what it skips of them.
    let is_marked = mark(accepted.unwrap_or(ptr::null()));
    if let Some(sk) = accepted
        && is_marked
    {
        let _: Option<()> = accept::report::<Probe, Direct>(&ctx, sk, 0);
    }
    0
}

/// After the other, at both.
#[tracepoint]
fn pm_again_accept(ctx: TracePointContext) -> u32 {
    let marked = take_mark();
    if marked.is_none() {
        emit::count_extra(Extra::AcceptAgain);
    }
    if let Some(sk) = accepted(&ctx)
        && marked != Some(sk as u64)
    {
        let _: Option<()> = accept::report::<Probe, Direct>(&ctx, sk, 0);
    }
    0
}

/// Notes what the thread's call accepted; false when that cannot be noted, and the report
/// is left to the second program.
#[inline(always)]
fn mark(sk: *const u8) -> bool {
    ACCEPTED.insert(thread(), sk as u64, 0).is_ok()
}

/// Takes this thread's note back: the socket it is of.
#[inline(always)]
fn take_mark() -> Option<u64> {
    let thread = thread();
    // SAFETY: only this thread writes its own entry.
    let marked = unsafe { ACCEPTED.get(thread) }.copied();
    if marked.is_some() {
        let _: Result<(), i32> = ACCEPTED.remove(thread);
    }
    marked
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The connection that the system call returns.
#[inline(always)]
fn accepted(ctx: &TracePointContext) -> Option<*const u8> {
    let ret: i64 = read(ctx.as_ptr().cast(), RET)?;
    let fd = usize::try_from(ret).ok()?;
    let files: *const u8 = read(task::current(), offset!(task_files))?;
    let table: *const u8 = read(files, offset!(files_fdt))?;
    let fds: *const u8 = read(table, offset!(fdtable_fd))?;
    let sk = socket_of(read(fds, fd * size_of::<usize>())?)?;
    sock::tcp(sk)
}
