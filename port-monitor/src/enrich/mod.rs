//! What userspace knows of an event's owner: executable, user, unit, container.
//!
//! One read of /proc per process, never one per event; nothing is guessed, and
//! what cannot be known is missing with a reason. Each source keeps its own
//! bounded cache and never fails.

mod asker;
mod cache;
pub(crate) mod cgroup;
mod container;
pub(crate) mod process;
mod secrets;
pub(crate) mod unit;
mod user;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use zerocopy::{ByteHash, Immutable, IntoBytes};

use self::{
    cache::Cache,
    cgroup::{CgroupTree, Cgroups},
    process::{Facts, Paths, Proc},
    user::Users,
};
use crate::{
    event::Owner,
    record::{Field, Missing, Process},
};

/// Processes remembered.
const LIMIT: usize = 16_384;

/// Who knows what processes execute that are gone by now.
pub trait Executables: fmt::Debug {
    /// The path of what the owner of an event executed when that was told, as /proc had it;
    /// `None` where that is not known.
    fn path(&self, owner: &Owner) -> Option<PathBuf>;
}

/// The owner of events, looked up once per process.
#[derive(Debug)]
pub struct Enricher {
    proc: Proc,
    executables: Option<Arc<dyn Executables>>,
    cgroups: Cgroups,
    /// Units and containers of this host are in hierarchies of version 1 too.
    has_v1: bool,
    users: Users,
    processes: Cache<Key, Arc<Process>>,
    /// The one asked for last, which most often is the next one too.
    latest: Option<(Key, Arc<Process>)>,
    ownerless: Arc<Process>,
}

/// A process in one state of its life: it is looked up again when it changes
/// its user or cgroup, or executes another program.
///
/// Hashed in one piece, because every event asks for its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable, ByteHash)]
#[repr(C)]
struct Key {
    start_ns: u64,
    cgroup_id: u64,
    /// Which file it executes, whatever the names of that and of the process.
    exe_inode: u64,
    exe_device: u32,
    pid: u32,
    uid: u32,
    /// Not a kernel's thread and not a process without a program.
    has_exe: u32,
}

impl Key {
    fn new(owner: &Owner) -> Self {
        Self {
            start_ns: owner.start_ns,
            cgroup_id: owner.cgroup_id,
            exe_inode: owner.exe.map_or(0, |exe| exe.inode),
            exe_device: owner.exe.map_or(0, |exe| exe.device),
            pid: owner.pid,
            uid: owner.uid,
            has_exe: owner.exe.is_some().into(),
        }
    }
}

impl Enricher {
    /// Looks processes up in `proc_root`, that is `/proc`.
    pub fn new(proc_root: &Path) -> Self {
        Self {
            proc: Proc::new(proc_root),
            executables: None,
            cgroups: Cgroups::new(CgroupTree::find(proc_root)),
            has_v1: !process::v1_hierarchies(proc_root).is_empty(),
            users: Users::new(),
            processes: Cache::new(LIMIT),
            latest: None,
            ownerless: Arc::new(Process {
                exe: Field::Missing(Missing::NoOwner),
                parent: None,
                args: None,
                user: None,
                cgroup: None,
                unit: None,
                container: None,
                user_missing: None,
                container_missing: None,
            }),
        }
    }

    /// Processes of other users are hidden from us (`hidepid`): their fields
    /// will be missing, as denied.
    pub const fn is_blinded(&self) -> bool {
        self.proc.hides_processes()
    }

    /// From now on the arguments of processes are looked up, too.
    pub const fn tell_args(&mut self) {
        self.proc.tells_args = true;
    }

    /// From now on these are asked first for what processes execute.
    pub fn ask_executables(&mut self, executables: Arc<dyn Executables>) {
        self.executables = Some(executables);
    }

    /// What is known of the owner.
    pub fn process(&mut self, owner: Option<&Owner>) -> Arc<Process> {
        let Some(owner) = owner else {
            return Arc::clone(&self.ownerless);
        };
        let key = Key::new(owner);
        if let Some((latest, process)) = &self.latest
            && *latest == key
            && process.user_missing.is_none()
        {
            return Arc::clone(process);
        }
        let process = match self.processes.get(&key) {
            Some(process) if process.user_missing.is_none() => process,
            known => {
                let process = Arc::new(match known {
                    Some(unnamed) => self.named(owner, Process::clone(&unnamed)),
                    None => self.look_up(owner),
                });
                self.processes.insert(key, Arc::clone(&process));
                process
            }
        };
        self.latest = Some((key, Arc::clone(&process)));
        process
    }

    /// The process with its user's name, as far as that is known by now.
    fn named(&mut self, owner: &Owner, process: Process) -> Process {
        let (user, user_missing) = match self.users.name(owner.uid) {
            Ok(name) => (name, None),
            Err(reason) => (None, Some(reason)),
        };
        Process {
            user,
            user_missing,
            ..process
        }
    }

    fn look_up(&mut self, owner: &Owner) -> Process {
        let noted = self.executables.as_ref();
        let noted = noted.and_then(|executables| executables.path(owner));
        let facts = self.proc.read(owner, noted.clone());
        let gone = facts.as_ref().err().copied();
        let facts = facts.unwrap_or_else(|reason| Facts {
            exe: noted.map_or(Field::Missing(reason), Field::Known),
            parent: None,
            args: None,
            cgroups: None,
        });
        let unread = facts.cgroups.is_none();
        let unread = unread.then(|| gone.unwrap_or(Missing::Exited));
        let Paths { v2, v1 } = facts.cgroups.unwrap_or_default();
        let placement = self
            .cgroups
            .placement(owner.cgroup_id, v2.as_deref(), Instant::now());
        let placement = placement.as_deref();
        // Version 2 comes first: the kernel told of it with the event.
        let unit = placement.and_then(|at| at.unit.clone());
        let unit_in_v1 = || v1.iter().find_map(|path| unit::unit(path)).map(Arc::from);
        let container = placement.and_then(|at| at.container.clone());
        let container = container.or_else(|| v1.iter().find_map(|path| container::container(path)));
        let process = Process {
            exe: facts.exe,
            parent: facts.parent,
            args: facts.args,
            user: None,
            user_missing: None,
            cgroup: placement.map(|at| Arc::clone(&at.path)),
            unit: unit.or_else(unit_in_v1),
            container_missing: unread.filter(|_| self.has_v1 && container.is_none()),
            container,
        };
        self.named(owner, process)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
        path::PathBuf,
    };

    use port_monitor_common::event::OwnerSource;
    use rustix::param::clock_ticks_per_second;
    use tempfile::TempDir;

    use super::*;
    use crate::{event::Comm, file_id};

    const START_TICKS: u64 = 4711;

    /// A host with process 812, `/usr/bin/web` in `web.service`.
    struct Host {
        root: TempDir,
        owner: Owner,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let at = |path: &str| root.path().join(path);
            for dir in ["1", "self", "812", "cgroup/system.slice/web.service"] {
                fs::create_dir_all(at(dir)).unwrap();
            }
            let mounts = format!("1 1 0:1 / {} rw - cgroup2 x rw", at("cgroup").display());
            fs::write(at("cgroup/cgroup.controllers"), "").unwrap();
            fs::write(at("self/mountinfo"), mounts).unwrap();
            let stat = format!("812 (web) S 7 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {START_TICKS} 9");
            fs::write(at("812/stat"), stat).unwrap();
            fs::write(at("812/cgroup"), "0::/system.slice/web.service\n").unwrap();
            fs::create_dir_all(at("bin")).unwrap();
            for program in ["web", "other"] {
                fs::write(at("bin").join(program), program).unwrap();
            }
            symlink(at("bin/web"), at("812/exe")).unwrap();
            let cgroup = fs::metadata(at("cgroup/system.slice/web.service")).unwrap();
            let owner = Owner {
                source: OwnerSource::Connect,
                pid: 812,
                tid: 812,
                start_ns: START_TICKS * (1_000_000_000 / clock_ticks_per_second()),
                comm: Comm(*b"web\0\0\0\0\0\0\0\0\0\0\0\0\0"),
                process_comm: Comm(*b"web\0\0\0\0\0\0\0\0\0\0\0\0\0"),
                uid: 0,
                gid: 0,
                cgroup_id: cgroup.ino(),
                exe: Some(file_id::on_host(&at("bin/web")).unwrap()),
                is_kernel: false,
            };
            Self { root, owner }
        }

        fn enricher(&self) -> Enricher {
            Enricher::new(self.root.path())
        }

        fn executes(&self, program: &str) {
            let exe = self.root.path().join("812/exe");
            fs::remove_file(&exe).unwrap();
            symlink(self.program(program), exe).unwrap();
        }

        fn program(&self, name: &str) -> PathBuf {
            self.root.path().join("bin").join(name)
        }

        /// What an event tells of the process when it executes the program.
        fn executing(&self, program: &str) -> Owner {
            Owner {
                exe: Some(file_id::on_host(&self.program(program)).unwrap()),
                ..self.owner
            }
        }
    }

    #[test]
    fn running_process_has_every_field() {
        let host = Host::new();
        let process = host.enricher().process(Some(&host.owner));
        assert_eq!(process.exe, Field::Known(host.program("web")));
        assert_eq!(process.parent.map(|parent| parent.pid), Some(7));
        assert_eq!(process.user.as_deref(), Some("root"));
        assert_eq!(process.cgroup.as_deref(), Some("/system.slice/web.service"));
        assert_eq!(process.unit.as_deref(), Some("web.service"));
        assert_eq!(process.container, None);
    }

    #[test]
    fn a_name_that_takes_long_is_not_waited_for_and_is_shown_when_it_is_there() {
        let host = Host::new();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let mut enricher = host.enricher();
        enricher.users = Users::by(std::time::Duration::from_millis(20), move |_| {
            let _ = gate.lock().unwrap().recv();
            Some("slow".into())
        });
        for _ in 0..2 {
            let process = enricher.process(Some(&host.owner));
            assert_eq!(process.user, None);
            assert_eq!(process.user_missing, Some(Missing::Late));
            assert_eq!(process.exe, Field::Known(host.program("web")));
        }
        go.send(()).unwrap();
        let deadline = Instant::now() + std::time::Duration::from_mins(1);
        loop {
            let process = enricher.process(Some(&host.owner));
            if process.user_missing.is_none() {
                assert_eq!(process.user.as_deref(), Some("slow"));
                break;
            }
            assert!(Instant::now() < deadline, "the name never came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn version_1_tells_of_unit_and_container_what_version_2_does_not() {
        let id = "ab".repeat(32);
        let host = Host::new();
        let write = |process: &str, text: &str| {
            fs::write(host.root.path().join(process).join("cgroup"), text).unwrap();
        };
        write("self", "3:pids:/\n1:name=systemd:/\n0::/\n");
        let v1 = format!("3:pids:/docker/{id}\n1:name=systemd:/system.slice/old.service\n0::/\n");
        write("812", &v1);
        let root = fs::metadata(host.root.path().join("cgroup")).unwrap();
        let in_root = Owner {
            cgroup_id: root.ino(),
            ..host.owner
        };
        let process = host.enricher().process(Some(&in_root));
        assert_eq!(process.container.as_ref().unwrap().id, id);
        assert_eq!(process.unit.as_deref(), Some("old.service"));
        assert_eq!(process.cgroup.as_deref(), Some("/"));
        // The kernel's own word comes first.
        let process = host.enricher().process(Some(&host.owner));
        assert_eq!(process.unit.as_deref(), Some("web.service"));
        assert_eq!(process.container_missing, None);

        fs::remove_dir_all(host.root.path().join("812")).unwrap();
        let process = host.enricher().process(Some(&in_root));
        assert_eq!(process.container, None);
        assert_eq!(process.container_missing, Some(Missing::Exited));
    }

    #[test]
    fn exited_process_still_has_user_and_unit() {
        let host = Host::new();
        fs::remove_dir_all(host.root.path().join("812")).unwrap();
        let process = host.enricher().process(Some(&host.owner));
        assert_eq!(process.exe, Field::Missing(Missing::Exited));
        assert_eq!(process.parent, None);
        assert_eq!(process.user.as_deref(), Some("root"));
        assert_eq!(process.unit.as_deref(), Some("web.service"));
    }

    #[test]
    fn later_process_with_the_same_pid_lends_nothing() {
        let host = Host::new();
        let mut enricher = host.enricher();
        assert!(enricher.process(Some(&host.owner)).exe.known().is_some());
        let earlier = Owner {
            start_ns: host.owner.start_ns - 1_000_000_000,
            ..host.owner
        };
        let process = enricher.process(Some(&earlier));
        assert_eq!(process.exe, Field::Missing(Missing::Exited));
        assert_eq!(process.parent, None);
    }

    #[test]
    fn process_is_read_once_until_it_changes() {
        let host = Host::new();
        let mut enricher = host.enricher();
        let first = enricher.process(Some(&host.owner));
        let renamed = Owner {
            comm: Comm(*b"other\0\0\0\0\0\0\0\0\0\0\0"),
            ..host.owner
        };
        assert!(Arc::ptr_eq(&first, &enricher.process(Some(&renamed))));

        let changed_user = Owner {
            uid: u32::MAX - 7,
            ..host.owner
        };
        assert_eq!(enricher.process(Some(&changed_user)).user, None);
    }

    #[test]
    fn process_that_executes_another_file_of_the_same_name_is_seen_as_that() {
        let host = Host::new();
        let mut enricher = host.enricher();
        let first = enricher.process(Some(&host.owner));
        assert_eq!(first.exe, Field::Known(host.program("web")));
        host.executes("other");
        let executed = enricher.process(Some(&host.executing("other")));
        assert_eq!(executed.exe, Field::Known(host.program("other")));
        // What it was before stays what it was.
        assert!(Arc::ptr_eq(&first, &enricher.process(Some(&host.owner))));
    }

    #[test]
    fn process_that_executes_another_file_by_now_lends_no_path() {
        let host = Host::new();
        host.executes("other");
        let process = host.enricher().process(Some(&host.owner));
        assert_eq!(process.exe, Field::Missing(Missing::Executed));
        assert_eq!(process.parent.map(|parent| parent.pid), Some(7));
    }

    /// Knows one path, of one file.
    #[derive(Debug)]
    struct Noted(Owner, PathBuf);

    impl Executables for Noted {
        fn path(&self, owner: &Owner) -> Option<PathBuf> {
            let is_meant = Key::new(owner) == Key::new(&self.0);
            is_meant.then(|| self.1.clone())
        }
    }

    #[test]
    fn path_that_was_noted_is_told_of_what_is_gone_or_another_program_by_now() {
        let host = Host::new();
        host.executes("other");
        let asking = || {
            let mut enricher = host.enricher();
            let noted = Noted(host.owner, "/noted/web".into());
            enricher.ask_executables(Arc::new(noted));
            enricher
        };
        let noted = Field::Known(PathBuf::from("/noted/web"));
        assert_eq!(asking().process(Some(&host.owner)).exe, noted);
        let process = asking().process(Some(&host.executing("other")));
        assert_eq!(process.exe, Field::Known(host.program("other")));

        fs::remove_dir_all(host.root.path().join("812")).unwrap();
        let process = asking().process(Some(&host.owner));
        assert_eq!(process.exe, noted);
        assert_eq!(process.parent, None);
        let process = asking().process(Some(&host.executing("other")));
        assert_eq!(process.exe, Field::Missing(Missing::Exited));
    }

    #[test]
    fn threads_share_one_look_up_whatever_their_names() {
        let host = Host::new();
        let mut enricher = host.enricher();
        let mut thread = |tid, name: u8| {
            enricher.process(Some(&Owner {
                tid,
                comm: Comm([name; 16]),
                ..host.owner
            }))
        };
        assert!(Arc::ptr_eq(&thread(813, b'a'), &thread(814, b'b')));
    }

    #[test]
    fn event_without_an_owner_says_so() {
        let host = Host::new();
        let process = host.enricher().process(None);
        assert_eq!(process.exe, Field::Missing(Missing::NoOwner));
        assert_eq!(process.user, None);
    }

    #[test]
    fn hidden_processes_are_denied_rather_than_exited() {
        let host = Host::new();
        for pid in ["1", "812"] {
            fs::remove_dir_all(host.root.path().join(pid)).unwrap();
        }
        let mut enricher = host.enricher();
        assert!(enricher.is_blinded());
        let process = enricher.process(Some(&host.owner));
        assert_eq!(process.exe, Field::Missing(Missing::Denied));
    }
}
