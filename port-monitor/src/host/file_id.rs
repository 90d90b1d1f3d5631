//! Which file a path names, as the kernel numbers it: device and inode.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use port_monitor_common::event::FileId;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx},
    io::Errno,
};

/// The file that `path` names on this host, through symbolic links: as process 1 sees it,
/// where this process has another view of the file systems and may look into that one.
pub fn on_host(path: &Path) -> io::Result<FileId> {
    if let Some(file) = in_host_root(path) {
        return of_open(&file?, "/proc/1/mountinfo");
    }
    of(CWD, path, "/proc/self/mountinfo")
}

/// The path without `..`, as it is meant where nothing is there to follow.
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

/// The file as process 1 finds it; `None` where that is nothing else than what this
/// process finds, or cannot be told.
fn in_host_root(path: &Path) -> Option<Result<OwnedFd, Errno>> {
    let namespace = |process| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if namespace("1")? == namespace("self")? {
        return None;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open("/proc/1/root", flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let path = path.strip_prefix("/").ok()?;
    Some(openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    ))
}

fn of_open(file: &OwnedFd, mounts: &str) -> io::Result<FileId> {
    file_id(file, Path::new(""), AtFlags::EMPTY_PATH, mounts)
}

/// The file that `path` names in `dir`; `mounts` is the `mountinfo` that has its mount.
pub(crate) fn of(dir: impl AsFd, path: &Path, mounts: &str) -> io::Result<FileId> {
    file_id(dir, path, AtFlags::empty(), mounts)
}

fn file_id(dir: impl AsFd, path: &Path, at: AtFlags, mounts: &str) -> io::Result<FileId> {
    let flags = StatxFlags::INO | StatxFlags::TYPE | StatxFlags::MNT_ID;
    let found = statx(dir, path, at, flags)?;
    // What `stat` tells may be another number than the file system's own, as it is
    // on btrfs; the mount's is the one the kernel compares.
    let mounts = fs::read_to_string(mounts).unwrap_or_default();
    let device = device_of_mount(&mounts, found.stx_mnt_id)
        .unwrap_or((found.stx_dev_major, found.stx_dev_minor));
    Ok(FileId {
        device: device.0 << 20 | device.1,
        inode: found.stx_ino,
    })
}

/// The device of a mount: `41 31 0:38 / /sys/fs/cgroup …`.
pub(super) fn device_of_mount(mounts: &str, id: u64) -> Option<(u32, u32)> {
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(&id.to_string()))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crate::host::file_id::*;

    #[test]
    fn names_of_one_file_are_one_file_and_copies_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("tool"), "x").unwrap();
        symlink("tool", at("symlink")).unwrap();
        fs::hard_link(at("tool"), at("hard-link")).unwrap();
        fs::copy(at("tool"), at("copy")).unwrap();
        let id = |name: &str| on_host(&at(name)).unwrap();
        for name in ["symlink", "hard-link", "dots"] {
            let name = if name == "dots" {
                format!("../{}/tool", dir.path().file_name().unwrap().display())
            } else {
                name.to_owned()
            };
            assert_eq!(id(&name), id("tool"), "{name}");
        }
        assert_ne!(id("copy"), id("tool"));
        assert!(on_host(&at("nothing")).is_err());
    }

    #[test]
    fn plain_paths_have_no_parents_in_them() {
        for (path, expected) in [
            ("/opt/../bin/tool", "/bin/tool"),
            ("/../bin//./tool", "/bin/tool"),
            ("/opt/app/../../tool/", "/tool"),
            ("/bin/tool", "/bin/tool"),
        ] {
            assert_eq!(plain(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn device_is_that_of_the_mount() {
        let mounts = "41 31 0:38 / /sys rw - sysfs sysfs rw\n42 31 254:1 / / rw - ext4 a rw\n";
        assert_eq!(device_of_mount(mounts, 42), Some((254, 1)));
        assert_eq!(device_of_mount(mounts, 4), None);
    }
}
