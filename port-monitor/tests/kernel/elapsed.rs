//! How long a program takes, whatever else the machine does.

use std::{
    fs,
    io::Read as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Time since a program was in some state, but for the time it stood in line.
pub(crate) struct Since {
    begin: Instant,
    in_line: Duration,
}

impl Since {
    /// Since the start of a program that is started now.
    pub(crate) fn start() -> Self {
        Self {
            begin: Instant::now(),
            in_line: Duration::ZERO,
        }
    }

    /// Since now.
    pub(crate) fn now(child: &Child) -> Self {
        Self {
            begin: Instant::now(),
            in_line: in_line(child),
        }
    }

    /// How long that is. The program may have ended, but nobody has waited for it.
    pub(crate) fn elapsed(&self, child: &Child) -> Duration {
        let in_line = in_line(child).saturating_sub(self.in_line);
        self.begin.elapsed().saturating_sub(in_line)
    }
}

/// How long the main thread of a program was ready to run and did not. Nothing where the
/// kernel does not count that (`CONFIG_SCHED_INFO`): then the machine's load is the
/// program's.
fn in_line(child: &Child) -> Duration {
    let counts = fs::read_to_string(format!("/proc/{}/schedstat", child.id()));
    let counts = counts.unwrap_or_default();
    let waited = counts.split_whitespace().nth(1);
    Duration::from_nanos(waited.and_then(|ns| ns.parse().ok()).unwrap_or_default())
}

/// What a program says, and how long it takes.
pub(crate) fn timed(command: &mut Command) -> Result<(Output, Duration)> {
    let since = Since::start();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start port-monitor")?;
    let mut stdout = Vec::new();
    let mut pipe = child.stdout.take().context("no stdout")?;
    pipe.read_to_end(&mut stdout)?;
    // It is looked at before it is gone.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(&child)), ended)?;
    let took = since.elapsed(&child);
    let output = child.wait_with_output()?;
    Ok((Output { stdout, ..output }, took))
}
