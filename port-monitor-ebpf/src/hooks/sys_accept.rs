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
use port_monitor_common::{counters::Extra, site::Site};

use crate::{
    account::{self, Look, Stop, is_stored, ours, readable, removal},
    globals::offset,
    hooks::{accept, listeners::socket_of},
    maps::ACCEPTED,
    mem::{Direct, Probe},
    sock,
    task::{self, read},
};

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
    account::look(|| {
        let accepted = accepted(&ctx);
        // Calls that accept nothing are marked too: the kernel counts what it skips of them.
        let is_marked = mark(accepted.unwrap_or(ptr::null()));
        let sk = accepted?;
        if !is_marked {
            return Err(Stop::NotOurs);
        }
        accept::report::<Probe, Direct>(&ctx, sk, 0)
    });
    0
}

/// After the other, at both.
#[tracepoint]
fn pm_again_accept(ctx: TracePointContext) -> u32 {
    let marked = take_mark();
    if marked.is_none() {
        account::count_extra(Extra::AcceptAgain);
    }
    account::look(|| {
        let sk = accepted(&ctx)?;
        if marked == Some(sk as u64) {
            return Err(Stop::NotOurs);
        }
        accept::report::<Probe, Direct>(&ctx, sk, 0)
    });
    0
}

/// Notes what the thread's call accepted; false when that cannot be noted, and the report
/// is left to the second program.
#[inline(always)]
fn mark(sk: *const u8) -> bool {
    is_stored(Site::RememberAccepted, || {
        ACCEPTED.insert(thread(), sk as u64, 0)
    })
}

/// Takes this thread's note back: the socket it is of.
#[inline(always)]
fn take_mark() -> Option<u64> {
    let thread = thread();
    // SAFETY: only this thread writes its own entry.
    let marked = unsafe { ACCEPTED.get(thread) }.copied();
    if marked.is_some() {
        removal(Site::ForgetAccepted, || ACCEPTED.remove(thread));
    }
    marked
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The connection that the system call returns.
#[inline(always)]
fn accepted(ctx: &TracePointContext) -> Look<*const u8> {
    let ret = read(ctx.as_ptr().cast(), offset!(syscall_ret));
    let ret: i64 = readable(ret, Site::Event)?;
    if ret < 0 {
        return Err(Stop::NotOurs);
    }
    let file = readable(file(ret as usize), Site::Accepted)?;
    ours(socket_of(file).and_then(sock::tcp))
}

/// The running thread's file of this number.
#[inline(always)]
fn file(fd: usize) -> Option<*const u8> {
    let files: *const u8 = read(task::current(), offset!(task_files))?;
    let table: *const u8 = read(files, offset!(files_fdt))?;
    let fds: *const u8 = read(table, offset!(fdtable_fd))?;
    read(fds, fd * size_of::<usize>())
}
