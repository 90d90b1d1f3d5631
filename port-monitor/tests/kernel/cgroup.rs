//! cgroups v2, wherever this host mounts them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::process::wait_until;

/// A container id as Docker makes them: 64 hexadecimal digits.
pub(crate) const CONTAINER_ID: &str =
    "4f2a7c9e1b3d5f708192a3b4c5d6e7f80123456789abcdef0123456789abcdef";

/// The unit whose cgroup the tests make.
pub(crate) const UNIT: &str = "port-monitor-test.service";

/// The mount point of the cgroup v2 hierarchy.
fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        })
        .context("no cgroup2 mount in /proc/self/mounts")
}

/// The calling process's cgroup, as a path below the mount point.
pub(crate) fn own_path() -> Result<String> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .context("no cgroup v2 line in /proc/self/cgroup")
}

/// The id of a cgroup: its directory's inode number.
pub(crate) fn id(path: &str) -> Result<u64> {
    let dir = directory(path)?;
    let meta = fs::metadata(&dir).with_context(|| format!("stat {}", dir.display()))?;
    Ok(meta.ino())
}

/// The directory of a cgroup.
pub(crate) fn directory(path: &str) -> Result<PathBuf> {
    Ok(mount()?.join(path.trim_start_matches('/')))
}

/// The cgroup paths one runner makes: a unit's and a container's, below a
/// directory of its own.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    top: String,
}

impl Cgroups {
    /// The paths of the runner with process id `runner`.
    pub(crate) fn of(runner: u32) -> Self {
        Self {
            top: format!("/port-monitor-test-{runner}"),
        }
    }

    /// The cgroup of [`UNIT`].
    pub(crate) fn unit(&self) -> String {
        format!("{}/system.slice/{UNIT}", self.top)
    }

    /// The cgroup a container of [`CONTAINER_ID`] would run in.
    pub(crate) fn container(&self) -> String {
        format!("{}/docker-{CONTAINER_ID}.scope", self.top)
    }

    /// The cgroup whose processes may not connect.
    pub(crate) fn offline(&self) -> String {
        format!("{}/offline", self.top)
    }

    /// The cgroup whose processes send and receive nothing.
    pub(crate) fn silent(&self) -> String {
        format!("{}/silent", self.top)
    }

    /// The cgroup that is held to a policy where the whole machine must not be.
    pub(crate) fn held(&self) -> String {
        format!("{}/held", self.top)
    }

    /// The cgroup of [`UNIT`] where `held` is held to a policy: the one below it, if
    /// it is not the root.
    pub(crate) fn held_unit(&self, held: &str) -> String {
        if held.is_empty() {
            self.unit()
        } else {
            format!("{held}/{UNIT}")
        }
    }

    /// Makes them all.
    pub(crate) fn make(&self) -> Result<()> {
        let held_unit = self.held_unit(&self.held());
        for path in [
            self.unit(),
            self.container(),
            self.offline(),
            self.silent(),
            held_unit,
        ] {
            let dir = directory(&path)?;
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(())
    }

    /// Removes them, once the last process has left.
    pub(crate) fn remove(&self) -> Result<()> {
        let slice = format!("{}/system.slice", self.top);
        for path in [
            self.unit(),
            slice,
            self.container(),
            self.offline(),
            self.silent(),
            self.held_unit(&self.held()),
            self.held(),
            self.top.clone(),
        ] {
            let dir = directory(&path)?;
            wait_until(|| Ok(is_gone(&dir)))
                .with_context(|| format!("remove {}", dir.display()))?;
        }
        Ok(())
    }
}

fn is_gone(dir: &Path) -> bool {
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// Moves the calling process into a cgroup.
pub(crate) fn enter(path: &str) -> Result<()> {
    let procs = directory(path)?.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("join {}", procs.display()))
}
