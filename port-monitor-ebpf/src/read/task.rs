//! The only reader of `struct task_struct`: who acts. Valid in process context
//! only; softirq hooks must not call this for `current`.

use core::hint::black_box;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf},
};
use port_monitor_common::{
    config::FILTER_COMM,
    event::{OWNER_KERNEL, Owner},
};

use crate::{
    globals::{config, offset},
    read::mem::{Direct, Mem, Probe},
};

/// In a task's flags: a thread of the kernel itself (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;
const _: () = assert!(OWNER_KERNEL == 1);

/// The running task.
#[inline(always)]
pub(crate) fn current() -> *const u8 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() as *const u8 }
}

/// The running thread's process.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The monitor itself is running.
#[inline(always)]
pub(crate) fn is_monitor(tgid: u32) -> bool {
    tgid == config!(self_tgid)
}

/// The running thread as an owner: who it is by `M`, what it executes by `P`. By `Direct`
/// loads, where the kernel has them, it is cheaper to run, but the verifier looks through all
/// types of the kernel for every pointer that it finds on its way: for programs that run
/// often, and once in each.
#[inline(always)]
pub(crate) fn read_current<M: Mem, P: Mem>(owner: &mut Owner) {
    if M::IS_TYPED && offset!(typed_task) != 0 {
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task_btf() }
            .cast::<u8>()
            .cast_const();
        name::<Direct>(task, owner);
        let cred: usize = Direct::read_or_zero(task, offset!(task_cred));
        owner.uid = Direct::read_or_zero(cred as *const u8, offset!(cred_uid));
        owner.gid = Direct::read_or_zero(cred as *const u8, offset!(cred_gid));
        if P::IS_TYPED {
            program::<Direct>(task, owner);
        }
    } else {
        name::<Probe>(current(), owner);
        let uid_gid = bpf_get_current_uid_gid();
        owner.uid = uid_gid as u32;
        owner.gid = (uid_gid >> 32) as u32;
    }
    if !P::IS_TYPED || offset!(typed_task) == 0 {
        program::<Probe>(current(), owner);
    }
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: the helper has no preconditions.
    owner.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    owner.tgid = (pid_tgid >> 32) as u32;
    owner.tid = pid_tgid as u32;
}

/// Any task as an owner.
#[inline(always)]
pub(crate) fn read_owner(task: *const u8, owner: &mut Owner) -> Option<()> {
    users(task, owner)?;
    name::<Probe>(task, owner);
    program::<Probe>(task, owner);
    owner.cgroup_id = cgroup(task).and_then(cgroup_id).unwrap_or(0);
    owner.tgid = tgid(task)?;
    owner.tid = read(task, offset!(task_pid))?;
    Some(())
}

/// As whom a task acts, in the initial user namespace.
#[inline(always)]
fn users(task: *const u8, owner: &mut Owner) -> Option<()> {
    let cred: *const u8 = read(task, offset!(task_cred))?;
    owner.uid = read(cred, offset!(cred_uid))?;
    owner.gid = read(cred, offset!(cred_gid))?;
    Some(())
}

/// A task's name. Before Linux 5.17 what was there before may follow the first NUL
/// (`__set_task_comm`); userspace does not look there.
#[inline(always)]
pub(crate) fn comm(task: *const u8) -> [u64; 2] {
    // As words: bytes would be copied one by one.
    read(task, offset!(task_comm)).unwrap_or_default()
}

/// The name, NUL-padded.
#[inline(always)]
fn padded([first, second]: [u64; 2]) -> [u64; 2] {
    // Without a branch, for the verifier's sake.
    let nul = first_nul(first);
    let is_long = 1 - (black_box(nul | nul.wrapping_neg()) >> 63);
    [until_nul(first), until_nul(second).wrapping_mul(is_long)]
}

/// The bytes before the first NUL.
#[inline(always)]
fn until_nul(word: u64) -> u64 {
    word & first_nul(word).wrapping_sub(1)
}

/// The highest bit of the first byte that is NUL; zero where none is.
#[inline(always)]
fn first_nul(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let nuls = word.wrapping_sub(ONES) & !word & ONES << 7;
    nuls & nuls.wrapping_neg()
}

/// Who a task is: its name, and its process's name and start.
#[inline(always)]
fn name<M: Mem>(task: *const u8, owner: &mut Owner) {
    let leader: usize = M::read_or_zero(task, offset!(task_group_leader));
    let leader = leader as *const u8;
    write_comm::<M>(task, &mut owner.comm);
    write_comm::<M>(leader, &mut owner.process_comm);
    owner.start_ns = M::read_or_zero(leader, offset!(task_start_boottime));
}

/// Copies a task's name to a field of an owner, which lies at a multiple of 8 bytes.
#[inline(always)]
fn write_comm<M: Mem>(task: *const u8, to: &mut [u8; 16]) {
    let mut comm: [u64; 2] = M::read_or_zero(task, offset!(task_comm));
    if config!(filters) & FILTER_COMM != 0 {
        comm = padded(comm);
    }
    // SAFETY: 16 bytes, aligned to 8 by the owner.
    unsafe { (&raw mut *to).cast::<[u64; 2]>().write(comm) };
}

/// A task's process id.
#[inline(always)]
pub(crate) fn tgid(task: *const u8) -> Option<u32> {
    read(task, offset!(task_tgid))
}

/// The last thread of the task's process is on its way out.
#[inline(always)]
pub(crate) fn process_is_ending(task: *const u8) -> bool {
    let live = read(task, offset!(task_signal))
        .and_then(|signal: *const u8| read::<u32>(signal, offset!(signal_live)));
    live == Some(0)
}

/// The task is a thread of the kernel itself: `PF_KTHREAD`.
#[inline(always)]
pub(crate) fn is_kernel_thread(task: *const u8) -> bool {
    let flags: Option<u32> = read(task, offset!(task_flags));
    matches!(flags, Some(flags) if flags & PF_KTHREAD != 0)
}

/// The file the task's process executes: device, as the kernel numbers it, and inode.
#[inline(always)]
pub(crate) fn exe(task: *const u8) -> Option<(u32, u64)> {
    let mm: *const u8 = read(task, offset!(task_mm))?;
    let file: *const u8 = read(mm, offset!(mm_exe_file))?;
    let inode: *const u8 = read(file, offset!(file_inode))?;
    let file_system: *const u8 = read(inode, offset!(inode_sb))?;
    Some((
        read(file_system, offset!(sb_dev))?,
        read(inode, offset!(inode_ino))?,
    ))
}

/// What a task executes, and whether it is the kernel itself. Without a branch, for the
/// verifier's sake: what cannot be read is zero, and so is what is read through it.
#[inline(always)]
fn program<M: Mem>(task: *const u8, owner: &mut Owner) {
    let pointer = |base: *const u8, offset| M::read_or_zero::<usize>(base, offset) as *const u8;
    let mm = pointer(task, offset!(task_mm));
    let file = pointer(mm, offset!(mm_exe_file));
    let inode = pointer(file, offset!(file_inode));
    let file_system = pointer(inode, offset!(inode_sb));
    owner.exe_inode = M::read_or_zero(inode, offset!(inode_ino));
    owner.exe_device = M::read_or_zero(file_system, offset!(sb_dev));
    let flags: u32 = M::read_or_zero(task, offset!(task_flags));
    owner.flags = (flags / PF_KTHREAD) as u16 & OWNER_KERNEL;
}

/// The process that a task's process was forked by, or given to since.
#[inline(always)]
pub(crate) fn parent_tgid(task: *const u8) -> Option<u32> {
    tgid(read(task, offset!(task_real_parent))?)
}

/// How often the task's process has executed a program, in its low half.
#[inline(always)]
pub(crate) fn exec_id(task: *const u8) -> u32 {
    Probe::read_or_zero(task, offset!(task_exec_id))
}

/// The task's cgroup v2 group.
#[inline(always)]
pub(crate) fn cgroup(task: *const u8) -> Option<*const u8> {
    let css_set: *const u8 = read(task, offset!(task_cgroups))?;
    read(css_set, offset!(css_dfl_cgrp))
}

/// The inode number of a cgroup's directory.
#[inline(always)]
pub(crate) fn cgroup_id(group: *const u8) -> Option<u64> {
    let node: *const u8 = read(group, offset!(cgroup_kn))?;
    read(node, offset!(kernfs_id))
}

#[inline(always)]
pub(crate) fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T> {
    Probe::read(base, offset)
}
