//! `iter/task_file`: walks every open file once at start-up and notes the
//! listening sockets that are older than the monitor.

use core::{ffi::c_void, mem::MaybeUninit};

use crate::{
    globals::offset,
    hooks::state,
    mem::{self, Probe},
    sock,
    task::{self, read},
};
use port_monitor_common::{event::TcpEvent, tcp_state::TcpState};

/// `struct bpf_iter__task_file` (`kernel/bpf/task_iter.c`).
#[repr(C)]
pub(crate) struct TaskFile {
    pub(crate) meta: *const *mut c_void,
    pub(crate) task: *const u8,
    fd: u32,
    padding: u32,
    pub(crate) file: *const u8,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn pm_listeners_it(ctx: *const TaskFile) -> i32 {
    // SAFETY: the kernel passes its iterator context.
    let task = unsafe { (*ctx).task };
    // SAFETY: as above.
    let file = unsafe { (*ctx).file };
    if !task.is_null() && !file.is_null() {
        let _: Option<()> = try_file(task, file);
    }
    0
}

#[inline(always)]
fn try_file(task: *const u8, file: *const u8) -> Option<()> {
    let sk = sock::tcp(socket_of(file)?)?;
    if sock::state::<Probe>(sk)? != TcpState::LISTEN {
        return None;
    }
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = mem::zeroed(&mut slot);
    sock::read::<Probe>(sk, event)?;
    task::read_owner(task, &mut event.owner)?;
    state::listens(sk, event, task);
    Some(())
}

/// The `struct sock` behind a file, if it is a socket: only then does the
/// private data point back to the file.
#[inline(always)]
pub(crate) fn socket_of(file: *const u8) -> Option<*const u8> {
    let socket: *const u8 = read(file, offset!(file_private_data))?;
    let back: *const u8 = read(socket, offset!(socket_file))?;
    if back != file {
        return None;
    }
    let sk: *const u8 = read(socket, offset!(socket_sk))?;
    if sk.is_null() { None } else { Some(sk) }
}
