//! Where policies have their names: in the bpf file system of process 1, which is there
//! for as long as the host runs. One that is mounted in a mount namespace of its own goes
//! with the namespace, and with it all that is pinned in it.

use std::{
    env, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use thiserror::Error;

use crate::kernel::preflight::{self, PreflightError};

/// Where the kernel's objects have names.
const BPF_FS: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// [`BPF_FS`] as process 1 sees it.
const OF_PROCESS_1: &str = "/proc/1/root/sys/fs/bpf";

/// The variable that names another bpf file system, which need not outlive anything.
pub const BPF_FS_VARIABLE: &str = "PORT_MONITOR_BPF_FS";

/// Why there is no place to keep a policy in.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Process 1, which this process shares its mounts with, has none.
    #[error("{BPF_FS} is no bpf file system: mount one with `mount -t bpf bpf {BPF_FS}`")]
    NotMounted,
    /// Process 1 has none, and one in this mount namespace would not last.
    #[error(
        "process 1 has no bpf file system at {BPF_FS}, and one that is mounted in this mount \
         namespace would not outlive it: mount one for process 1 with `nsenter --target 1 --mount \
         mount -t bpf bpf {BPF_FS}`"
    )]
    NotMountedForProcess1,
    /// That of process 1 cannot be reached.
    #[error(
        "the bpf file system of process 1, where policies are kept, is out of reach from this \
         mount namespace (/proc/1/root: {0}): run this outside of it"
    )]
    OutOfReach(String),
    /// What [`BPF_FS_VARIABLE`] names is none.
    #[error("{BPF_FS_VARIABLE}: {0} is no bpf file system")]
    NotBpfFs(PathBuf),
    /// Process 1 of this pid namespace is not that of the host.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
}

/// The directory of all instances, where what is pinned stays.
pub(super) fn lasting() -> Result<PathBuf, HomeError> {
    if let Some(asked) = asked_for() {
        return asked.map(|place| of_all(&place));
    }
    if !preflight::in_host_pid_namespace() {
        return Err(PreflightError::PidNamespace.into());
    }
    let own = Dir::at(Path::new(BPF_FS));
    let is_own_namespace = || {
        let [own, first] = ["self", "1"].map(mounts);
        own.is_ok_and(|own| first.is_ok_and(|first| own == first))
    };
    match choose(own.as_ref(), &Host::look()) {
        Ok(place) => Ok(of_all(Path::new(place))),
        Err(Nowhere::NotMounted) if is_own_namespace() => Err(HomeError::NotMounted),
        Err(Nowhere::NotMounted) => Err(HomeError::NotMountedForProcess1),
        Err(Nowhere::OutOfReach(reason)) => Err(HomeError::OutOfReach(reason)),
    }
}

/// The directory of an instance: where it lasts, or where it was pinned all the same.
pub(super) fn of(name: &str) -> Result<PathBuf, HomeError> {
    let lasting = lasting().map(|all| all.join(name));
    if lasting.as_ref().is_ok_and(|dir| dir.exists()) || asked_for().is_some() {
        return lasting;
    }
    let own = of_all(Path::new(BPF_FS)).join(name);
    if own.exists() { Ok(own) } else { lasting }
}

fn of_all(place: &Path) -> PathBuf {
    place.join("port-monitor")
}

/// What [`BPF_FS_VARIABLE`] names.
fn asked_for() -> Option<Result<PathBuf, HomeError>> {
    let place = PathBuf::from(env::var_os(BPF_FS_VARIABLE)?);
    Some(match Dir::at(&place) {
        Some(_) => Ok(place),
        None => Err(HomeError::NotBpfFs(place)),
    })
}

/// A directory of a bpf file system.
#[derive(Debug)]
struct Dir {
    device: u64,
    inode: u64,
    is_read_only: bool,
    /// As mountinfo tells it.
    mount: Option<Mount>,
}

impl Dir {
    fn at(path: &Path) -> Option<Self> {
        let is_bpf_fs = statfs(path).is_ok_and(|found| found.f_type == BPF_FS_MAGIC);
        let found = fs::metadata(path).ok().filter(|_| is_bpf_fs)?;
        let flags = statvfs(path).map(|found| found.f_flag);
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            is_read_only: flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::RDONLY)),
            mount: mounts("self").ok().and_then(|mounts| topmost(&mounts)),
        })
    }
}

/// What process 1 has at [`BPF_FS`].
#[derive(Debug)]
enum Host {
    /// A bpf file system, which this process reaches too.
    Reached(Dir),
    /// One that is out of reach, and why.
    OutOfReach(Mount, String),
    /// None.
    NotMounted,
    /// It cannot be told, and why.
    Unknown(String),
}

impl Host {
    fn look() -> Self {
        match fs::metadata(OF_PROCESS_1) {
            Ok(_) => Dir::at(Path::new(OF_PROCESS_1)).map_or(Self::NotMounted, Self::Reached),
            // What is there, but for others only, is not seen at all.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && Path::new("/proc/1").exists() =>
            {
                Self::NotMounted
            }
            // Privileges that process 1 has and this process has not.
            Err(error) => match mounts("1") {
                Ok(mounts) => topmost(&mounts).map_or(Self::NotMounted, |mount| {
                    Self::OutOfReach(mount, error.to_string())
                }),
                Err(_) => Self::Unknown(error.to_string()),
            },
        }
    }
}

/// Why there is no place that lasts.
#[derive(Debug, PartialEq, Eq)]
enum Nowhere {
    NotMounted,
    OutOfReach(String),
}

/// The path of the file system that lasts, given what is at [`BPF_FS`] here.
fn choose(own: Option<&Dir>, host: &Host) -> Result<&'static str, Nowhere> {
    match (own, host) {
        (Some(own), Host::Reached(first))
            if (own.device, own.inode) == (first.device, first.inode) && !own.is_read_only =>
        {
            Ok(BPF_FS)
        }
        (_, Host::Reached(_)) => Ok(OF_PROCESS_1),
        (Some(own), Host::OutOfReach(first, _)) if own.mount.as_ref() == Some(first) => Ok(BPF_FS),
        (_, Host::OutOfReach(_, reason) | Host::Unknown(reason)) => {
            Err(Nowhere::OutOfReach(reason.clone()))
        }
        (_, Host::NotMounted) => Err(Nowhere::NotMounted),
    }
}

fn mounts(process: &str) -> io::Result<String> {
    // A path need not be UTF-8; the lines that are looked for are.
    let bytes = fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A part of a file system, wherever it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Mount {
    device: String,
    root: String,
}

/// The bpf file system at [`BPF_FS`], if that is what was mounted there last:
/// `41 31 0:38 / /sys/fs/bpf rw - bpf bpf rw`.
pub(in crate::kernel) fn topmost(mounts: &str) -> Option<Mount> {
    let there = |line: &&str| line.split(' ').nth(4) == Some(BPF_FS);
    let line = mounts.lines().rfind(there)?;
    let mut fields = line.split(' ').skip(2);
    let (device, root) = (fields.next()?, fields.next()?);
    let kind = fields.skip_while(|field| *field != "-").nth(1)?;
    (kind == "bpf").then(|| Mount {
        device: device.to_owned(),
        root: root.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use crate::kernel::enforcer::home::*;

    fn mount(device: &str) -> Mount {
        Mount {
            device: device.to_owned(),
            root: "/".to_owned(),
        }
    }

    fn dir(device: u64, inode: u64) -> Dir {
        Dir {
            device,
            inode,
            is_read_only: false,
            mount: Some(mount(&format!("0:{device}"))),
        }
    }

    #[test]
    fn what_process_1_has_here_too_is_taken_by_its_plain_name() {
        assert_eq!(
            choose(Some(&dir(7, 1)), &Host::Reached(dir(7, 1))),
            Ok(BPF_FS)
        );
    }

    #[test]
    fn a_bpf_file_system_of_this_namespace_only_is_passed_over() {
        let host = || Host::Reached(dir(7, 1));
        assert_eq!(choose(Some(&dir(8, 1)), &host()), Ok(OF_PROCESS_1));
        // A directory of it, mounted here as if it were the whole.
        assert_eq!(choose(Some(&dir(7, 9)), &host()), Ok(OF_PROCESS_1));
        // In a new /sys there is none, as within `ip netns exec`.
        assert_eq!(choose(None, &host()), Ok(OF_PROCESS_1));
        let read_only = Dir {
            is_read_only: true,
            ..dir(7, 1)
        };
        assert_eq!(choose(Some(&read_only), &host()), Ok(OF_PROCESS_1));
    }

    #[test]
    fn where_process_1_has_none_there_is_none() {
        assert_eq!(
            choose(Some(&dir(8, 1)), &Host::NotMounted),
            Err(Nowhere::NotMounted)
        );
    }

    #[test]
    fn out_of_reach_only_the_same_mount_will_do() {
        let host = || Host::OutOfReach(mount("0:7"), "denied".to_owned());
        let denied = Err(Nowhere::OutOfReach("denied".to_owned()));
        assert_eq!(choose(Some(&dir(7, 1)), &host()), Ok(BPF_FS));
        assert_eq!(choose(Some(&dir(8, 1)), &host()), denied);
        assert_eq!(choose(None, &host()), denied);
        let unknown = Host::Unknown("denied".to_owned());
        assert_eq!(choose(Some(&dir(7, 1)), &unknown), denied);
    }

    #[test]
    fn the_mount_is_the_one_on_top() {
        let line = |device, path, kind| format!("41 31 {device} / {path} rw shared:9 - {kind} x\n");
        let bpf = line("0:38", BPF_FS, "bpf");
        assert_eq!(topmost(&bpf), Some(mount("0:38")));
        let elsewhere = line("0:38", "/chroot/sys/fs/bpf", "bpf");
        assert_eq!(topmost(&elsewhere), None);
        let other = bpf.clone() + &line("0:39", BPF_FS, "bpf");
        assert_eq!(topmost(&other), Some(mount("0:39")));
        let hidden = bpf + &line("0:40", BPF_FS, "tmpfs");
        assert_eq!(topmost(&hidden), None);
    }
}
