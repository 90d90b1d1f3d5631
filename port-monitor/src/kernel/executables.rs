//! The paths of what processes execute, as the eBPF programs note them: read from memory,
//! and only trusted where this process's own is right.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::Ebpf;
use port_monitor_common::{
    event::FileId,
    executable::{CUT, DELETED, Executable, NAMELESS, process, slot, stamp},
    offsets::Offsets,
};
use rustix::mm::ProtFlags;

use super::{
    counters::{array, of_each_cpu},
    error::KernelError,
    mapped::Mapped,
};
use crate::{events::decode::Owner, host::executables::Executables};

/// What is missing where paths cannot be noted, or are not what /proc says.
pub(super) const NO_EXECUTABLES: &str =
    "the executable of a process that ends before it is looked up";

/// Slots in all, on hosts with few CPUs.
const SLOTS: u32 = 4_096;
/// Slots of a CPU, at least.
const LEAST: u32 = 64;

/// How /proc calls a file that is not there any more.
const GONE: &[u8] = b" (deleted)";

/// The slots of each CPU, and of all of them.
fn slots() -> Result<(u32, u32), KernelError> {
    let cpus = of_each_cpu(1)?;
    let each = (SLOTS / cpus.max(1)).max(LEAST);
    let each = 1 << each.ilog2();
    Ok((each, of_each_cpu(each)?))
}

/// The slots of each CPU, and of all of them. Where this kernel does not have what paths are
/// made of, a CPU has none, and the map has one that nobody uses.
pub(super) fn slots_for(offsets: &Offsets) -> Result<(u32, u32), KernelError> {
    // It is found last.
    if offsets.mount_point == 0 {
        return Ok((0, 1));
    }
    slots()
}

/// What the programs note.
#[derive(Debug)]
pub struct Noted {
    entries: Mapped<Executable>,
    each: u32,
}

impl Noted {
    /// Maps what the programs of the object note, and looks for what they noted of this
    /// process, whose path /proc tells too; the error says why they are not to be trusted.
    fn proved(ebpf: &Ebpf) -> Result<Arc<Self>, String> {
        let map = || {
            Ok::<_, KernelError>(Self {
                entries: Mapped::new(array(ebpf, "pm_executables")?, ProtFlags::READ)?,
                each: slots()?.0,
            })
        };
        let noted = map().map_err(|error| error.to_string())?;
        let told = fs::read_link("/proc/self/exe")
            .map_err(|error| format!("read the link /proc/self/exe: {error}"))?;
        let pid = std::process::id();
        let found = noted
            .entries_of(pid)
            .find_map(|entry| whole(&entry))
            .ok_or("the path of the monitor's own executable was not noted")?;
        if found != told {
            return Err(format!(
                "the monitor's own executable is {} by the kernel and {} by /proc",
                found.display(),
                told.display()
            ));
        }
        Ok(Arc::new(noted))
    }

    /// What the programs note, if it is to be trusted; else that is one more blind spot.
    pub(super) fn trusted(ebpf: &Ebpf, blind_spots: &mut Vec<String>) -> Option<Arc<Self>> {
        let proved = Self::proved(ebpf).inspect_err(|reason| {
            log::info!("{reason}");
            blind_spots.push(NO_EXECUTABLES.to_owned());
        });
        proved.ok()
    }

    /// What is written, and whole, in the slots of a process.
    fn entries_of(&self, pid: u32) -> impl Iterator<Item = Executable> {
        let cpus = u32::try_from(self.entries.len()).unwrap_or(u32::MAX) / self.each;
        (0..cpus).filter_map(move |cpu| self.entry(slot(cpu, self.each, pid), pid))
    }

    /// The entry of a slot, if it is the process's and nobody writes it meanwhile.
    fn entry(&self, slot: u32, pid: u32) -> Option<Executable> {
        const PROCESS: usize = 2;
        let slot = slot as usize;
        if self.entries.number(slot, PROCESS)? >> 32 != u64::from(pid) {
            return None;
        }
        let before = self.entries.number(slot, 0)?;
        let entry = self.entries.get(slot)?;
        let is_whole = before == stamp(entry.start_ns, entry.process, entry.inode)
            && entry.stamp == before
            && self.entries.number(slot, 0)? == before;
        is_whole.then_some(entry)
    }
}

impl Executables for Noted {
    fn path(&self, owner: &Owner) -> Option<PathBuf> {
        let FileId { device, inode } = owner.exe?;
        let is_meant = |entry: &Executable| {
            entry.start_ns == owner.start_ns
                && entry.process == process(owner.pid, device)
                && entry.inode == inode
        };
        let mut entries = self.entries_of(owner.pid).filter(is_meant);
        entries.find_map(|entry| whole(&entry))
    }
}

/// The path, as /proc has it; `None` where there is more than was written.
fn whole(entry: &Executable) -> Option<PathBuf> {
    if entry.flags & CUT != 0 {
        return None;
    }
    let names = entry.names.get(..entry.length as usize)?;
    let names = names.strip_suffix(b"\0")?;
    let mut path = Vec::with_capacity(names.len() + 1 + GONE.len());
    for name in names.rsplit(|&byte| byte == 0) {
        if name.is_empty() || name.contains(&b'/') {
            return None;
        }
        path.push(b'/');
        path.extend(name);
    }
    if entry.flags & (DELETED | NAMELESS) != 0 {
        path.extend(GONE);
    }
    let path: PathBuf = OsString::from_vec(path).into();
    (path != Path::new("/")).then_some(path)
}

#[cfg(test)]
mod tests {
    use crate::kernel::executables::*;

    fn entry(names: &[u8], flags: u32) -> Executable {
        let mut entry = Executable {
            stamp: 0,
            start_ns: 0,
            process: 0,
            inode: 0,
            dentry: 0,
            mount: 0,
            length: u32::try_from(names.len()).unwrap(),
            flags,
            names: [0; _],
        };
        entry.names[..names.len()].copy_from_slice(names);
        entry
    }

    fn path(names: &[u8], flags: u32) -> Option<String> {
        whole(&entry(names, flags)).map(|path| path.display().to_string())
    }

    #[test]
    fn names_are_put_together_from_the_root() {
        assert_eq!(path(b"web\0bin\0usr\0", 0).as_deref(), Some("/usr/bin/web"));
        assert_eq!(path(b"init\0", 0).as_deref(), Some("/init"));
        assert_eq!(
            path(b"web\0tmp\0", DELETED).as_deref(),
            Some("/tmp/web (deleted)")
        );
        assert_eq!(
            path(b"memfd:x\0", NAMELESS).as_deref(),
            Some("/memfd:x (deleted)")
        );
    }

    #[test]
    fn what_is_not_a_whole_path_is_none() {
        assert_eq!(path(b"web\0bin\0", CUT), None);
        assert_eq!(path(b"", 0), None);
        assert_eq!(path(b"\0", 0), None);
        assert_eq!(path(b"/\0", NAMELESS), None);
        assert_eq!(path(b"web\0\0usr\0", 0), None);
        let mut broken = entry(b"web\0", 0);
        broken.length = u32::MAX;
        assert_eq!(whole(&broken), None);
    }
}
