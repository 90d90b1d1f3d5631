//! The host of the world: its names, its cgroups, its files and its clock.

use std::{io, path::Path};

use port_monitor_common::event::FileId;

use super::{
    super::{NOW_NS, TestHost},
    world::{CGROUPS, EXES},
};
use crate::{
    host::units::Units,
    policy::{Environment, tables::lower::Places},
};

/// This world: a host with those units, cgroups and files, whose clock stands still.
pub(super) struct World;

impl Environment for World {
    fn service_ports(&self, service: &str) -> Vec<u16> {
        TestHost.service_ports(service)
    }

    fn nearest_service(&self, service: &str) -> Option<String> {
        TestHost.nearest_service(service)
    }

    fn uid(&self, user: &str) -> Option<u32> {
        TestHost.uid(user)
    }

    fn users(&self) -> Vec<String> {
        TestHost.users()
    }

    fn units(&self) -> Units {
        let cgroups = CGROUPS.iter().map(|&path| path.to_owned());
        Units::default()
            .with_alias("sshd.service", "ssh.service")
            .with_cgroups(cgroups.collect(), "/sys/fs/cgroup")
    }

    fn executable(&self, path: &Path) -> io::Result<FileId> {
        let named = EXES.iter().find(|(name, _)| Path::new(name) == path);
        let inode = named.and_then(|(_, inode)| *inode);
        inode
            .map(file)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now_ns(&self) -> i128 {
        NOW_NS
    }
}

/// How far the clock that the kernel reads is behind that of the wall.
const BEHIND_NS: i64 = 1_700_000_000_000_000_000;

impl Places for World {
    fn cgroups(&self) -> Vec<(String, u64)> {
        let ids = CGROUPS.iter().zip(1..);
        ids.map(|(&path, id)| (path.to_owned(), id)).collect()
    }

    fn executable(&self, path: &Path) -> Result<(u32, u64), io::Error> {
        let FileId { device, inode } = Environment::executable(self, path)?;
        Ok((device, inode))
    }

    fn boot_ns(&self, wall_ns: i64) -> u64 {
        u64::try_from((wall_ns - BEHIND_NS).max(1)).unwrap()
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(NOW_NS).unwrap()
    }
}

pub(super) const fn file(inode: u64) -> FileId {
    FileId { device: 1, inode }
}

/// The ids of the cgroups on the way to one, the root's first, as a hook knows them.
pub(super) fn ids(path: &str) -> Vec<u64> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    let mut ids = Vec::new();
    for end in ends.filter(|&end| end > 0 || path.is_empty()) {
        if ids.is_empty() {
            ids.push(1);
        }
        let known = CGROUPS.iter().position(|known| *known == &path[..end]);
        if end > 0 {
            ids.push(known.map_or(99, |at| u64::try_from(at).unwrap() + 1));
        }
    }
    ids
}
