//! `cgroup_mkdir` and `cgroup_rmdir`: the cgroups of the filter as they come and go. A new
//! one is known before anything can be in it.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use port_monitor_common::{
    groups::{ANYWHERE, FIRST_ROW, LAST_ROW, NAME_BYTES, Name, ROOT},
    site::Site,
};

use crate::{
    account::{is_stored, removal, unreadable},
    globals::offset,
    maps::{CGROUPS, NAME, NAMES, NODES, PATTERNS},
    read::task::{self, read},
};

/// `(group, path)`, before its directory can be seen.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn pm_mkdir_rt(ctx: RawTracePointContext) -> i32 {
    if try_mkdir(ctx.arg(0)).is_none() {
        unreadable(Site::Group);
    }
    0
}

/// `(group, path)`, before its directory can be seen, for patterns.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn pm_match_rt(ctx: RawTracePointContext) -> i32 {
    if try_match(ctx.arg(0)).is_none() {
        unreadable(Site::Group);
    }
    0
}

/// `(group, path)`, when nothing is in it any more.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn pm_rmdir_rt(ctx: RawTracePointContext) -> i32 {
    if try_rmdir(ctx.arg(0)).is_none() {
        unreadable(Site::Group);
    }
    0
}

#[inline(always)]
fn try_rmdir(group: *const u8) -> Option<()> {
    if is_in_v2(group)? {
        let id = task::cgroup_id(group)?;
        removal(Site::ForgetGroup, || CGROUPS.remove(id));
        removal(Site::ForgetGroup, || NODES.remove(id));
    }
    Some(())
}

#[inline(always)]
fn try_mkdir(group: *const u8) -> Option<()> {
    if !is_in_v2(group)? {
        return Some(());
    }
    let id = task::cgroup_id(group)?;
    let name = NAME.get_ptr_mut(0)?;
    read_name(group, name)?;
    let parent: *const u8 = read(group, offset!(cgroup_parent))?;
    let parent = NODES.get_ptr(task::cgroup_id(parent)?);
    let mut is_meant = false;
    if let Some(node) = parent {
        // SAFETY: entries of maps are there as long as the program runs.
        let node = unsafe { *node };
        is_meant = look_up(name, node, id);
    }
    if is_meant || look_up(name, ANYWHERE, id) {
        keep(&CGROUPS, id, 1);
    }
    Some(())
}

#[inline(always)]
fn try_match(group: *const u8) -> Option<()> {
    if !is_in_v2(group)? {
        return Some(());
    }
    let id = task::cgroup_id(group)?;
    let name = NAME.get_ptr_mut(0)?;
    read_name(group, name)?;
    if matches(name)? {
        keep(&CGROUPS, id, 1);
    }
    Some(())
}

#[inline(always)]
fn keep<T>(table: &aya_ebpf::maps::HashMap<u64, T>, id: u64, value: T) {
    is_stored(Site::RememberGroup, || table.insert(id, value, 0));
}

/// Whether ids are the cgroup's alone: in hierarchies of version 1 they are others' too.
#[inline(always)]
fn is_in_v2(group: *const u8) -> Option<bool> {
    let root = |group| read::<usize>(group, offset!(cgroup_root));
    Some(root(group)? == root(task::cgroup(task::current())?)?)
}

/// Fills in the name of the cgroup's directory.
#[inline(always)]
fn read_name(group: *const u8, name: *mut Name) -> Option<()> {
    let node: *const u8 = read(group, offset!(cgroup_kn))?;
    let from: *const u8 = read(node, offset!(kernfs_name))?;
    let words = name.cast::<u64>();
    for word in 0..size_of::<Name>() / size_of::<u64>() {
        // SAFETY: a word of the entry. Volatile: no call of a function that fills.
        unsafe { words.wrapping_add(word).write_volatile(0) };
    }
    // SAFETY: the field of an entry.
    let field = unsafe { &raw mut (*name).name };
    // SAFETY: as large as the field is, and the helper fails on a bad address.
    let read = unsafe { bpf_probe_read_kernel_str(field.cast(), NAME_BYTES as u32, from.cast()) };
    (read > 0).then_some(())
}

/// Looks for the name in a node. What it means for those below it is kept; whether the
/// cgroup itself is meant is the answer.
#[inline(always)]
fn look_up(name: *mut Name, node: u64, id: u64) -> bool {
    // SAFETY: an entry of a map, which nothing else writes to.
    unsafe { (&raw mut (*name).node).write_volatile(node) };
    // SAFETY: as before: it is a name now.
    let Some(named) = NAMES.get_ptr(unsafe { &*name }) else {
        return false;
    };
    // SAFETY: entries of maps are there as long as the program runs.
    let named = unsafe { *named };
    if named.node != ROOT {
        keep(&NODES, id, named.node);
    }
    named.is_meant != 0
}

/// A pattern matches the name. Always all bytes, for the verifier's sake.
#[inline(always)]
fn matches(name: *const Name) -> Option<bool> {
    // SAFETY: the field of an entry.
    let bytes = unsafe { (&raw const (*name).name).cast::<u8>() };
    let mut row = FIRST_ROW;
    for at in 0..NAME_BYTES {
        let next = PATTERNS.get(u32::from(row))?;
        // SAFETY: a byte of the name.
        let byte = unsafe { bytes.wrapping_add(at).read_volatile() };
        row = next[usize::from(byte)];
    }
    Some(row == LAST_ROW)
}
