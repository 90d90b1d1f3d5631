//! What is taken from the kernel's BTF. The BTF itself is far larger than all else that
//! a run holds, and is given back to the kernel at once.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Deref,
    path::Path,
    ptr::{self, NonNull},
};

use port_monitor_common::offsets::Offsets;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::{
    aya_workarounds::forged_btf::LazyBtf,
    backends,
    btf::{self, Btf, Found, Function, Need},
    error::KernelError,
    iterator,
    preflight::PreflightError,
    snapshot,
};

/// More than any kernel's BTF has, by far.
const MAX_BYTES: u64 = 256 << 20;

/// Of the kernel's types, what a run needs.
#[derive(Debug)]
pub(super) struct Types {
    pub(super) offsets: Offsets,
    /// What some runs need and this kernel does not have.
    missing: Vec<(Need, btf::BtfError)>,
    /// Those functions that the programs may be attached to.
    functions: Vec<(&'static str, Function)>,
    /// What the programs write into can hang the machine.
    ring_sleeps: bool,
}

impl Types {
    /// Reads the BTF in this file. Of a kernel on which the programs must not run, it is
    /// refused.
    pub(super) fn read(path: &Path) -> Result<Self, KernelError> {
        let bytes = Pages::read(path).map_err(|error| KernelError::BtfMissing {
            path: path.to_owned(),
            error,
        })?;
        let types = Self::of(bytes).map_err(|error| KernelError::Btf {
            path: path.to_owned(),
            error,
        })?;
        if types.ring_sleeps {
            return Err(PreflightError::SleepingRing.into());
        }
        Ok(types)
    }

    pub(super) fn of(bytes: impl Deref<Target = [u8]>) -> Result<Self, btf::BtfError> {
        let names: Vec<_> = backends::FUNCTIONS
            .into_iter()
            .chain([snapshot::ITERATOR, iterator::TABLE_FUNCTION])
            .chain(btf::functions())
            .collect();
        let btf = Btf::parse(bytes, &names)?;
        let functions = names
            .iter()
            .filter_map(|&name| Some((name, btf.function(name)?)));
        let Found { offsets, missing } = btf::offsets(&btf)?;
        Ok(Self {
            offsets,
            missing,
            functions: functions.collect(),
            ring_sleeps: btf.ring_sleeps(),
        })
    }

    /// What is missing for a need.
    pub(super) fn lacks(&self, need: Need) -> Option<&btf::BtfError> {
        let mut missing = self.missing.iter();
        missing.find_map(|(who, error)| (*who == need).then_some(error))
    }

    /// The function of that name, if the kernel has it.
    pub(super) fn function(&self, name: &str) -> Option<Function> {
        let mut functions = self.functions.iter();
        functions.find_map(|(known, function)| (*known == name).then_some(*function))
    }

    /// The BTF for programs that are attached to these functions, and for iterators.
    pub(super) fn lazy_btf(&self, mut functions: Vec<&'static str>) -> LazyBtf {
        functions.extend([snapshot::ITERATOR, iterator::TABLE_FUNCTION]);
        LazyBtf::new(self.ids_of(&functions))
    }

    /// The ids of those of these functions that the kernel has.
    fn ids_of(&self, names: &[&'static str]) -> Vec<(&'static str, u32)> {
        let ids = names
            .iter()
            .filter_map(|&name| Some((name, self.function(name)?.id)));
        ids.collect()
    }
}

/// The bytes of a file in memory of their own, which goes back to the kernel when they
/// are dropped: an allocator may keep it.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    /// How many bytes are mapped, and how many of them are the file's.
    mapped: usize,
    length: usize,
}

impl Pages {
    /// Reads a file that has an end: not a pipe, a device, a sparse giant.
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if metadata.len() > MAX_BYTES {
            return Err(io::Error::other("too large to be BTF"));
        }
        let mut pages = Self::new(usize::try_from(metadata.len()).map_err(io::Error::other)?)?;
        while pages.length < pages.mapped {
            let length = pages.length;
            match file.read(&mut pages.all()[length..]) {
                Ok(0) => break,
                Ok(bytes) => pages.length += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pages)
    }

    /// Room for `bytes`.
    fn new(bytes: usize) -> io::Result<Self> {
        // There is no mapping of nothing.
        let mapped = bytes.max(1);
        let (any, protection) = (ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // All of it will be written: one call is quicker than a fault for each page.
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe { mmap_anonymous(any, mapped, protection, flags) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            mapped,
            length: 0,
        })
    }

    const fn all(&mut self) -> &mut [u8] {
        // SAFETY: the mapping of `new`, readable and writable, zero where nothing was
        // written; it lives as long as this does, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.mapped) }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the mapping of `new`, which lives as long as this does.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing refers to any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
        if let Err(error) = unmapped {
            log::warn!("unmap a file's bytes: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::kernel::host_btf::*;

    #[test]
    fn a_file_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, 4_096, 70_000] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let path = dir.path().join("btf");
            fs::write(&path, &bytes).unwrap();
            assert_eq!(*Pages::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let reason = |path| Pages::read(Path::new(path)).unwrap_err().to_string();
        assert_eq!(reason("/dev/zero"), "not a regular file");
        let giant = tempfile::NamedTempFile::new().unwrap();
        giant.as_file().set_len(MAX_BYTES + 1).unwrap();
        let refused = Pages::read(giant.path()).unwrap_err();
        assert_eq!(refused.to_string(), "too large to be BTF");
    }

    #[test]
    fn the_running_kernel_has_the_functions_of_every_version() {
        let path = Path::new(crate::kernel::error::SYSTEM_BTF);
        if !path.exists() {
            return;
        }
        let types = Types::read(path).unwrap();
        let accept = types.function("inet_csk_accept").unwrap();
        assert!(matches!(accept.params, Some(2 | 4)));
        assert_eq!(types.function("no_such_function"), None);
        let ids = types.ids_of(&["tcp_connect", "no_such_function", "inet_csk_accept"]);
        let connect = types.function("tcp_connect").unwrap();
        assert_eq!(
            ids,
            [("tcp_connect", connect.id), ("inet_csk_accept", accept.id)]
        );
    }
}
