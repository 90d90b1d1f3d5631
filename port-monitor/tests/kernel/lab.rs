//! What every case needs: the program under test, a place for files, and
//! whether the machine is ours alone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use crate::{
    backend::Backend,
    cgroup::Cgroups,
    fact::{self, Fact},
    monitor::{Monitor, Run, Watch},
    workload::{Workload, facts_path},
};

/// The place the cases run in.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The `port-monitor` under test.
    pub(crate) program: PathBuf,
    /// The machine has other users: watch and touch nothing but our own.
    pub(crate) native: bool,
    /// The cgroups workloads move into.
    pub(crate) cgroups: Cgroups,
    dir: tempfile::TempDir,
    paths: AtomicU32,
}

impl Lab {
    /// Sets the place up.
    pub(crate) fn new(program: &Path, native: bool) -> Result<Self> {
        let cgroups = Cgroups::of(std::process::id());
        cgroups.make()?;
        Ok(Self {
            program: fs::canonicalize(program)
                .with_context(|| format!("find {}", program.display()))?,
            native,
            cgroups,
            dir: tempfile::tempdir().context("create a temporary directory")?,
            paths: AtomicU32::new(0),
        })
    }

    /// The backend for what does not depend on one: of those this kernel is sure to
    /// offer, the best.
    pub(crate) const fn sure_backend(&self) -> Backend {
        if self.native {
            Backend::Tracepoint
        } else {
            Backend::Fentry
        }
    }

    /// A path nothing else uses.
    pub(crate) fn new_path(&self, kind: &str) -> PathBuf {
        let number = self.paths.fetch_add(1, Ordering::Relaxed);
        self.dir.path().join(format!("{number}.{kind}"))
    }

    /// Removes the files of all that has ended well, which lie in the memory of a guest.
    pub(crate) fn remove_files(&self) -> Result<()> {
        for entry in fs::read_dir(self.dir.path()).context("read the temporary directory")? {
            let path = entry?.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    fn new_dir(&self) -> Result<PathBuf> {
        let path = self.new_path("facts");
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// On a shared machine, watches only the process `pid`.
    pub(crate) fn only(&self, watch: Watch, pid: u32) -> Watch {
        if self.native {
            watch.arg("--pid").arg(pid.to_string())
        } else {
            watch
        }
    }

    /// A workload that waits to be told to go.
    pub(crate) fn workload(&self, name: &str) -> Result<Workload> {
        Workload::start(&self.new_dir()?, name)
    }

    /// Runs workloads one after another under one monitor. On a shared machine
    /// the monitor watches their process tree, else everything.
    pub(crate) fn observe(&self, watch: Watch, names: &[&str]) -> Result<Observed> {
        self.observe_beside(watch, &[], names)
    }

    /// Runs workloads one after another, as [`Lab::observe`] does, with others that wait for
    /// most of their time running beside them.
    pub(crate) fn observe_beside(
        &self,
        watch: Watch,
        waiting: &[&str],
        names: &[&str],
    ) -> Result<Observed> {
        if self.native {
            return self.observe_tree(watch, &[waiting, names].concat(), |_| Ok(()));
        }
        let dir = self.new_dir()?;
        let mut monitor = watch.start()?;
        let mut workloads = Vec::new();
        for name in waiting {
            workloads.push(Workload::start(&dir, name)?);
        }
        for name in names {
            let mut workload = Workload::start(&dir, name)?;
            // What went wrong stands in its facts.
            let _ = workload.hear("done");
            workloads.push(workload);
        }
        for workload in workloads.iter_mut().take(waiting.len()) {
            let _ = workload.hear("done");
        }
        let run = monitor.stop()?;
        Ok(Observed {
            run,
            dir,
            monitor,
            _workloads: workloads,
        })
    }

    /// Runs workloads as the command of the monitor. `meanwhile` is called when
    /// the monitor is attached.
    pub(crate) fn observe_tree(
        &self,
        watch: Watch,
        names: &[&str],
        meanwhile: impl FnOnce(&mut Monitor) -> Result<()>,
    ) -> Result<Observed> {
        let dir = self.new_dir()?;
        let this = env::current_exe().context("find this program")?;
        let mut monitor = watch
            .arg("--")
            .arg(this)
            .arg("batch")
            .arg(&dir)
            .args(names.iter().copied())
            .start()?;
        meanwhile(&mut monitor)?;
        let run = monitor.finish()?;
        Ok(Observed {
            run,
            dir,
            monitor,
            _workloads: Vec::new(),
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Left-over cgroups do no harm; each case's workloads have left them.
        let _ = self.cgroups.remove();
    }
}

/// A monitor that has ended, with workloads that still live: what can be asked
/// of a process can be asked until this is dropped.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) run: Run,
    pub(crate) monitor: Monitor,
    dir: PathBuf,
    _workloads: Vec<Workload>,
}

impl Observed {
    /// What a workload wrote down.
    pub(crate) fn facts(&self, name: &str) -> Result<Vec<Fact>> {
        fact::read(&facts_path(&self.dir, name))
    }
}
