//! A command for each alert: a few at a time, each for a limited time.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Seek as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Signal, kill_process_group},
    thread::clear_ambient_capability_set,
};

use super::{Done, LOOK};

/// Commands that run at a time.
const AT_ONCE: usize = 4;

/// Alerts that wait for them.
const WAITING: usize = 64;

/// Where a command finds other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long one that was killed is waited for at the end.
const KILLED: Duration = Duration::from_millis(200);

/// Something to tell by a command.
pub(super) struct Job {
    /// What it reads.
    pub(super) line: Vec<u8>,
    /// The events that are told of.
    pub(super) events: u64,
    /// They are told as they should be everywhere else.
    pub(super) is_told: bool,
}

/// Runs a command.
pub(super) struct Commands {
    argv: Vec<String>,
    limit: Duration,
    running: Vec<Running>,
    waiting: VecDeque<Job>,
    error: Option<String>,
}

struct Running {
    child: Child,
    since: Instant,
    is_killed: bool,
    events: u64,
    is_told: bool,
}

impl Running {
    /// Ends it and what it has started, as far as that is still of its group.
    fn kill(&mut self) {
        self.is_killed = true;
        // It was not waited for: its group is still its own, or gone.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }
}

impl Commands {
    /// Runs the program `argv[0]` with these arguments, for no longer than `limit`.
    pub(super) const fn new(argv: Vec<String>, limit: Duration) -> Self {
        Self {
            argv,
            limit,
            running: Vec::new(),
            waiting: VecDeque::new(),
            error: None,
        }
    }

    /// Runs it for this as soon as there is room.
    pub(super) fn queue(&mut self, job: Job, now: Instant, done: &mut Done) {
        if self.waiting.len() >= WAITING {
            done.add(job.events, false);
            self.tell(Some("too many alerts wait for it".to_owned()));
            return;
        }
        self.waiting.push_back(job);
        self.look(now, done);
    }

    /// Sees which have ended, ends those that take too long, and starts those that wait.
    pub(super) fn look(&mut self, now: Instant, done: &mut Done) {
        for mut one in std::mem::take(&mut self.running) {
            let error = match one.child.try_wait() {
                Ok(None) => {
                    if !one.is_killed && now.saturating_duration_since(one.since) >= self.limit {
                        one.kill();
                    }
                    self.running.push(one);
                    continue;
                }
                Ok(Some(_)) if one.is_killed => Some(format!("took longer than {:?}", self.limit)),
                Ok(Some(status)) => why_it_failed(status),
                Err(error) => Some(error.to_string()),
            };
            done.add(one.events, one.is_told && error.is_none());
            self.tell(error);
        }
        while self.running.len() < AT_ONCE
            && let Some(job) = self.waiting.pop_front()
        {
            match self.start(&job.line) {
                Ok(child) => self.running.push(Running {
                    child,
                    since: now,
                    is_killed: false,
                    events: job.events,
                    is_told: job.is_told,
                }),
                Err(error) => {
                    done.add(job.events, false);
                    self.tell(Some(error.to_string()));
                }
            }
        }
    }

    /// All were run, and have ended.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Kills all, and starts none any more.
    pub(super) fn abandon(&mut self, done: &mut Done) {
        for job in std::mem::take(&mut self.waiting) {
            done.add(job.events, false);
        }
        self.running.iter_mut().for_each(Running::kill);
        self.tell(Some("was killed: the end did not wait for it".to_owned()));
        let deadline = Instant::now() + KILLED;
        while !self.running.is_empty() && Instant::now() < deadline {
            let are_left = |one: &mut Running| matches!(one.child.try_wait(), Ok(None));
            self.running.retain_mut(|one| {
                let is_left = are_left(one);
                if !is_left {
                    done.add(one.events, false);
                }
                is_left
            });
            thread::sleep(LOOK);
        }
    }

    /// Why the last one failed.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Notes how one went, and says so where the one before went otherwise.
    fn tell(&mut self, error: Option<String>) {
        let program = self.argv.first().map_or("", String::as_str);
        let error = error.map(|error| format!("{program}: {error}"));
        match (&self.error, &error) {
            (None, Some(error)) => {
                log::warn!("--alert-command: {error}; the next alert is tried again");
            }
            (Some(_), None) => log::warn!("--alert-command: {program}: went well again"),
            _ => {}
        }
        self.error = error;
    }

    fn start(&self, line: &[u8]) -> io::Result<Child> {
        // What it need not be able to do, it cannot do. Only a service has such capabilities, and
        // only this thread gives its own up.
        let _ = clear_ambient_capability_set();
        let (program, arguments) = self.argv.split_first().ok_or(io::ErrorKind::NotFound)?;
        // A file holds nobody up, whether it is read or not.
        let mut input = File::from(memfd_create("port-monitor-alert", MemfdFlags::CLOEXEC)?);
        input.write_all(line)?;
        input.rewind()?;
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::from(io::stderr()))
            .spawn()
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        for one in &mut self.running {
            one.kill();
            // It is killed; that it takes a while to end must not hold the end up.
            let _ = one.child.try_wait();
        }
    }
}

fn why_it_failed(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit status {code}")),
        (None, signal) => Some(format!("killed by signal {}", signal.unwrap_or(0))),
    }
}
