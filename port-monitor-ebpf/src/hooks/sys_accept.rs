//! The accept system calls on their return: names the accepting thread on the
//! tracepoint rung, where the user asks for it. io_uring does not pass here.

use aya_ebpf::{EbpfContext as _, macros::tracepoint, programs::TracePointContext};

use crate::{
    globals::offset,
    hooks::{accept, listeners::socket_of},
    mem::Probe,
    sock,
    task::{self, read},
};

/// `ret` in the format of `syscalls:sys_exit_*`.
const RET: usize = 16;

#[tracepoint(category = "syscalls", name = "sys_exit_accept")]
fn pm_sys_accept(ctx: TracePointContext) -> u32 {
    let _: Option<()> = try_return(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept4")]
fn pm_sys_accept4(ctx: TracePointContext) -> u32 {
    let _: Option<()> = try_return(&ctx);
    0
}

#[inline(always)]
fn try_return(ctx: &TracePointContext) -> Option<()> {
    let ret: i64 = read(ctx.as_ptr().cast(), RET)?;
    let fd = usize::try_from(ret).ok()?;
    let files: *const u8 = read(task::current(), offset!(task_files))?;
    let table: *const u8 = read(files, offset!(files_fdt))?;
    let fds: *const u8 = read(table, offset!(fdtable_fd))?;
    let sk = socket_of(read(fds, fd * size_of::<usize>())?)?;
    accept::report::<Probe>(ctx, sock::tcp(sk)?, 0)
}
