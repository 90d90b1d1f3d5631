//! `iter/task_file`: walks every open file once at start-up and notes the
//! listening sockets that are older than the monitor.

use core::{ffi::c_void, mem::MaybeUninit};

use crate::{
    account::{self, Look, Stop, readable},
    globals::offset,
    hooks::state,
    mem::{self, Probe},
    sock,
    task::{self, read},
};
use port_monitor_common::{event::TcpEvent, site::Site, tcp_state::TcpState};

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
    if !task.is_null()
        && !file.is_null()
        && let Some(sk) = socket_of(file).and_then(sock::tcp)
    {
        account::look(|| note(task, sk));
    }
    0
}

#[inline(always)]
fn note(task: *const u8, sk: *const u8) -> Look {
    if readable(sock::state::<Probe>(sk), Site::Socket)? == TcpState::LISTEN {
        note_listener(task, sk)?;
    }
    // None is reported here.
    Err(Stop::NotOurs)
}

#[inline(always)]
fn note_listener(task: *const u8, sk: *const u8) -> Look {
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = mem::zeroed(&mut slot);
    readable(sock::read::<Probe>(sk, event), Site::Socket)?;
    readable(task::read_owner(task, &mut event.owner), Site::Holder)?;
    state::listens(sk, event, task);
    Ok(())
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
