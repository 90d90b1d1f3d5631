//! `iter/task_file`: walks every open file at start-up and notes the listening sockets that
//! are older than the monitor; and again when connections have come in (tracepoint backend),
//! to tell who has their listeners open.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::bpf_seq_write;
use port_monitor_common::{
    event::TcpEvent,
    listener::{HOLDER_PASSES, Holder},
    site::Site,
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Stop, readable},
    globals::offset,
    maps::LISTENER_SOCKETS,
    monitor::state,
    read::{
        mem::{self, Probe},
        sock,
        task::{self, read},
    },
    report::filter,
};

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

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn pm_holders_it(ctx: *const TaskFile) -> i32 {
    // SAFETY: the kernel passes its iterator context.
    let (meta, task, file) = unsafe { ((*ctx).meta, (*ctx).task, (*ctx).file) };
    if !task.is_null()
        && !file.is_null()
        && let Some(sk) = socket_of(file).and_then(sock::tcp)
        && sock::state::<Probe>(sk) == Some(TcpState::LISTEN)
        // SAFETY: the number is copied at once.
        && let Some(number) = unsafe { LISTENER_SOCKETS.get(sk as u64) }.copied()
        && tell_holder(meta, task, sk, number).is_none()
    {
        account::ended(Err(Stop::GaveUp(Site::Holder)));
    }
    0
}

/// Tells userspace who has the listening socket open.
#[inline(always)]
fn tell_holder(
    meta: *const *mut c_void,
    task: *const u8,
    sk: *const u8,
    number: u32,
) -> Option<()> {
    let mut slot = MaybeUninit::uninit();
    let holder: &mut Holder = mem::zeroed(&mut slot);
    holder.listener = number;
    holder.port = sock::lasting_local_port::<Probe>(sk)?.into();
    task::read_owner(task, &mut holder.owner)?;
    holder.parent_tgid = task::parent_tgid(task)?;
    holder.socket = state::socket_number(sk);
    holder.exec_id = task::exec_id(task);
    if holder.owner.exe_inode == 0 {
        state::recall_program(sk, holder)?;
    }
    if filter::owner_passes(&holder.owner, || task) {
        holder.flags |= HOLDER_PASSES;
    }
    write(meta, &raw const *holder);
    Some(())
}

/// Writes one record for the reader of the iterator's file.
#[inline(always)]
fn write(meta: *const *mut c_void, holder: *const Holder) {
    let size = size_of::<Holder>() as u32;
    // SAFETY: the kernel passes its iterator context.
    let seq = unsafe { *meta };
    // SAFETY: the kernel's own file, and a record of ours.
    let written = unsafe { bpf_seq_write(seq.cast(), holder.cast_mut().cast(), size) };
    account::asked_again(written);
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
