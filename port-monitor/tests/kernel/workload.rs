//! Workloads as processes: this program runs itself again for each, so that
//! every scenario has pids of its own.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    fact::{Fact, Witness},
    process::{PATIENCE, await_release, say},
    scenarios::{
        self, begun, closing, crowd, early, executables, fastopen, holding, listeners, mixture,
        opening, owners, progress, repair, sounding, tree,
    },
};

/// Environment variable: the pid of the runner, which names its cgroups.
pub(crate) const RUNNER_PID: &str = "KERNEL_TESTS_RUNNER";

/// Makes the connections of a workload.
pub(crate) type Perform = fn(&Witness) -> Result<()>;

/// The pid of the runner this process works for, or is.
pub(crate) fn runner_pid() -> String {
    env::var(RUNNER_PID).unwrap_or_else(|_| std::process::id().to_string())
}

/// The workloads beside [`scenarios::ALL`], by name.
const EXTRA: &[(&str, Perform)] = &[
    ("asleep-in-accept", early::asleep_in_accept),
    ("already-listening", early::already_listening),
    ("shared-before", early::shared_before),
    ("already-open", closing::already_open),
    ("closed-rows", closing::rows),
    ("closed-listeners", owners::close_listeners),
    ("half-begun", begun::half_begun),
    ("already-restored", repair::already_restored),
    ("progress", progress::steps),
    ("open-and-hold", opening::open_and_hold),
    ("owners", owners::exchange),
    ("executables", executables::run),
    ("first-thread-ended", executables::first_thread_ended),
    ("live-100", crowd::small),
    ("live-10000", crowd::many),
    ("live-100000", crowd::large),
    ("listeners", listeners::listeners),
    ("fastopen-deferred-before", fastopen::deferred_before),
    ("fastopen-gone-early", fastopen::gone_early),
    ("fastopen-let-go", fastopen::let_go),
    ("fastopen-preempted", fastopen::preempted),
    ("descendants", tree::descendants),
    ("parent-and-child", tree::parent_and_child),
    ("filters", mixture::filters),
    ("services", mixture::services),
    ("few-bytes", sounding::few_bytes),
    ("every-cpu", sounding::every_cpu),
    ("accept-at-3", holding::accept_at_3),
    ("accept-at-3-of-several", holding::accept_at_3_of_several),
];

fn find(name: &str) -> Option<Perform> {
    let scenario = scenarios::ALL.iter().find(|scenario| scenario.name == name);
    let extra = || EXTRA.iter().find(|(extra, _)| *extra == name);
    scenario
        .map(|scenario| scenario.run)
        .or_else(|| extra().map(|&(_, run)| run))
}

/// Runs a workload in this process: writes its facts to `path`, says so, and
/// stays until it is released.
pub(crate) fn perform(name: &str, path: &Path) -> Result<()> {
    let run = find(name).with_context(|| format!("no workload `{name}`"))?;
    let witness = Witness::create(path)?;
    witness.tell(&Fact::Process(std::process::id()))?;
    limit_time();
    let end = match run(&witness) {
        Ok(()) => Fact::Done,
        Err(error) => Fact::Failed(format!("{error:#}")),
    };
    alarm(0);
    witness.tell(&end)?;
    say("done")?;
    await_release();
    Ok(())
}

/// Ends the process by a signal when it has taken too long.
pub(crate) fn limit_time() {
    alarm(u32::try_from(PATIENCE.as_secs()).unwrap_or(u32::MAX));
}

/// Lets it take as long as the processes it waits for, which limit themselves.
pub(crate) fn unlimit_time() {
    alarm(0);
}

fn alarm(seconds: u32) {
    // SAFETY: takes a number; no memory is involved.
    unsafe { libc::alarm(seconds) };
}

/// Where the workload `name` writes its facts below `dir`.
pub(crate) fn facts_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.facts"))
}

/// Runs workloads one after another, each until it is done; they stay, and are
/// released together with this process's standard input.
pub(crate) fn perform_all(dir: &Path, names: &[String]) -> Result<()> {
    for name in names {
        let mut workload = Workload::spawn(dir, name, Stdio::inherit())?;
        // What went wrong stands in its facts.
        let _ = workload.hear("done");
    }
    Ok(())
}

/// A workload process, seen from the runner. Dropping it releases the workload
/// and waits for its end.
#[derive(Debug)]
pub(crate) struct Workload {
    child: Child,
    words: BufReader<ChildStdout>,
    facts: PathBuf,
}

impl Workload {
    /// Starts a workload that the runner releases.
    pub(crate) fn start(dir: &Path, name: &str) -> Result<Self> {
        Self::spawn(dir, name, Stdio::piped())
    }

    fn spawn(dir: &Path, name: &str, stdin: Stdio) -> Result<Self> {
        let facts = facts_path(dir, name);
        let mut child = Command::new("/proc/self/exe")
            .arg("workload")
            .arg(name)
            .arg(&facts)
            .env(RUNNER_PID, runner_pid())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start workload {name}"))?;
        let words = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self {
            child,
            words,
            facts,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the workload says `word`.
    pub(crate) fn hear(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.words.read_line(&mut line)?;
        ensure!(
            line.trim_end() == word,
            "the workload said {line:?}, not {word:?}"
        );
        Ok(())
    }

    /// Lets a waiting workload begin.
    pub(crate) fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        Ok(stdin.write_all(b"go\n")?)
    }

    /// What it wrote down; it must have said it is done.
    pub(crate) fn facts(&self) -> Result<Vec<Fact>> {
        crate::fact::read(&self.facts)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if self.child.stdin.take().is_some() {
            // It ends by itself now; its status says nothing its facts do not.
            let _ = self.child.wait();
        }
    }
}
