//! The accept system calls on their return: names the accepting thread on the
//! tracepoint rung, where the user asks for it. io_uring does not pass here.
//!
//! Since Linux 7 such a program may sleep, so it may be preempted, and the kernel skips
//! it for other threads of that CPU meanwhile. A second one sees what the first did not.

use aya_ebpf::{EbpfContext as _, macros::tracepoint, programs::TracePointContext};
use port_monitor_common::counters::Extra;

use crate::{
    emit,
    globals::offset,
    hooks::{accept, graft, listeners::socket_of},
    mem::Probe,
    sock,
    task::{self, read},
};

/// `ret` in the format of `syscalls:sys_exit_*`.
const RET: usize = 16;

/// Both `sys_exit_accept` and `sys_exit_accept4`.
#[tracepoint]
fn pm_sys_accept(ctx: TracePointContext) -> u32 {
    if let Some(sk) = accepted(&ctx)
        && graft::mark(sk)
    {
        let _: Option<()> = accept::report::<Probe>(&ctx, sk, 0);
    }
    0
}

/// After the other, at both.
#[tracepoint]
fn pm_again_accept(ctx: TracePointContext) -> u32 {
    if let Some(sk) = accepted(&ctx)
        && graft::take_mark() != Some(sk as u64)
    {
        emit::count_extra(Extra::AcceptAgain);
        let _: Option<()> = accept::report::<Probe>(&ctx, sk, 0);
    }
    0
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
