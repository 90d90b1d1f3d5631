//! Processes of a workload: children that are real forks, and waiting with a
//! deadline.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// A forked child of a workload.
#[derive(Debug)]
pub(crate) struct Forked {
    pid: u32,
    report: File,
}

impl Forked {
    /// Its process id.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the child has done its work; it may live on.
    pub(crate) fn join(mut self) -> Result<()> {
        let mut report = Vec::new();
        let mut byte = [0];
        while self.report.read(&mut byte)? == 1 && byte != *b"\n" {
            report.extend_from_slice(&byte);
        }
        let report = String::from_utf8_lossy(&report);
        ensure!(report == "done", "child {}: {report}", self.pid);
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(self) -> Result<()> {
        let pid = Pid::from_raw(self.pid.try_into()?).context("pid 0")?;
        kill_process(pid, Signal::KILL).context("kill the child")?;
        self.gone()
    }

    /// Waits until it is gone by itself.
    pub(crate) fn gone(self) -> Result<()> {
        let pid = Pid::from_raw(self.pid.try_into()?).context("pid 0")?;
        waitpid(Some(pid), WaitOptions::empty()).context("wait for the child")?;
        Ok(())
    }
}

/// Runs `work` in a forked child, which then stays until the workload is
/// released, so that the monitor can still look it up.
///
/// The calling process must have one thread only.
pub(crate) fn fork(work: impl FnOnce() -> Result<()>) -> Result<Forked> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the caller has one thread, so the child inherits no lock that
    // another thread holds and may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("fork"),
        0 => {
            drop(read);
            finish_child(write, &work())
        }
        pid => Ok(Forked {
            pid: u32::try_from(pid)?,
            report: read.into(),
        }),
    }
}

fn finish_child(report: OwnedFd, result: &Result<()>) -> ! {
    let line = match result {
        Ok(()) => "done\n".to_owned(),
        Err(error) => format!("{error:#}\n"),
    };
    let mut report = File::from(report);
    // A parent that is gone needs no report.
    let _ = report.write_all(line.as_bytes());
    drop(report);
    await_release();
    exit_now()
}

/// Ends the process without running anything more of the program.
pub(crate) fn exit_now() -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(0) }
}

/// Blocks until the runner lets the workloads go: until standard input ends.
pub(crate) fn await_release() {
    // Whatever ends the wait, the process then ends too.
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
}

/// Blocks until the runner says "go" on standard input.
pub(crate) fn await_go() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    ensure!(line == "go\n", "told {line:?}, not to go");
    Ok(())
}

/// A terminal: the end of who watches it, and that of who writes to it.
pub(crate) fn terminal() -> Result<(File, File)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("open a terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?.into_string()?;
    let slave = OpenOptions::new().read(true).write(true).open(&path)?;
    Ok((master.into(), slave))
}

/// Tells the runner one word on standard output.
pub(crate) fn say(word: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()?;
    Ok(())
}

/// A gate between a process and its forks: each opening lets one pass.
#[derive(Debug)]
pub(crate) struct Gate {
    read: OwnedFd,
    write: OwnedFd,
}

impl Gate {
    pub(crate) fn new() -> Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }

    pub(crate) fn open(&self) -> Result<()> {
        rustix::io::write(&self.write, b"!")?;
        Ok(())
    }

    /// The descriptor by which it is opened.
    pub(crate) fn opener(&self) -> RawFd {
        self.write.as_raw_fd()
    }

    pub(crate) fn pass(&self) -> Result<()> {
        rustix::io::read(&self.read, &mut [0])?;
        Ok(())
    }
}

/// Names the calling thread.
pub(crate) fn set_comm(name: &[u8]) -> Result<()> {
    rustix::thread::set_name(&CString::new(name)?).context("prctl(PR_SET_NAME)")
}

/// Makes the calling process (of one thread) another user's.
pub(crate) fn become_user(id: u32) -> Result<()> {
    // SAFETY: takes three numbers; no memory is involved.
    let group = unsafe { libc::setresgid(id, id, id) };
    // SAFETY: as above.
    let user = unsafe { libc::setresuid(id, id, id) };
    ensure!(
        group == 0 && user == 0,
        "become user {id}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Pins the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("pin to cpu {cpu}"))
}

/// Longer than anything takes that will happen, also where processors are busy: whoever has
/// waited so long waits for what never comes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// Asks until it is so: however long it takes.
pub(crate) fn wait_until(ask: impl FnMut() -> Result<bool>) -> Result<()> {
    poll_until(PATIENCE, ask)
}

/// Asks again and again, giving the CPU away in between, until the answer is
/// yes.
pub(crate) fn poll_until(limit: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ask()? {
        if Instant::now() > deadline {
            bail!("not within {limit:?}");
        }
        // Others need the processor to get there.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
