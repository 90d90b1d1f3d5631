//! One process in /proc: executable, parent, cgroup, and proof that it is the
//! process the kernel's event names.

use std::{
    ffi::OsString,
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use port_monitor_common::event::FileId;
use rustix::{
    fs::{CWD, Mode, OFlags, openat, readlinkat},
    io::Errno,
    param::clock_ticks_per_second,
};

use super::{
    secrets::masked,
    stat::{Stat, read_file},
    threads,
};
use crate::{
    events::{
        decode::{Comm, Owner},
        record::{Field, Missing, Parent},
    },
    host::file_id,
};

/// Bytes of arguments that are told.
const ARGS_LIMIT: usize = 4_096;

/// What /proc tells of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) exe: Field<PathBuf>,
    pub(crate) parent: Option<Parent>,
    /// Its arguments without secrets.
    pub(crate) args: Option<Arc<[String]>>,
    /// Its cgroups, as this process sees them.
    pub(crate) cgroups: Option<Paths>,
}

/// The cgroups of a process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    /// In version 2.
    pub(crate) v2: Option<String>,
    /// In the hierarchies of version 1, those first that tell most.
    pub(crate) v1: Vec<String>,
}

/// The hierarchies of version 1 that units and containers are in, those first that tell
/// most.
const TELLING: [&str; 8] = [
    "name=systemd",
    "pids",
    "memory",
    "cpu",
    "devices",
    "freezer",
    "cpuset",
    "blkio",
];

/// A /proc file system.
#[derive(Clone, Debug)]
pub(crate) struct Proc {
    root: PathBuf,
    hides_processes: bool,
    /// Arguments are asked for.
    pub(crate) tells_args: bool,
}

impl Proc {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            // There is always a process 1: not to see it means `hidepid`.
            hides_processes: !root.join("1").exists(),
            tells_args: false,
        }
    }

    /// Processes of other users are hidden (mount option `hidepid`).
    pub(crate) const fn hides_processes(&self) -> bool {
        self.hides_processes
    }

    /// Reads the process that owns what an event tells of. What it executed then may be
    /// known by its path: that is not looked up again.
    ///
    /// The open directory stays this process's: once it is gone, look-ups in it
    /// fail instead of reaching a later process with the same pid. So its start
    /// time is compared once, and all that follows belongs to the same process.
    pub(crate) fn read(
        &self,
        &Owner {
            pid, start_ns, exe, ..
        }: &Owner,
        noted: Option<PathBuf>,
    ) -> Result<Facts, Missing> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = self.root.join(pid.to_string());
        let dir = openat(CWD, &path, flags, Mode::empty()).map_err(|errno| self.missing(errno))?;
        let stat = read_file(&dir, "stat").map_err(|errno| self.missing(errno))?;
        let stat = Stat::parse(&stat).ok_or(Missing::Exited)?;
        // /proc counts in ticks: start times within one tick look the same.
        if stat.start_ticks != ticks(start_ns) {
            return Err(Missing::Exited);
        }
        let living = stat.has_ended.then(|| threads::living(&dir)).flatten();
        let (dir, path) = match living {
            Some(thread) => {
                let opened = openat(&dir, &thread, flags, Mode::empty());
                let opened = opened.map_err(|errno| self.missing(errno))?;
                (opened, path.join(thread))
            }
            None => (dir, path),
        };
        let is_meant = || executes(&dir, &path, exe);
        let (exe, args) = match noted {
            Some(noted) => {
                // Its arguments are those of the program by now.
                let args = (self.tells_args && is_meant()).then(|| args(&dir));
                (Field::Known(noted), args.flatten())
            }
            None => self.program(&dir, &stat, is_meant),
        };
        Ok(Facts {
            exe,
            parent: stat.parent_pid.map(|pid| self.parent(pid, &stat)),
            args,
            cgroups: read_file(&dir, "cgroup")
                .ok()
                .map(|text| Paths::parse(&text)),
        })
    }

    /// What a process executes, and how it was called: of what `is_meant`.
    fn program(
        &self,
        dir: &OwnedFd,
        stat: &Stat,
        is_meant: impl FnOnce() -> bool,
    ) -> (Field<PathBuf>, Option<Arc<[String]>>) {
        let exe = match readlinkat(dir, "exe", Vec::new()) {
            Ok(target) if is_meant() => {
                Field::Known(OsString::from_vec(target.into_bytes()).into())
            }
            Ok(_) => Field::Missing(Missing::Executed),
            Err(Errno::NOENT) if stat.is_kernel_thread => Field::Missing(Missing::KernelThread),
            // The directory is there, so this is not `hidepid` but a zombie: no thread lives.
            Err(Errno::NOENT) => Field::Missing(Missing::Exited),
            Err(errno) => Field::Missing(self.missing(errno)),
        };
        // The name is that of the program by now.
        let is_other = matches!(exe, Field::Missing(Missing::Executed));
        let tells = self.tells_args && !is_other;
        let args = tells.then(|| args(dir)).flatten();
        (exe, args)
    }

    /// The parent of a process: not a later one with its pid.
    fn parent(&self, pid: u32, child: &Stat) -> Parent {
        let named = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let path = self.root.join(pid.to_string());
            let dir = openat(CWD, &path, flags, Mode::empty()).ok()?;
            let stat = Stat::parse(&read_file(&dir, "stat").ok()?)?;
            let start_ns = stat.start_ticks.checked_mul(tick_ns())?;
            let is_older = stat.start_ticks <= child.start_ticks;
            Some((comm(&dir)?, start_ns)).filter(|_| is_older)
        };
        Parent {
            pid,
            named: named(),
        }
    }

    fn missing(&self, errno: Errno) -> Missing {
        match errno {
            Errno::ACCESS | Errno::PERM => Missing::Denied,
            Errno::NOENT if self.hides_processes => Missing::Denied,
            _ => Missing::Exited,
        }
    }
}

/// The name of a process, which is its first thread's: of a kernel's thread, as much as
/// events tell.
fn comm(dir: &OwnedFd) -> Option<Comm> {
    let text = read_file(dir, "comm").ok()?;
    let name = text.strip_suffix(b"\n").unwrap_or(&text);
    Some(Comm::of(name.get(..15).unwrap_or(name)))
}

/// The arguments of a process without secrets, as many as fit a line; `None` of what has
/// none, as a kernel's thread.
fn args(dir: &OwnedFd) -> Option<Arc<[String]>> {
    args_in(&read_file(dir, "cmdline").ok()?)
}

pub(super) fn args_in(text: &[u8]) -> Option<Arc<[String]>> {
    let shown = text.get(..ARGS_LIMIT).unwrap_or(text);
    let shown = shown.strip_suffix(b"\0").unwrap_or(shown);
    let args = shown.split(|&byte| byte == 0);
    let args: Vec<String> = args
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect();
    (!text.is_empty()).then(|| masked(&args).into())
}

/// The process, with its directory in /proc, executes this file now: its path is that
/// file's name.
fn executes(dir: &OwnedFd, path: &Path, exe: Option<FileId>) -> bool {
    let mounts = path.join("mountinfo");
    let now = mounts
        .to_str()
        .and_then(|mounts| file_id::of(dir, Path::new("exe"), mounts).ok());
    exe.is_some() && now == exe
}

/// When this process started, in /proc's ticks since boot: what the self-test
/// compares the kernel's word with.
pub(crate) fn own_start_ticks() -> Option<u64> {
    Stat::parse(&fs::read("/proc/self/stat").ok()?).map(|stat| stat.start_ticks)
}

/// A `CLOCK_BOOTTIME` ns in /proc's ticks.
pub(crate) fn ticks(boot_ns: u64) -> u64 {
    boot_ns / tick_ns()
}

fn tick_ns() -> u64 {
    1_000_000_000 / clock_ticks_per_second().max(1)
}

/// The hierarchies of version 1 that this host has units or containers in.
pub(crate) fn v1_hierarchies(proc_root: &Path) -> Vec<&'static str> {
    let text = fs::read(proc_root.join("self/cgroup")).unwrap_or_default();
    let is_there = |name: &&str| lines(&text).any(|(names, _)| has(&names, name));
    TELLING.into_iter().filter(is_there).collect()
}

impl Paths {
    /// From /proc/PID/cgroup.
    pub(super) fn parse(text: &[u8]) -> Self {
        let v1 = |name: &str| lines(text).find(|(names, _)| has(names, name));
        let found = TELLING.into_iter().filter_map(v1);
        Self {
            v2: cgroup_path(text),
            v1: found.map(|(_, path)| path).collect(),
        }
    }
}

/// The hierarchies of version 1: `4:cpu,cpuacct:/docker/ID`.
fn lines(text: &[u8]) -> impl Iterator<Item = (String, String)> {
    let lines = text.split(|&byte| byte == b'\n');
    lines.filter_map(|line| {
        let line = String::from_utf8_lossy(line);
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(":/")?;
        (!names.is_empty()).then(|| (names.to_owned(), format!("/{path}")))
    })
}

fn has(names: &str, name: &str) -> bool {
    names.split(',').any(|one| one == name)
}

/// This process's cgroup v2 path.
pub(crate) fn own_cgroup_path() -> Option<String> {
    cgroup_path(&fs::read("/proc/self/cgroup").ok()?)
}

/// The cgroup v2 path in the text of /proc/PID/cgroup: the line `0::PATH`.
fn cgroup_path(text: &[u8]) -> Option<String> {
    let path = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    Some(String::from_utf8_lossy(path).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use port_monitor_common::event::OwnerSource;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use crate::host::{process::*, stat::KERNEL_THREAD};

    /// A /proc with processes 1 and 812, the latter started at tick 4711.
    fn proc_with(stat: &str) -> (TempDir, Proc) {
        let root = tempfile::tempdir().unwrap();
        for pid in ["1", "812"] {
            fs::create_dir(root.path().join(pid)).unwrap();
        }
        let dir = root.path().join("812");
        fs::write(dir.join("stat"), stat).unwrap();
        fs::write(dir.join("cgroup"), "1:cpu:/x\n0::/system.slice/a.service\n").unwrap();
        let proc = Proc::new(root.path());
        (root, proc)
    }

    /// The first nanosecond of a tick.
    fn ns(ticks: u64) -> u64 {
        ticks * (1_000_000_000 / clock_ticks_per_second())
    }

    fn owner(pid: u32, start_ns: u64, exe: Option<FileId>) -> Owner {
        Owner {
            source: OwnerSource::Connect,
            pid,
            tid: pid,
            start_ns,
            comm: Comm::default(),
            process_comm: Comm::default(),
            uid: 0,
            gid: 0,
            cgroup_id: 0,
            exe,
            is_kernel: false,
        }
    }

    fn stat(comm: &str, flags: u32) -> String {
        format!("812 ({comm}) S 7 812 812 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 1 2\n")
    }

    #[test]
    fn process_with_the_same_start_time_is_read() {
        let (root, proc) = proc_with(&stat("evil) S 1 (\n", 0));
        let program = root.path().join("x (deleted)");
        fs::write(&program, "x").unwrap();
        symlink(&program, root.path().join("812/exe")).unwrap();
        let exe = file_id::on_host(&program).ok();
        let facts = proc.read(&owner(812, ns(4711) + 1234, exe), None).unwrap();
        assert_eq!(
            facts,
            Facts {
                exe: Field::Known(program),
                parent: Some(Parent {
                    pid: 7,
                    named: None,
                }),
                args: None,
                cgroups: Some(Paths {
                    v2: Some("/system.slice/a.service".into()),
                    v1: vec!["/x".into()],
                }),
            }
        );
    }

    fn name(bytes: &[u8]) -> Comm {
        let mut comm = Comm::default();
        comm.0[..bytes.len()].copy_from_slice(bytes);
        comm
    }

    #[test]
    fn parent_is_named_unless_it_is_younger() {
        let (root, proc) = proc_with(&stat("x", 0));
        let dir = root.path().join("7");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("comm"), "a-name-of-sixteen\n").unwrap();
        for (ticks, named) in [
            ("4711", Some((name(b"a-name-of-sixte"), ns(4711)))),
            ("4712", None),
        ] {
            fs::write(dir.join("stat"), stat("y", 0).replace("4711", ticks)).unwrap();
            let facts = proc.read(&owner(812, ns(4711), None), None).unwrap();
            assert_eq!(facts.parent, Some(Parent { pid: 7, named }));
        }
    }

    #[test]
    fn process_with_another_start_time_is_not_the_one() {
        let (_root, proc) = proc_with(&stat("x", 0));
        assert_eq!(
            proc.read(&owner(812, ns(4710), None), None),
            Err(Missing::Exited)
        );
        assert_eq!(
            proc.read(&owner(812, ns(4712), None), None),
            Err(Missing::Exited)
        );
    }

    #[test]
    fn missing_process_has_exited_unless_proc_hides_some() {
        let (root, proc) = proc_with("");
        assert_eq!(proc.read(&owner(813, 0, None), None), Err(Missing::Exited));
        fs::remove_dir(root.path().join("1")).unwrap();
        let hiding = Proc::new(root.path());
        assert!(hiding.hides_processes());
        assert_eq!(
            hiding.read(&owner(813, 0, None), None),
            Err(Missing::Denied)
        );
    }

    #[test]
    fn process_without_exe_is_a_kernel_thread_or_a_zombie() {
        let (_root, proc) = proc_with(&stat("kworker", KERNEL_THREAD | 0x40));
        let thread = proc.read(&owner(812, ns(4711), None), None).unwrap();
        assert_eq!(thread.exe, Field::Missing(Missing::KernelThread));
        let (_root, proc) = proc_with(&stat("x", 0x40));
        let zombie = proc.read(&owner(812, ns(4711), None), None).unwrap();
        assert_eq!(zombie.exe, Field::Missing(Missing::Exited));
    }

    #[test]
    fn process_whose_first_thread_has_ended_is_read_by_another() {
        let ended = stat("x", 0x40).replace(") S", ") Z");
        let (root, mut proc) = proc_with(&ended);
        proc.tells_args = true;
        let thread = root.path().join("812/task/815");
        fs::create_dir_all(&thread).unwrap();
        fs::write(thread.join("stat"), stat("y", 0x40)).unwrap();
        fs::write(thread.join("cmdline"), "x\0-v\0").unwrap();
        fs::write(thread.join("cgroup"), "1:cpu:/docker/a\n0::/b\n").unwrap();
        let program = root.path().join("x");
        fs::write(&program, "x").unwrap();
        symlink(&program, thread.join("exe")).unwrap();
        let exe = file_id::on_host(&program).ok();
        let facts = proc.read(&owner(812, ns(4711), exe), None).unwrap();
        assert_eq!(facts.exe, Field::Known(program));
        assert_eq!(
            facts.args.as_deref(),
            Some(["x".to_owned(), "-v".to_owned()].as_slice())
        );
        let cgroups = facts.cgroups.unwrap();
        assert_eq!(cgroups.v2.as_deref(), Some("/b"));
        assert_eq!(cgroups.v1, ["/docker/a"]);
    }

    #[test]
    fn this_process_is_found_in_the_real_proc() {
        let mut proc = Proc::new(Path::new("/proc"));
        proc.tells_args = true;
        let pid = std::process::id();
        let start_ns = ns(own_start_ticks().unwrap());
        let exe = file_id::on_host(&std::env::current_exe().unwrap()).ok();
        let facts = proc.read(&owner(pid, start_ns, exe), None).unwrap();
        assert_eq!(facts.exe, Field::Known(std::env::current_exe().unwrap()));
        let parent = facts.parent.unwrap();
        assert_eq!(parent.pid, std::os::unix::process::parent_id());
        let (_, parent_ns) = parent.named.unwrap();
        assert!(parent_ns <= start_ns);
        assert_eq!(facts.cgroups.unwrap().v2, own_cgroup_path());
        let program = std::env::args().next().unwrap();
        assert_eq!(facts.args.unwrap().first(), Some(&program));
    }

    #[test]
    fn cgroup_path_is_the_v2_line() {
        assert_eq!(cgroup_path(b"2:cpu:/a\n0::/b\n").as_deref(), Some("/b"));
        assert_eq!(cgroup_path(b"2:cpu:/0::/b\n"), None);
        assert_eq!(cgroup_path(b""), None);
    }

    #[test]
    fn hierarchies_of_version_1_come_in_the_order_of_what_they_tell() {
        let text = b"9:cpu,cpuacct:/cpu\n8:net_cls:/vpn\n7:pids:/a:b\n2:name=systemd:/unit\n0::/\n";
        let paths = Paths::parse(text);
        assert_eq!(paths.v1, ["/unit", "/a:b", "/cpu"]);
        assert_eq!(paths.v2.as_deref(), Some("/"));
        assert_eq!(Paths::parse(b"8:net_cls:/vpn\n0::/\n").v1, [""; 0]);
    }

    #[test]
    fn truncated_stat_is_no_stat() {
        let whole = stat("x", 0);
        let end = whole.find("4711").unwrap();
        for end in 0..end {
            assert_eq!(Stat::parse(&whole.as_bytes()[..end]), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Stat::parse(&text);
            let _ = Paths::parse(&text);
        }

        #[test]
        fn any_name_leaves_the_start_time_alone(comm in "[ -~\n]{0,15}") {
            let parsed = Stat::parse(stat(&comm, 0).as_bytes()).unwrap();
            prop_assert_eq!(parsed.start_ticks, 4711);
        }
    }
}
