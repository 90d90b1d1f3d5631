//! The path of what a process executes, written where userspace finds it before the event
//! that names the process is told. A function that the verifier looks at by itself, once:
//! the programs that ask have no stack left for the way up.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use port_monitor_common::{
    event::Owner,
    executable::{
        self, CLIMB, CUT, DELETED, Executable, NAME_BYTES, NAMELESS, NAMES_BYTES, slot, stamp,
    },
    site::Site,
};

use crate::{
    account::{self, cpu, failed},
    globals::{config, offset},
    maps::EXECUTABLES,
    read::{
        mem::{self, Mem, Probe},
        task,
    },
};

/// How a step of [`pm_climb`] ends: there is more, that was all, or it cannot be read.
const GOES_ON: u64 = 0;
const WHOLE: u64 = 1;
const UNREADABLE: u64 = 2;

/// `EFAULT` and `ENAMETOOLONG`, as helpers return them.
const EFAULT: i32 = -14;
const ENAMETOOLONG: i32 = -36;

/// Notes what the running thread executes, which is the owner; `is_told` where an event of
/// it will be. The monitor's own is the self-test's.
#[inline(always)]
pub(crate) fn note(owner: &Owner, is_told: bool) {
    if config!(executables) == 0 {
        return;
    }
    let process = executable::process(owner.tgid, owner.exe_device);
    pm_executable(owner.start_ns, process, owner.exe_inode, is_told.into());
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_executable(start_ns: u64, process: u64, inode: u64, is_told: u64) -> u64 {
    let tgid = (process >> 32) as u32;
    if inode == 0 || is_told == 0 && !task::is_monitor(tgid) {
        return 0;
    }
    let slot = slot(cpu(), config!(executables), tgid);
    let Some(entry) = EXECUTABLES.get_ptr_mut(slot) else {
        return 0;
    };
    let stamp = stamp(start_ns, process, inode);
    // SAFETY: a map value; another program of this CPU may write to it in between, and the
    // stamp tells so.
    let known = unsafe { &raw mut (*entry).stamp };
    // SAFETY: as above.
    if unsafe { known.read_volatile() } == stamp {
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        known.write_volatile(0);
        (&raw mut (*entry).start_ns).write_volatile(start_ns);
        (&raw mut (*entry).process).write_volatile(process);
        (&raw mut (*entry).inode).write_volatile(inode);
    }
    begin(entry);
    let mut ended = GOES_ON;
    for _ in 0..CLIMB {
        ended = pm_climb(slot.into());
        if ended != GOES_ON {
            break;
        }
    }
    if ended != WHOLE {
        let error = if ended == GOES_ON {
            ENAMETOOLONG
        } else {
            EFAULT
        };
        failed(Site::Executable, error);
    }
    // SAFETY: as above.
    unsafe { known.write_volatile(stamp) };
    0
}

/// A pointer in the kernel's memory; null where it cannot be read, and so is what is read
/// through it.
#[inline(always)]
fn pointer(base: usize, offset: usize) -> usize {
    Probe::read_or_zero::<usize>(base as *const u8, offset)
}

/// Begins with the file, of which nothing is written yet.
#[inline(always)]
fn begin(entry: *mut Executable) {
    let mm = pointer(task::current() as usize, offset!(task_mm));
    let file = pointer(mm, offset!(mm_exe_file));
    let mut dentry = pointer(file, offset!(file_dentry));
    let mount = pointer(file, offset!(file_mnt)).wrapping_sub(offset!(mount_mnt));
    let is_named = pointer(dentry, offset!(dentry_pprev)) != 0;
    let deleted = if is_named { 0 } else { DELETED };
    if account::is_injected(Site::Executable) {
        dentry = 0;
    }
    // SAFETY: the fields of an entry.
    unsafe {
        (&raw mut (*entry).dentry).write_volatile(dentry as u64);
        (&raw mut (*entry).mount).write_volatile(mount as u64);
        (&raw mut (*entry).length).write_volatile(0);
        (&raw mut (*entry).flags).write_volatile(CUT | deleted);
    }
}

/// Goes up by one: writes a name, or goes on from a mount to the place where it is mounted,
/// up to the root of all, as /proc does. A function of its own, which the verifier looks at
/// once and not for each step.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_climb(slot: u64) -> u64 {
    let Some(entry) = EXECUTABLES.get_ptr_mut(slot as u32) else {
        return UNREADABLE;
    };
    // SAFETY: the fields of an entry.
    let (dentry, mount, length) = unsafe {
        (
            (&raw const (*entry).dentry).read_volatile() as usize,
            (&raw const (*entry).mount).read_volatile() as usize,
            (&raw const (*entry).length).read_volatile() as usize,
        )
    };
    if dentry == pointer(mount, offset!(mount_mnt) + offset!(mnt_root)) {
        let parent = pointer(mount, offset!(mount_parent));
        if parent == mount {
            return whole(entry);
        }
        let point = pointer(mount, offset!(mount_point));
        // SAFETY: the fields of an entry.
        unsafe {
            (&raw mut (*entry).dentry).write_volatile(point as u64);
            (&raw mut (*entry).mount).write_volatile(parent as u64);
        }
        return GOES_ON;
    }
    if length >= NAMES_BYTES {
        // There is more than fits, however many steps are left.
        return GOES_ON;
    }
    let parent = pointer(dentry, offset!(dentry_parent));
    let name = pointer(dentry, offset!(dentry_name)) as *const u8;
    // SAFETY: the field of an entry.
    let names = unsafe { (&raw mut (*entry).names).cast::<u8>() };
    // Said once more, just before it is used: Linux 5.10 forgets what it knew of a number
    // that lay on the stack.
    let at = mem::held(length as u64) as usize & (NAMES_BYTES - 1);
    let to = names.wrapping_add(at);
    // SAFETY: there is room for a name behind the last place where one may begin; the
    // helper fails on a bad address.
    let read = unsafe { bpf_probe_read_kernel_str(to.cast(), NAME_BYTES as u32, name.cast()) };
    if read <= 0 {
        return UNREADABLE;
    }
    // SAFETY: the fields of an entry.
    unsafe {
        (&raw mut (*entry).length).write_volatile((length as u32).wrapping_add(read as u32));
        (&raw mut (*entry).dentry).write_volatile(parent as u64);
    }
    if parent != dentry {
        return GOES_ON;
    }
    // The root of no mount: a file that has only a name, as `memfd_create` makes, or one
    // that was moved out of what is mounted.
    if length == 0 {
        // SAFETY: the field of an entry.
        unsafe { (&raw mut (*entry).flags).write_volatile(NAMELESS) };
        return WHOLE;
    }
    UNREADABLE
}

/// The way up has come to its end: nothing is cut.
#[inline(always)]
fn whole(entry: *mut Executable) -> u64 {
    // SAFETY: the field of an entry.
    let field = unsafe { &raw mut (*entry).flags };
    // SAFETY: as above.
    unsafe { field.write_volatile(field.read_volatile() & !CUT) };
    WHOLE
}
