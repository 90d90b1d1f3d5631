//! What userspace knows of an event's owner: executable, user, unit, container.
//!
//! One read of /proc per process, never one per event; nothing is guessed, and
//! what cannot be known is missing with a reason. Each source keeps its own
//! bounded cache and never fails. What a file or another process may keep waiting is read
//! by threads of their own.

mod asker;
mod cache;
mod look_up;
mod user;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use zerocopy::{ByteHash, Immutable, IntoBytes};

use self::{
    asker::{Asker, Bell},
    cache::Cache,
    look_up::{LookUp, Question},
    user::Users,
};
use crate::{
    events::{
        decode::Owner,
        record::{Field, Missing, Process},
    },
    host::executables::Executables,
};

/// Processes remembered.
const LIMIT: usize = 16_384;

/// The owner of events, looked up once per process.
#[derive(Debug)]
pub struct Enricher {
    look_up: Arc<LookUp>,
    asker: Asker<Question, Process>,
    /// Rings when there is an answer.
    bell: Arc<Bell>,
    executables: Option<Arc<dyn Executables>>,
    users: Users,
    processes: Cache<Key, Arc<Process>>,
    /// The one asked for last, which most often is the next one too.
    latest: Option<(Key, Arc<Process>)>,
    /// What is known of nobody, by the reason.
    ownerless: Vec<Arc<Process>>,
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
        let look_up = Arc::new(LookUp::new(proc_root));
        let bell = Arc::default();
        Self {
            asker: asker(&bell, &look_up),
            look_up,
            executables: None,
            users: Users::new(&bell),
            bell,
            processes: Cache::new(LIMIT),
            latest: None,
            ownerless: Vec::new(),
        }
    }

    /// Processes of other users are hidden from us (`hidepid`): their fields
    /// will be missing, as denied.
    pub fn is_blinded(&self) -> bool {
        self.look_up.proc.hides_processes()
    }

    /// From now on the arguments of processes are looked up, too.
    pub fn tell_args(&mut self) {
        self.look_up = Arc::new(LookUp::clone(&self.look_up).telling_args());
        self.asker = asker(&self.bell, &self.look_up);
    }

    /// From now on these are asked first for what processes execute.
    pub fn ask_executables(&mut self, executables: Arc<dyn Executables>) {
        self.executables = Some(executables);
    }

    /// What is known of the owner; `None` while it is looked up, which begins here.
    pub fn find(&mut self, owner: &Owner) -> Option<Arc<Process>> {
        let key = Key::new(owner);
        if let Some((latest, process)) = &self.latest
            && *latest == key
        {
            return Some(Arc::clone(process));
        }
        let Self {
            asker, processes, ..
        } = self;
        asker.take(|question, process| processes.insert(question.key, Arc::new(process)));
        let known = processes.get(&key);
        if let Some(process) = known.as_ref().filter(|known| known.user_missing.is_none()) {
            self.latest = Some((key, Arc::clone(process)));
            return known;
        }
        // Both are asked for at the same time.
        let is_hopeful = known.is_none() && self.ask(key, owner);
        let user = self.users.name(owner.uid);
        let (false, Some(user)) = (is_hopeful, user) else {
            return None;
        };
        let Some(process) = known else {
            return Some(Arc::new(named(self.makeshift(key, owner), user)));
        };
        let process = Arc::new(named(Process::clone(&process), user));
        if process.user_missing.is_none() {
            self.processes.insert(key, Arc::clone(&process));
            self.latest = Some((key, Arc::clone(&process)));
        }
        Some(process)
    }

    /// What is known of the owner by now: what is not is late, also for later events, until
    /// it is there.
    pub fn give_up(&mut self, owner: &Owner) -> Arc<Process> {
        if let Some(process) = self.find(owner) {
            return process;
        }
        let key = Key::new(owner);
        self.asker.give_up(&Question::like(key, owner));
        self.users.give_up(owner.uid);
        let user = self.users.name(owner.uid).unwrap_or(Err(Missing::Late));
        let process = match self.processes.get(&key) {
            Some(process) => Process::clone(&process),
            None => self.makeshift(key, owner),
        };
        Arc::new(named(process, user))
    }

    /// What is known where nobody knows the owner, for this reason.
    pub fn nobody(&mut self, reason: Missing) -> Arc<Process> {
        let exe = Field::Missing(reason);
        let known = self.ownerless.iter().find(|process| process.exe == exe);
        if let Some(process) = known {
            return Arc::clone(process);
        }
        let process = Arc::new(Process::unknown(reason));
        self.ownerless.push(Arc::clone(&process));
        process
    }

    /// Waits until more is known than at the last look, but not longer than `timeout`.
    pub fn wait(&self, timeout: Duration) {
        self.bell.wait(timeout);
    }

    /// Answers take long: what is asked next does not wait behind what hangs.
    pub fn hurry(&mut self) {
        self.asker.hurry();
        self.users.hurry();
    }

    /// Whether there is hope for an answer soon.
    fn ask(&mut self, key: Key, owner: &Owner) -> bool {
        let mut question = Question::like(key, owner);
        if self.asker.open(&question).is_none() {
            question.noted = self.noted(owner);
        }
        self.asker.ask(&question)
    }

    fn noted(&self, owner: &Owner) -> Option<PathBuf> {
        let executables = self.executables.as_ref();
        executables.and_then(|executables| executables.path(owner))
    }

    /// What is known of a process that takes long to look up.
    fn makeshift(&self, key: Key, owner: &Owner) -> Process {
        let noted = match self.asker.open(&Question::like(key, owner)) {
            Some(open) => open.noted.clone(),
            None => self.noted(owner),
        };
        self.look_up.makeshift(owner, noted)
    }
}

/// Asks threads that look processes up.
fn asker(bell: &Arc<Bell>, look_up: &Arc<LookUp>) -> Asker<Question, Process> {
    let look_up = Arc::clone(look_up);
    Asker::new(bell, move |question: &Question| look_up.process(question))
}

/// The process with its user's name, as far as that is known by now.
fn named(process: Process, user: Result<Option<Arc<str>>, Missing>) -> Process {
    let (user, user_missing) = match user {
        Ok(name) => (name, None),
        Err(reason) => (None, Some(reason)),
    };
    Process {
        user,
        user_missing,
        ..process
    }
}

#[cfg(test)]
mod tests;
