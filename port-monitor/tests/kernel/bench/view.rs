//! What the live view costs beside open connections: beside another one, and `ss` in a loop.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, recv, send},
    termios::{Winsize, tcsetwinsize},
};

use super::{
    Bench, Row, figure,
    scale::{self, Pair},
    tool::{Subject, Tool, cpu_ns},
};
use crate::process::terminal;

/// How many connections are open.
const OPEN: [(&str, usize); 3] = [
    ("100 open", 100),
    ("10,000 open", 10_000),
    ("100,000 open", 100_000),
];
/// A terminal as people have it.
const SIZE: (u16, u16) = (120, 40);
/// From the start of a view until it has found what is open, and once more until it has seen
/// each of them carry something.
const SETTLING: Duration = Duration::from_secs(12);
/// How long a view, or the loop, is looked at.
const WINDOW: Duration = Duration::from_secs(10);
/// How often connections carry something, and how many of them then, and how much.
const TURN: Duration = Duration::from_millis(100);
const CARRYING: usize = 10;
const BYTES: usize = 1_024;
/// Keys whose answer is waited for, and what ends it.
const KEYS: u32 = 9;
const DOWN: &[u8] = b"\x1b[B";
const STILL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// A view on a terminal.
struct View {
    subject: Subject,
    /// What stands before and behind the number of connections on its screen.
    rows: (&'static str, &'static str),
}

const VIEWS: [View; 2] = [
    View {
        subject: Subject::new(
            "port-monitor top",
            Tool::Ours(&["top", "--color", "never", "--max-connections", "262144"]),
        ),
        rows: ("\n", " rows "),
    },
    View {
        subject: Subject::new(
            "rustnet",
            // As its screen is by default, without a name server that is not there.
            Tool::Other(&[
                "/bin/rustnet",
                "-i",
                "lo",
                "--show-localhost",
                "--no-resolve-dns",
            ]),
        ),
        rows: ("TCP Connections: ", "\n"),
    },
];
const LOOP: &str = "ss -tanp";

pub(super) fn measure(bench: &Bench) -> Result<()> {
    scale::raise_limit()?;
    let mut held = Held::default();
    for (group, count) in OPEN {
        scale::hold(&mut held.pairs, count)?;
        for run in 0..bench.runs {
            let row = |subject| Row {
                group,
                subject,
                run,
            };
            for view in &VIEWS {
                beside(bench, &mut held, view, row(view.subject.name))?;
            }
            in_a_loop(&mut held, row(LOOP))?;
        }
    }
    Ok(())
}

/// The connections, of which a few carry something at a time.
#[derive(Default)]
struct Held {
    pairs: Vec<Pair>,
    next: usize,
}

impl Held {
    fn carry(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.next = (self.next + 1) % self.pairs.len();
            let (client, server) = &self.pairs[self.next];
            send(client, &[0; BYTES], SendFlags::empty()).context("send")?;
            let (taken, _) = recv(server, &mut [0; BYTES][..], RecvFlags::WAITALL)?;
            ensure!(taken == BYTES, "{taken} bytes have come");
        }
        Ok(())
    }

    /// Some time passes, in which `look` is had for each part of it.
    fn pass(&mut self, time: Duration, mut look: impl FnMut(Instant) -> Result<()>) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = Instant::now() + TURN;
            self.carry(CARRYING)?;
            look(next.min(end))?;
        }
        Ok(())
    }
}

/// What is drawn on a terminal.
struct Screen {
    terminal: File,
    drawn: Vec<u8>,
    last: Instant,
}

impl Screen {
    /// Takes what is drawn until then.
    fn watch(&mut self, until: Instant) -> Result<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left)?;
            if poll(
                &mut [PollFd::new(&self.terminal, PollFlags::IN)],
                Some(&left),
            )? == 0
            {
                return Ok(());
            }
            let mut bytes = [0; 4_096];
            let count = self.terminal.read(&mut bytes).context("it is gone")?;
            self.drawn.extend_from_slice(&bytes[..count]);
            self.last = Instant::now();
        }
    }

    /// How long it is from a key until the screen is as it should be.
    fn answer(&mut self) -> Result<Duration> {
        // None is under way.
        while self.last.elapsed() < STILL {
            self.watch(Instant::now() + STILL)?;
        }
        let (begin, before) = (Instant::now(), self.drawn.len());
        self.terminal.write_all(DOWN)?;
        while self.drawn.len() == before || self.last.elapsed() < STILL {
            ensure!(begin.elapsed() < PATIENCE, "a key has no answer");
            self.watch(Instant::now() + STILL / 4)?;
        }
        Ok(self.last - begin)
    }

    fn shows(&self) -> String {
        let mut parser = vt100::Parser::new(SIZE.1, SIZE.0, 0);
        parser.process(&self.drawn);
        parser.screen().contents()
    }
}

impl View {
    fn start(&self, bench: &Bench) -> Result<(Screen, Child)> {
        let (master, slave) = terminal()?;
        let size = Winsize {
            ws_col: SIZE.0,
            ws_row: SIZE.1,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size)?;
        let mut command = self.subject.command(bench)?.context("nobody")?;
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(slave.try_clone()?)
            .stdout(slave)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", self.subject.name))?;
        let screen = Screen {
            terminal: master,
            drawn: Vec::new(),
            last: Instant::now(),
        };
        Ok((screen, child))
    }

    /// The connections that it knows of.
    fn rows(&self, screen: &str) -> Result<u64> {
        let (before, behind) = self.rows;
        let found = screen.split(before).skip(1).find_map(|rest| {
            let (number, _) = rest.split_once(behind)?;
            number.trim().parse().ok()
        });
        found.with_context(|| format!("no number of connections:\n{screen}"))
    }
}

fn beside(bench: &Bench, held: &mut Held, view: &View, row: Row<'_>) -> Result<()> {
    let (mut screen, mut child) = view.start(bench)?;
    held.pass(SETTLING, |until| screen.watch(until))
        .with_context(|| format!("{} has ended", view.subject.name))?;
    // Who sees packets alone knows of all of them now.
    held.carry(held.pairs.len())?;
    held.pass(SETTLING, |until| screen.watch(until))?;
    let (begin, before) = (Instant::now(), cpu_ns(child.id())?);
    held.pass(WINDOW, |until| screen.watch(until))?;
    let cpu = cpu_ns(child.id())? - before;
    let seconds = begin.elapsed().as_secs_f64();
    row.tell("CPU a second", "instructions", figure(cpu) / seconds)?;
    let mut answers = Vec::new();
    for key in 1..=KEYS {
        // At all kinds of times between two frames of its own.
        held.pass(STILL * key * 3, |until| screen.watch(until))?;
        answers.push(screen.answer().context(view.subject.name)?);
    }
    row.tell("a frame", "ms", middle(answers))?;
    row.tell("connections", "", figure(view.rows(&screen.shows())?))?;
    screen.terminal.write_all(b"q")?;
    let begin = Instant::now();
    while child.try_wait()?.is_none() {
        // Some ask whether that was meant.
        if begin.elapsed() > PATIENCE {
            child.kill()?;
        }
        // Its terminal is gone before it is.
        if screen.watch(Instant::now() + TURN).is_err() {
            child.wait()?;
        }
    }
    Ok(())
}

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

/// `ss`, once a second, or as often as it is ready.
fn in_a_loop(held: &mut Held, row: Row<'_>) -> Result<()> {
    const EVERY: Duration = Duration::from_secs(1);
    let (begin, before) = (Instant::now(), children_us()?);
    let mut runs = Vec::new();
    while begin.elapsed() < WINDOW {
        let started = Instant::now();
        let mut words = LOOP.split(' ');
        let status = Command::new(words.next().context("no program")?)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("start ss")?;
        ensure!(status.success(), "ss: {status}");
        runs.push(started.elapsed());
        held.pass(EVERY.saturating_sub(started.elapsed()), |until| {
            thread::sleep(until.saturating_duration_since(Instant::now()));
            Ok(())
        })?;
    }
    let cpu = (children_us()? - before) * 1_000;
    let seconds = begin.elapsed().as_secs_f64();
    row.tell("CPU a second", "instructions", figure(cpu) / seconds)?;
    row.tell("a frame", "ms", middle(runs))
}

/// The processor time of the children that have ended, microseconds.
fn children_us() -> Result<u64> {
    // SAFETY: all zero bytes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for what was used.
    let status = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    ensure!(status == 0, std::io::Error::last_os_error());
    let us = |time: libc::timeval| {
        time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_usec.cast_unsigned()
    };
    Ok(us(usage.ru_utime) + us(usage.ru_stime))
}
