//! A running `port-monitor watch` and the command it watches.

use std::{
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde_json::Value;

use crate::{
    bpf::{self, Objects},
    program::{PATIENCE, port_monitor},
};

/// A bash loop that tries to connect `count` times to a port where nobody
/// listens; each attempt is two events.
pub(crate) fn attempts(count: u64) -> String {
    format!("for ((i = 0; i < {count}; i++)); do : >/dev/tcp/127.0.0.1/1; done 2>/dev/null")
}

/// A monitor that is attached, with JSON output.
#[derive(Debug)]
pub(crate) struct Monitor {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
    process: OwnedFd,
    held: Objects,
    /// Dropped when the monitor has ended in time.
    _watchdog: Sender<()>,
}

impl Monitor {
    /// Starts `watch` on a bash `script`, which waits for [`Monitor::go`] first.
    pub(crate) fn start(args: &[&str], script: &str) -> Self {
        let script = format!("read go; {script}");
        let mut child = port_monitor(["watch", "-o", "json"])
            .args(args)
            .args(["--", "bash", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let watchdog = watch_over(process.try_clone().unwrap());
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let Some(header) = stdout.next() else {
            let mut told = String::new();
            stderr.read_to_string(&mut told).unwrap();
            panic!("no header: {told}");
        };
        let header = header.unwrap();
        assert_eq!(action(&header), "start");
        let held = bpf::held_by(child.id()).unwrap();
        assert!(!held.is_empty(), "an attached monitor holds BPF objects");
        Self {
            child,
            stdout,
            stderr,
            process,
            held,
            _watchdog: watchdog,
        }
    }

    /// Lets the command go on, at its start or where it reads a line.
    pub(crate) fn go(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"go\n").unwrap();
    }

    /// Waits until the command has said `word`.
    pub(crate) fn hear(&mut self, word: &str) {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word);
    }

    /// Waits until the command has said `word` and a number.
    pub(crate) fn hear_number(&mut self, word: &str) -> i32 {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        let number = line.strip_prefix(word).expect(&line);
        number.trim().parse().unwrap()
    }

    /// The next line of the stream.
    pub(crate) fn next_line(&mut self) -> String {
        self.stdout.next().expect("the stream ended").unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.process, signal).unwrap();
    }

    /// Whether it ends within `limit`.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap();
        let mut fds = [PollFd::new(&self.process, PollFlags::IN)];
        poll(&mut fds, Some(&limit)).unwrap() == 1
    }

    /// Reads the stream to its end, which the monitor must find by itself.
    pub(crate) fn finish(mut self) -> Run {
        let lines = self.stdout.by_ref().map(Result::unwrap).collect();
        self.end(lines)
    }

    /// Waits for the end before what is left in the pipe is read.
    pub(crate) fn finish_unread(self) -> Run {
        assert!(self.ends_within(PATIENCE));
        self.finish()
    }

    /// Closes the reading end of the stream, and waits for the end.
    pub(crate) fn finish_closed(mut self) -> Run {
        let (reader, _) = std::io::pipe().unwrap();
        self.stdout = BufReader::new(ChildStdout::from(OwnedFd::from(reader))).lines();
        self.finish()
    }

    /// The end of it all; whatever the monitor held must be gone.
    fn end(mut self, lines: Vec<String>) -> Run {
        // A command that outlives its monitor ends by this, and closes the rest.
        self.child.stdin = None;
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        bpf::await_gone(&self.held).unwrap();
        Run {
            status,
            lines,
            stderr,
        }
    }
}

/// Ends the process when it has not ended in time.
fn watch_over(process: OwnedFd) -> Sender<()> {
    let (watchdog, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            // The test then sees that it was killed.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    });
    watchdog
}

/// All that a monitor said after its header.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) lines: Vec<String>,
    pub(crate) stderr: String,
}

impl Run {
    /// The events among the lines.
    pub(crate) fn event_count(&self) -> u64 {
        let events = self.lines.iter().filter(|line| is_event(line));
        events.count().try_into().unwrap()
    }

    /// The last line, after an end with this exit status and nothing on standard
    /// error.
    pub(crate) fn summary(&self, code: i32) -> Summary {
        assert_eq!((self.status.code(), &*self.stderr), (Some(code), ""));
        let last = self.lines.last().unwrap();
        assert_eq!(action(last), "summary");
        let summary: Value = serde_json::from_str(last).unwrap();
        Summary(summary["port_monitor"].clone())
    }
}

/// The final account.
#[derive(Debug)]
pub(crate) struct Summary(Value);

impl Summary {
    /// A number in it.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.0[name].as_u64()
    }

    /// The accounting law holds.
    pub(crate) fn assert_adds_up(&self) {
        assert_eq!(self.0["adds_up"], true, "{self:?}");
    }
}

/// `event.action` of a line.
pub(crate) fn action(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["event"]["action"].as_str().unwrap().to_owned()
}

/// Whether it is a whole line of an event.
fn is_event(line: &str) -> bool {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    line["event"]["dataset"] == "port_monitor.connection"
}
