//! Of what is known of owners, on a host made of files.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::PathBuf,
    time::Instant,
};

use port_monitor_common::event::OwnerSource;
use rustix::param::clock_ticks_per_second;
use tempfile::TempDir;

use crate::{events::decode::Comm, host::file_id, pipeline::enrich::*};

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

impl Enricher {
    /// What is known of the owner once it is looked up.
    fn process(&mut self, owner: Option<&Owner>) -> Arc<Process> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let Some(owner) = owner else {
                return self.nobody(Missing::NoOwner);
            };
            if let Some(process) = self.find(owner) {
                return process;
            }
            assert!(Instant::now() < deadline, "the look-up never ends");
            self.wait(Duration::from_secs(1));
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

/// Answers nothing before it is let.
struct Gate(std::sync::mpsc::Sender<()>);

impl Gate {
    fn new() -> (Self, impl Fn() + Send + Sync + 'static) {
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        (Self(go), move || {
            let _ = gate.lock().unwrap().recv();
        })
    }
}

#[test]
fn a_name_that_takes_long_is_not_waited_for_and_is_shown_when_it_is_there() {
    let host = Host::new();
    let (gate, wait) = Gate::new();
    let mut enricher = host.enricher();
    enricher.users = Users::by(&enricher.bell, move |_| {
        wait();
        Some("slow".into())
    });
    let owner = Some(&host.owner);
    assert_eq!(enricher.find(&host.owner), None);
    while enricher.processes.get(&Key::new(&host.owner)).is_none() {
        enricher.wait(Duration::from_mins(1));
        assert_eq!(enricher.find(&host.owner), None);
    }
    for process in [enricher.give_up(&host.owner), enricher.process(owner)] {
        assert_eq!(process.user, None);
        assert_eq!(process.user_missing, Some(Missing::Late));
        assert_eq!(process.exe, Field::Known(host.program("web")));
    }
    gate.0.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while enricher.process(owner).user_missing.is_some() {
        assert!(Instant::now() < deadline, "the name never came");
        enricher.wait(Duration::from_secs(1));
    }
    assert_eq!(enricher.process(owner).user.as_deref(), Some("slow"));
}

#[test]
fn a_process_that_takes_long_to_look_up_is_late_until_it_is_there_and_keeps_no_other_waiting() {
    let host = Host::new();
    let (gate, wait) = Gate::new();
    let mut enricher = host.enricher();
    let look_up = Arc::clone(&enricher.look_up);
    enricher.asker = Asker::new(&enricher.bell, move |question: &Question| {
        if question.key.uid == 0 {
            wait();
        }
        look_up.process(question)
    });
    let owner = Some(&host.owner);
    assert_eq!(enricher.find(&host.owner), None);
    for process in [enricher.give_up(&host.owner), enricher.process(owner)] {
        assert_eq!(process.exe, Field::Missing(Missing::Late));
        assert_eq!(process.container_missing, Some(Missing::Late));
        assert_eq!(process.parent, None);
    }
    let other = Owner {
        uid: u32::MAX - 7,
        ..host.owner
    };
    let process = enricher.process(Some(&other));
    assert_eq!(process.exe, Field::Known(host.program("web")));
    gate.0.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while enricher.process(owner).exe.known().is_none() {
        assert!(Instant::now() < deadline, "the process never came");
        enricher.wait(Duration::from_secs(1));
    }
    assert_eq!(enricher.process(owner).unit.as_deref(), Some("web.service"));
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

impl Enricher {
    /// Waits before each look-up.
    pub(crate) fn delayed(wait: impl Fn(&Owner) + Send + Sync + 'static) -> Self {
        let mut enricher = Self::new(Path::new("/proc"));
        let look_up = Arc::clone(&enricher.look_up);
        enricher.asker = Asker::new(&enricher.bell, move |question: &Question| {
            wait(question.owner());
            look_up.process(question)
        });
        enricher
    }
}
