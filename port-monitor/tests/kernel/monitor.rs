//! The monitor under test as a process: starting it, stopping it, and all it
//! said.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::{
    backend::Backend,
    json::{Line, Summary},
    lab::Lab,
    process::{PATIENCE, wait_until},
    workload::{RUNNER_PID, runner_pid},
};

/// Exit status: cannot attach.
pub(crate) const CANNOT_ATTACH: i32 = 3;

/// The monitor does not run on this kernel in this way, and says why.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// A `port-monitor watch` to be started.
#[derive(Debug)]
pub(crate) struct Watch {
    command: Command,
    stderr: PathBuf,
}

impl Watch {
    /// JSON output of every kind of event on `backend`.
    pub(crate) fn json(lab: &Lab, backend: Backend) -> Self {
        Self::new(lab, backend.name(), "json")
    }

    /// Any backend and output.
    pub(crate) fn new(lab: &Lab, backend: &str, output: &str) -> Self {
        Self::command(lab, "watch", backend, output)
    }

    /// An audit, with JSON output.
    pub(crate) fn audit(lab: &Lab, backend: Backend) -> Self {
        Self::command(lab, "audit", backend.name(), "json")
    }

    fn command(lab: &Lab, subcommand: &str, backend: &str, output: &str) -> Self {
        let mut command = Command::new(&lab.program);
        command
            .args([subcommand, "--output", output, "--backend", backend])
            .env(RUNNER_PID, runner_pid());
        Self {
            command,
            stderr: lab.new_path("stderr"),
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.command.args(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The kernel refuses it perf events, and with them probes, as the sandbox of the service
    /// does.
    pub(crate) fn without_perf_events(mut self) -> Self {
        // SAFETY: it makes one system call, of what is on its stack.
        unsafe { self.command.pre_exec(refuse_perf_events) };
        self
    }

    /// Starts it and waits until it is attached: until its header is out.
    pub(crate) fn start(self) -> Result<Monitor> {
        self.start_keeping(|_| true)
    }

    /// As [`Watch::start`], keeping only some lines for later; the first one is
    /// the header.
    pub(crate) fn start_keeping(
        self,
        keeps: impl FnMut(&str) -> bool + Send + 'static,
    ) -> Result<Monitor> {
        let mut monitor = self.spawn(keeps)?;
        if let Some((_, text)) = monitor.next_line(PATIENCE)? {
            monitor.first_line = text;
            return Ok(monitor);
        }
        monitor.why_not()
    }

    /// As [`Watch::start`], writing to a file: a reader that is short of time
    /// loses nothing.
    pub(crate) fn start_into_file(self, lab: &Lab) -> Result<Monitor> {
        let path = lab.new_path("json");
        let mut monitor = self.arg("--output-file").arg(&path).spawn(|_| true)?;
        wait_until(|| {
            if let Ok(file) = fs::File::open(&path) {
                monitor.first_line.clear();
                BufReader::new(file).read_line(&mut monitor.first_line)?;
            }
            let has_ended = monitor.child.try_wait()?.is_some();
            Ok(has_ended || monitor.first_line.ends_with('\n'))
        })?;
        if !monitor.first_line.ends_with('\n') {
            return monitor.why_not();
        }
        monitor.output = Some(path);
        Ok(monitor)
    }

    fn spawn(mut self, keeps: impl FnMut(&str) -> bool + Send + 'static) -> Result<Monitor> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&self.stderr)?)
            .spawn()
            .with_context(|| format!("start {}", self.command.get_program().display()))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || forward(stdout, keeps, &send));
        Ok(Monitor {
            child,
            lines,
            stderr: self.stderr,
            first_line: String::new(),
            output: None,
        })
    }
}

/// From here on `perf_event_open` fails with EPERM, in this process and its children.
#[expect(
    clippy::cast_possible_truncation,
    reason = "numbers of system calls and codes are small"
)]
fn refuse_perf_events() -> io::Result<()> {
    const NUMBER: u32 = libc::SYS_perf_event_open as u32;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut steps = [
        // The number of the call comes first.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, NUMBER),
        step(libc::BPF_RET | libc::BPF_K, 0, REFUSE),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps outlive the call, which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads the stream to its end, whatever the runner is doing: the monitor must
/// never wait for us. What is not UTF-8 ends it early.
pub(crate) fn forward(
    stdout: impl Read,
    mut keeps: impl FnMut(&str) -> bool,
    lines: &Sender<(Instant, String)>,
) {
    let mut reader = BufReader::with_capacity(1 << 16, stdout);
    let mut line = String::new();
    while matches!(reader.read_line(&mut line), Ok(1..)) {
        let text = line.trim_end_matches('\n');
        if keeps(text) && lines.send((Instant::now(), text.to_owned())).is_err() {
            break;
        }
        line.clear();
    }
}

/// A running monitor. Dropping it lets go of the command it runs, whose
/// standard input is the monitor's.
#[derive(Debug)]
pub(crate) struct Monitor {
    child: Child,
    lines: Receiver<(Instant, String)>,
    stderr: PathBuf,
    first_line: String,
    /// Where its lines are, unless on its standard output.
    output: Option<PathBuf>,
}

impl Monitor {
    /// Why there is no header.
    fn why_not(mut self) -> Result<Self> {
        let run = self.finish()?;
        if run.status.code() == Some(CANNOT_ATTACH) {
            return Err(Refused(run.stderr.trim().to_owned()).into());
        }
        bail!("no header, {}: {}", run.status, run.stderr.trim())
    }

    /// The stream's first line.
    pub(crate) fn header(&self) -> Result<Line> {
        let header = Line::parse(&self.first_line)?;
        ensure!(
            header.action() == "start",
            "the first line is no header: {}",
            header.text
        );
        Ok(header)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("send {signal:?}"))
    }

    /// Writes to the standard input of the command it runs.
    pub(crate) fn tell_command(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        Ok(stdin.write_all(text.as_bytes())?)
    }

    /// The next line and when it came; `None` at the stream's end.
    pub(crate) fn next_line(&self, limit: Duration) -> Result<Option<(Instant, String)>> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the monitor was silent for {limit:?}"),
        }
    }

    /// SIGTERM, then everything until its end.
    pub(crate) fn stop(&mut self) -> Result<Run> {
        self.signal(Signal::TERM)?;
        self.finish()
    }

    /// Everything until its end, which it must find by itself.
    pub(crate) fn finish(&mut self) -> Result<Run> {
        let mut lines = Vec::new();
        while let Some((_, text)) = self.next_line(PATIENCE)? {
            lines.push(text);
        }
        // Waiting closes standard input, which would release the workloads.
        let stdin = self.child.stdin.take();
        let status = self.child.wait().context("wait for the monitor")?;
        self.child.stdin = stdin;
        if let Some(path) = &self.output {
            let text = fs::read_to_string(path).context("read the output")?;
            lines.extend(text.lines().skip(1).map(str::to_owned));
        }
        Ok(Run {
            status,
            stderr: fs::read_to_string(&self.stderr)?,
            lines,
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Of use only when a case failed half-way; the process is then ended.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// All a monitor said, after the header where it was read before.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    pub(crate) lines: Vec<String>,
}

impl Run {
    /// The run ended with this exit status.
    pub(crate) fn expect_code(&self, code: i32) -> Result<()> {
        ensure!(
            self.status.code() == Some(code),
            "{}, not exit status {code}: {}",
            self.status,
            self.stderr.trim()
        );
        Ok(())
    }

    /// The run was ended by this signal.
    pub(crate) fn expect_signal(&self, signal: Signal) -> Result<()> {
        ensure!(
            self.status.signal() == Some(signal.as_raw()),
            "{}, not {signal:?}",
            self.status
        );
        Ok(())
    }

    /// The events between header and summary, and the summary.
    pub(crate) fn read(&self) -> Result<(Vec<Line>, Summary)> {
        let mut lines = self
            .lines
            .iter()
            .enumerate()
            .map(|(number, text)| {
                Ok(Line {
                    number,
                    ..Line::parse(text)?
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let last = lines.pop().context("no line after the header")?;
        ensure!(
            last.action() == "summary",
            "the last line is no summary: {}",
            last.text
        );
        Ok((lines, Summary::of(&last)?))
    }
}
