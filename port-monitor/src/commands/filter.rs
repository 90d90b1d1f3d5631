//! What people write after a filter flag, resolved to what the kernel compares:
//! user names to ids, paths and units to cgroup ids, networks to one spelling.
//!
//! Strict: what names nothing is an error, never a filter that matches nothing.

use std::{
    ffi::OsStr,
    fmt, fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use port_monitor_common::{groups::NAME_BYTES, policy::Network};
use thiserror::Error;

use crate::{
    host::{
        cgroup::CgroupTree,
        groups::{Group, Groups, Meant},
        units::{self, Units},
        users::{self, UnknownUser},
    },
    policy::{self, text::problem::Problem},
    ports::services::closest,
};

/// Why a filter's value names nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    /// Nothing has this id, and nothing is waited for: ids are given to others.
    #[error("no process {pid}: it has ended, or never was there")]
    NoProcess {
        /// What was written.
        pid: u32,
    },
    /// Processes are meant.
    #[error("{tid} is a thread of process {process}: did you mean `--pid {process}`?")]
    Thread {
        /// What was written.
        tid: u32,
        /// The process it belongs to.
        process: u32,
    },
    /// Neither a user of this host nor a number.
    #[error(transparent)]
    UnknownUser(#[from] UnknownUser),
    /// The kernel has no threads without a name.
    #[error("empty thread name: give up to 15 bytes, as `ps -o comm` shows them")]
    EmptyComm,
    /// Longer than the kernel's thread names.
    #[error(
        "thread name `{name}` is longer than the 15 bytes the kernel keeps: did you mean `{kept}`?"
    )]
    LongComm {
        /// What was written.
        name: String,
        /// What the kernel would keep of it.
        kept: String,
    },
    /// What the policy's parser has against it.
    #[error("bad network: {problem}{}", advice(problem))]
    Network {
        /// Why.
        problem: Problem,
    },
    /// What the policy's parser has against it.
    #[error("{problem}{}", advice(problem))]
    Unit {
        /// Why.
        problem: Problem,
    },
    /// Nothing to resolve `--cgroup` and `--unit` against.
    #[error("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroupTree,
    /// No such cgroup.
    #[error("no cgroup `{path}` below {mount}", path = path.display(), mount = mount.display())]
    NoCgroup {
        /// What was written.
        path: PathBuf,
        /// Where it was looked for.
        mount: PathBuf,
    },
    /// No cgroup can have such a path.
    #[error("no cgroup can be at `{}`: give its path, as in /system.slice", path.display())]
    BadPath {
        /// What was written.
        path: PathBuf,
    },
    /// The patterns of units do not fit into the kernel's table.
    #[error("too many patterns with a `*` for --unit: give fewer, or the units by name")]
    ManyPatterns,
}

/// Whether there is a process of this id.
pub fn process(pid: u32) -> Result<u32, FilterError> {
    let status = |of: &dyn fmt::Display| fs::read_to_string(format!("/proc/{of}/status"));
    let Ok(status_of_it) = status(&pid) else {
        return match status(&"self") {
            Ok(_) => Err(FilterError::NoProcess { pid }),
            // Without /proc nobody knows.
            Err(_) => Ok(pid),
        };
    };
    let tgid = status_of_it
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"));
    match tgid.and_then(|tgid| tgid.trim().parse().ok()) {
        Some(process) if process != pid => Err(FilterError::Thread { tid: pid, process }),
        _ => Ok(pid),
    }
}

/// The uid of a user, given by name or by number.
pub fn uid(user: &str) -> Result<u32, FilterError> {
    Ok(users::uid(user)?)
}

/// A thread name as the kernel keeps it, padded with NULs.
pub fn comm(name: &OsStr) -> Result<[u8; 16], FilterError> {
    let bytes = name.as_bytes();
    let mut comm = [0; 16];
    // The last byte stays NUL.
    let [room @ .., _] = &mut comm;
    match room.get_mut(..bytes.len()) {
        Some([]) => Err(FilterError::EmptyComm),
        Some(room) => {
            room.copy_from_slice(bytes);
            Ok(comm)
        }
        None => Err(FilterError::LongComm {
            name: name.to_string_lossy().into_owned(),
            kept: bytes
                .get(..room.len())
                .map(|kept| String::from_utf8_lossy(kept).into_owned())
                .unwrap_or_default(),
        }),
    }
}

/// A network or an address, as a policy takes it.
pub fn network(text: &str) -> Result<Network, FilterError> {
    policy::text::network::network(text).map_err(|problem| FilterError::Network { problem })
}

/// What to do about the problem, after its text.
fn advice(problem: &Problem) -> String {
    let otherwise = "write an address or a network, as in 10.0.0.0/8";
    let help = problem.help().unwrap_or_else(|| otherwise.to_owned());
    format!(": {help}")
}

/// What `--cgroup` and `--unit` mean. It need not be there yet: of what this host does not
/// know, the label says so.
pub fn groups(cgroups: &[PathBuf], names: &[String]) -> Result<Groups, FilterError> {
    if cgroups.is_empty() && names.is_empty() {
        return Ok(Groups::default());
    }
    let tree = tree()?;
    groups_in(&tree, &Units::of_host(), cgroups, names)
}

fn groups_in(
    tree: &CgroupTree,
    units: &Units,
    cgroups: &[PathBuf],
    names: &[String],
) -> Result<Groups, FilterError> {
    let paths = cgroups.iter().map(|path| group(units, path));
    let names = names.iter().map(|name| unit_group(tree, units, name));
    let groups = Groups::new(paths.chain(names).collect::<Result<_, _>>()?);
    if groups.rows().is_none() {
        return Err(FilterError::ManyPatterns);
    }
    Ok(groups)
}

/// Those that are not there, as people are told of them.
pub fn missing(groups: &Groups) -> Vec<String> {
    let tree = CgroupTree::find(Path::new("/proc"));
    groups.missing(|visit| {
        if let Some(tree) = &tree {
            tree.walk(visit);
        }
    })
}

/// A cgroup, given as a path below the mount point or the whole path.
fn group(units: &Units, path: &Path) -> Result<Group, FilterError> {
    let written = path.to_str().filter(|path| !path.is_empty());
    let written = written.ok_or_else(|| FilterError::BadPath {
        path: path.to_owned(),
    })?;
    let path = units.cgroup(written);
    if path
        .split('/')
        .any(|name| !is_name(name) && !name.is_empty())
    {
        return Err(FilterError::BadPath { path: path.into() });
    }
    let shown = if path.is_empty() { "/" } else { &path };
    Ok(Group {
        label: format!("cgroup {shown}"),
        meant: Meant::Path(path),
    })
}

/// The cgroups of a unit: `ssh.service` or, for short, `ssh`; an alias of it, a template
/// or a pattern do too.
fn unit_group(tree: &CgroupTree, units: &Units, name: &str) -> Result<Group, FilterError> {
    let name = units::completed(name).ok_or_else(|| FilterError::Unit {
        problem: Problem::NotAUnit(name.to_owned()),
    })?;
    let name = name.into_owned();
    let unknown = if units.knows(&name) {
        String::new()
    } else {
        format!(" (unknown here{})", like(tree, &name))
    };
    let meant = if name == units::ROOT_SLICE {
        Meant::Path(String::new())
    } else {
        Meant::Units(units.names(&name))
    };
    Ok(Group {
        label: format!("unit {name}{unknown}"),
        meant,
    })
}

/// A directory can have this name.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() < NAME_BYTES && !name.contains(['/', '\0'])
}

/// A question for what runs under a name much like it.
fn like(tree: &CgroupTree, name: &str) -> String {
    let mut running = Vec::new();
    tree.walk(|_, path| {
        let directory = path.file_name().and_then(|name| name.to_str());
        running.extend(directory.map(|directory| units::unescaped(directory).to_owned()));
    });
    let known = closest(name, running.iter().map(String::as_str));
    known.map_or_else(String::new, |known| format!(": did you mean `{known}`?"))
}

/// The path below the mount point of a cgroup that is there, with a leading slash.
pub fn cgroup_path(path: &Path) -> Result<String, FilterError> {
    let tree = tree()?;
    cgroup_in(&tree, path)?;
    Ok(with_slash(path.strip_prefix(tree.mount()).unwrap_or(path)))
}

/// A path below the mount point, as processes are told theirs.
fn with_slash(path: &Path) -> String {
    Path::new("/").join(path).to_string_lossy().into_owned()
}

fn tree() -> Result<CgroupTree, FilterError> {
    CgroupTree::find(Path::new("/proc")).ok_or(FilterError::NoCgroupTree)
}

fn cgroup_in(tree: &CgroupTree, path: &Path) -> Result<u64, FilterError> {
    let below = path.strip_prefix(tree.mount()).unwrap_or(path);
    tree.id(below).map_err(|_| FilterError::NoCgroup {
        path: path.to_owned(),
        mount: tree.mount().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use crate::commands::filter::*;

    fn message<T: fmt::Debug>(result: Result<T, FilterError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn user_is_a_name_or_a_number() {
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(uid("4000000000"), Ok(4_000_000_000));
    }

    #[test]
    fn unknown_user_is_an_error_with_the_nearest_name() {
        assert_eq!(
            message(uid("rooot")),
            "unknown user `rooot`: did you mean `root`?"
        );
        let of_numbers = "a uid is a number from 0 to 4294967294 without leading zeros";
        let of_others = "give a name of this host or a uid";
        for (user, advice) in [
            ("", of_others),
            ("no-such-user-here", of_others),
            ("-1", of_others),
            ("4294967295", of_numbers),
            ("007", of_numbers),
        ] {
            assert_eq!(
                message(uid(user)),
                format!("unknown user `{user}`: {advice}")
            );
        }
    }

    #[test]
    fn comm_fills_sixteen_bytes() {
        let comm = |name| comm(OsStr::new(name));
        assert_eq!(comm("curl"), Ok(*b"curl\0\0\0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(comm("fifteen-bytes-x"), Ok(*b"fifteen-bytes-x\0"));
    }

    #[test]
    fn comm_the_kernel_cannot_have_is_an_error() {
        let comm = |name| comm(OsStr::new(name));
        assert_eq!(
            message(comm("systemd-resolved")),
            "thread name `systemd-resolved` is longer than the 15 bytes the kernel keeps: \
             did you mean `systemd-resolve`?"
        );
        assert_eq!(comm(""), Err(FilterError::EmptyComm));
    }

    #[test]
    fn network_is_what_it_is_in_a_policy() {
        for text in [
            "10.0.0.0/8",
            "10.1.2.3",
            "::ffff:10.0.0.0/104",
            "::/0",
            "fe80::1",
        ] {
            assert_eq!(
                network(text),
                Ok(policy::text::network::network(text).unwrap())
            );
        }
    }

    #[test]
    fn bad_network_is_an_error_that_helps() {
        for (text, said) in [
            (
                "10.1.2.3/8",
                "bad network: `10.1.2.3/8` has bits set beyond its prefix: did you mean `10.0.0.0/8`?",
            ),
            (
                "10.0.0",
                "bad network: `10.0.0` is neither an address nor a CIDR: write an address or a network, as in 10.0.0.0/8",
            ),
            (
                "010.0.0.0/8",
                "bad network: `010.0.0.0/8` has a number that begins with 0, which some programs read as octal: write the numbers without it",
            ),
            (
                "fe80::1%eth0",
                "bad network: `fe80::1%eth0` names an interface, and rules do not ask for one: leave out the `%` and what follows it",
            ),
        ] {
            assert_eq!(message(network(text)), said);
        }
        for text in [
            "",
            "10.0.0.0/33",
            "localhost",
            "::/129",
            "1.2.3.4/+8",
            "1.2.3.4/",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    /// A tree with `ssh.service` and two slices; removed with the directory.
    fn cgroups_of_test() -> (TempDir, CgroupTree) {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("cgroup");
        for unit in [
            "system.slice/ssh.service",
            "a.slice/web.service",
            "b.slice/web.service",
        ] {
            fs::create_dir_all(mount.join(unit)).unwrap();
        }
        fs::write(mount.join("cgroup.controllers"), "").unwrap();
        fs::create_dir(root.path().join("self")).unwrap();
        let line = format!("1 1 0:1 / {} rw - cgroup2 x rw", mount.display());
        fs::write(root.path().join("self/mountinfo"), line).unwrap();
        let tree = CgroupTree::find(root.path()).unwrap();
        (root, tree)
    }

    #[test]
    fn cgroup_is_a_path_below_the_mount_point_or_a_whole_one() {
        let (_root, tree) = cgroups_of_test();
        let id = tree.id(Path::new("system.slice/ssh.service")).unwrap();
        let whole = tree.mount().join("system.slice/ssh.service");
        for path in [
            Path::new("/system.slice/ssh.service"),
            Path::new("system.slice/ssh.service"),
            &whole,
        ] {
            assert_eq!(cgroup_in(&tree, path), Ok(id), "{}", path.display());
        }
        assert_eq!(
            message(cgroup_in(&tree, Path::new("/no.slice"))),
            format!("no cgroup `/no.slice` below {}", tree.mount().display())
        );
    }

    fn labels(cgroups: &[&str], names: &[&str]) -> Result<Vec<String>, FilterError> {
        let (_root, tree) = cgroups_of_test();
        let cgroups: Vec<_> = cgroups.iter().map(PathBuf::from).collect();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mount = tree.mount().to_str().unwrap();
        let there = ["", "/system.slice", "/system.slice/ssh.service"].map(str::to_owned);
        let units = Units::default()
            .with_files(&["worker@.service"])
            .with_cgroups(there.into_iter().collect(), mount);
        let groups = groups_in(&tree, &units, &cgroups, &names)?;
        Ok(groups.iter().map(|group| group.label.clone()).collect())
    }

    #[test]
    fn a_group_need_not_be_there_and_what_is_unknown_is_told() {
        assert_eq!(
            labels(
                &["/no.slice/", "system.slice/../x", "/"],
                &["ssh", "worker@1", "worker@", "sshd", "_b.scope", "-.slice"]
            )
            .unwrap(),
            [
                "cgroup /no.slice",
                "cgroup /x",
                "cgroup /",
                "unit ssh.service",
                "unit worker@1.service",
                "unit worker@.service",
                "unit sshd.service (unknown here: did you mean `ssh.service`?)",
                "unit _b.scope (unknown here)",
                "unit -.slice",
            ]
        );
    }

    #[test]
    fn what_no_cgroup_can_have_is_an_error() {
        let long = "x".repeat(256);
        for (cgroups, names) in [
            (vec![""], vec![]),
            (vec![long.as_str()], vec![]),
            (vec![], vec![""]),
            (vec![], vec!["a/b.service"]),
            (vec![], vec![long.as_str()]),
        ] {
            assert!(labels(&cgroups, &names).is_err(), "{cgroups:?} {names:?}");
        }
        let stars: Vec<_> = ('a'..='p')
            .map(|letter| format!("*{letter}*.service"))
            .collect();
        let stars: Vec<_> = stars.iter().map(String::as_str).collect();
        assert_eq!(labels(&[], &stars), Err(FilterError::ManyPatterns));
    }

    #[test]
    fn paths_are_told_as_to_the_processes_in_them() {
        assert_eq!(with_slash(Path::new("system.slice")), "/system.slice");
        assert_eq!(with_slash(Path::new("/system.slice")), "/system.slice");
        assert_eq!(with_slash(Path::new("")), "/");
    }

    #[test]
    fn a_process_is_there_and_no_thread() {
        let own = std::process::id();
        assert_eq!(process(own), Ok(own));
        // More than any kernel gives.
        let gone = process(u32::MAX);
        assert_eq!(gone, Err(FilterError::NoProcess { pid: u32::MAX }));
        let thread = std::thread::spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            let tid = tid.unsigned_abs();
            (tid, process(tid))
        });
        let (tid, found) = thread.join().unwrap();
        let process = own;
        assert_eq!(found, Err(FilterError::Thread { tid, process }));
    }
}
