//! A monitor as a process: ours, another's, or the floor.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal};

use super::Bench;
use crate::{
    bpf::{self, Kind, ProgramInfo},
    enforce::this_program,
};

/// How long nothing may have happened before a tool counts as idle, and how little of
/// the processor is nothing.
const QUIET: Duration = Duration::from_millis(400);
const IDLE_NS: u64 = 1_000_000;

/// Where lines go that nobody reads.
const NULL: &str = "/dev/null";

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tool {
    /// No tool: what the connections cost by themselves.
    Nobody,
    /// port-monitor, with these arguments.
    Ours(&'static [&'static str]),
    /// The C programs of this file, as [`super::loader`] knows them.
    C(&'static str, &'static str),
    /// Another program, with its arguments.
    Other(&'static [&'static str]),
}

/// Where its lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    Null,
    File,
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) tool: Tool,
    pub(super) sink: Sink,
}

impl Subject {
    /// One that writes to a file.
    pub(super) const fn new(name: &'static str, tool: Tool) -> Self {
        Self {
            name,
            tool,
            sink: Sink::File,
        }
    }

    /// This tool, writing to `/dev/null`.
    pub(super) const fn to_null(self) -> Self {
        Self {
            sink: Sink::Null,
            ..self
        }
    }

    /// Not just nobody.
    pub(super) const fn is_somebody(&self) -> bool {
        !matches!(self.tool, Tool::Nobody)
    }

    /// How it is started; nobody is not.
    pub(super) fn command(&self, bench: &Bench) -> Result<Option<Command>> {
        Ok(Some(match self.tool {
            Tool::Nobody => return Ok(None),
            Tool::Ours(args) => {
                let mut command = Command::new(&bench.lab.program);
                command.args(args);
                command
            }
            Tool::C(what, object) => {
                let mut command = this_program()?;
                command.args(["load", what, object]);
                command
            }
            Tool::Other(words) => {
                let (program, rest) = words.split_first().context("no program")?;
                let mut command = Command::new(program);
                command.args(rest);
                command
            }
        }))
    }

    /// Starts it and waits until it is attached and idle.
    pub(super) fn start(&self, bench: &Bench) -> Result<Option<Running>> {
        let Some(mut command) = self.command(bench)? else {
            return Ok(None);
        };
        let output = match self.sink {
            Sink::Null => PathBuf::from(NULL),
            Sink::File => bench.lab.new_path("lines"),
        };
        let errors = bench.lab.new_path("stderr");
        let child = command
            .stdin(Stdio::piped())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        let mut running = Running {
            ends_with_input: matches!(self.tool, Tool::C(..)),
            child,
            output,
            errors,
        };
        running.attached().with_context(|| self.name)?;
        Ok(Some(running))
    }
}

/// A tool that runs. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    /// When its standard input does; else when it is told to.
    ends_with_input: bool,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Running {
    fn attached(&mut self) -> Result<()> {
        loop {
            ensure!(
                self.child.try_wait()?.is_none(),
                "it has ended: {}",
                fs::read_to_string(&self.errors)?.trim()
            );
            let held = bpf::held_by(self.child.id())?;
            if held.iter().any(|(kind, _)| *kind == Kind::Program) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.idle()
    }

    /// Waits until it has nothing more to do.
    pub(super) fn idle(&self) -> Result<()> {
        let mut before = self.cpu_ns()?;
        loop {
            thread::sleep(QUIET);
            let now = self.cpu_ns()?;
            if now - before < IDLE_NS {
                return Ok(());
            }
            before = now;
        }
    }

    /// The processor time of all its threads, in the kernel and outside, those that have
    /// ended included.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        cpu_ns(self.child.id())
    }

    /// Its programs.
    pub(super) fn programs(&self) -> Result<Vec<ProgramInfo>> {
        bpf::programs(&bpf::held_by(self.child.id())?)
    }

    /// The most memory it ever had, bytes, and what of it is mapped maps of the kernel.
    pub(super) fn memory(&self) -> Result<(u64, u64)> {
        let pid = self.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| kib(line, "VmHWM:"));
        let mut maps = 0;
        let mut is_map = false;
        for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
            if let Some(size) = kib(line, "Rss:") {
                maps += if is_map { size } else { 0 };
            } else if !line.split(' ').any(|word| word.ends_with(':')) {
                is_map = line.ends_with("bpf-map");
            }
        }
        Ok((peak.context("no peak")?, maps))
    }

    /// Stops it where it is, or lets it go on.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(rustix::process::kill_process(
            Pid::from_child(&self.child),
            signal,
        )?)
    }

    /// Ends it; what it wrote.
    pub(super) fn stop(mut self) -> Result<String> {
        if self.ends_with_input {
            drop(self.child.stdin.take());
        } else {
            self.signal(Signal::INT)?;
        }
        self.child.wait()?;
        if self.output.as_path() == Path::new(NULL) {
            return Ok(String::new());
        }
        let text = fs::read(&self.output)?;
        fs::remove_file(&self.output)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of use only when a measurement failed half-way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time of all threads of a process, those that have ended included.
pub(super) fn cpu_ns(pid: u32) -> Result<u64> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to the clock that it is given.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    ensure!(error == 0, io::Error::from_raw_os_error(error));
    // SAFETY: it writes to the time that it is given.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(status == 0, io::Error::last_os_error());
    let (seconds, rest) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    Ok(seconds * 1_000_000_000 + rest)
}

/// The size a line of `/proc` tells under this name, bytes.
fn kib(line: &str, name: &str) -> Option<u64> {
    let size = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
    Some(size.parse::<u64>().ok()? * 1_024)
}

/// What port-monitor says at its end of the events it has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) shown: u64,
    pub(super) lost: u64,
}

impl Account {
    /// From the last line of a table, or of JSON.
    pub(super) fn of(text: &str) -> Result<Self> {
        let line = text
            .lines()
            .rev()
            .find(|line| line.starts_with("# seen ") || line.starts_with('{'))
            .context("no account")?;
        let number = |name: &str| -> Result<u64> {
            let json = format!("\"{name}\":");
            let word = format!("{name} ");
            let rest = line
                .split_once(&json)
                .or_else(|| line.split_once(&word))
                .map(|(_, rest)| rest)
                .with_context(|| format!("no {name} in {line}"))?;
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            Ok(digits.unwrap_or_default().parse()?)
        };
        Ok(Self {
            shown: number("shown")?,
            lost: number("lost")?,
        })
    }
}
