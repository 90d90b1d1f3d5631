//! Another monitor as a process.
//!
//! It writes to a terminal, because it keeps lines back from a pipe.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::{
    bpf,
    lab::Lab,
    monitor::forward,
    process::{PATIENCE, terminal},
};

/// A running tool. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    child: Child,
    lines: Receiver<(Instant, String)>,
    seen: Vec<String>,
    stderr: PathBuf,
}

impl Tool {
    /// Starts `/bin/NAME` and waits until it is attached: until its header is
    /// out, which must be these words.
    pub(crate) fn start(
        lab: &Lab,
        name: &'static str,
        args: &[&str],
        header: &str,
    ) -> Result<Self> {
        let (master, stdout) = terminal()?;
        let stderr = lab.new_path("stderr");
        let child = Command::new(Path::new("/bin").join(name))
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(fs::File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || forward(master, |_| true, &send));
        let tool = Self {
            name,
            child,
            lines,
            seen: Vec::new(),
            stderr,
        };
        let first = tool.next()?.unwrap_or_default();
        let is_header = first.split_whitespace().eq(header.split_whitespace());
        ensure!(is_header, "{name} says {first:?}: {}", tool.complaints()?);
        Ok(tool)
    }

    /// Reads on until `is_enough` says so of the lines read.
    pub(crate) fn read_until(&mut self, is_enough: impl Fn(&[String]) -> bool) -> Result<()> {
        while !is_enough(&self.seen) {
            let Some(line) = self.next()? else {
                bail!("{} ended: {}", self.name, self.complaints()?);
            };
            self.seen.push(line);
        }
        Ok(())
    }

    /// How often the kernel has skipped one of its programs.
    pub(crate) fn skipped(&self) -> Result<u64> {
        let programs = bpf::programs(&bpf::held_by(self.child.id())?)?;
        Ok(programs.iter().map(|program| program.skips).sum())
    }

    /// Ends it; every line after the header, of which it must have lost none.
    pub(crate) fn stop(mut self) -> Result<Vec<String>> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT)?;
        while let Some(line) = self.next()? {
            self.seen.push(line);
        }
        self.child.wait()?;
        let complaints = self.complaints()?;
        let is_lossless = !complaints.to_lowercase().contains("lost ");
        ensure!(is_lossless, "{}: {complaints}", self.name);
        Ok(std::mem::take(&mut self.seen))
    }

    /// The next line; `None` at its end.
    fn next(&self) -> Result<Option<String>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok((_, line)) => Ok(Some(line.trim_end().to_owned())),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} is silent: {}", self.name, self.complaints()?)
            }
        }
    }

    fn complaints(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stderr)?.trim().to_owned())
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Of use only when a case failed half-way; the process is then ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
