//! How soon a monitor shows what happens, and whether what it could not show in time
//! is accounted for.

use std::{
    process::Stdio,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Bench, Row,
    cost::named,
    figure,
    tool::{Account, Subject, Tool},
};
use crate::{
    flood,
    monitor::forward,
    process::{PATIENCE, terminal},
};

/// Connections while the reader is stopped: more than its ring has room for.
const STALLED: u64 = 20_020;
/// Connections whose events are waited for, in each run.
const AWAITED: u32 = 20;
/// Between two connects of who waits for a first line.
const PAUSE: Duration = Duration::from_millis(2);

/// Lines with the times they were read at.
type Lines = Receiver<(Instant, String)>;

/// From the start to the first line, from a connection to its line, and what becomes
/// of events that nobody reads.
pub(super) fn measure(bench: &Bench) -> Result<()> {
    const STARTED: [&str; 5] = [
        "table to a file",
        "default run",
        "tcplife",
        "tcptracer",
        "tcpconnect",
    ];
    for run in 0..bench.runs {
        starts(bench, run, &STARTED)?;
    }
    for run in 0..bench.runs {
        let row = Row {
            group: "latency",
            subject: "JSON to a pipe",
            run,
        };
        let mut times = latencies(bench)?;
        times.sort_unstable();
        let longest = times.last().context("no event")?;
        row.tell("median", "ms", ms(times[times.len() / 2]))?;
        row.tell("longest", "ms", ms(*longest))?;
    }
    for run in 0..bench.runs {
        stalled(bench, run)?;
    }
    Ok(())
}

/// From the start of each to its first line.
pub(super) fn starts(bench: &Bench, run: u32, names: &[&str]) -> Result<()> {
    for name in names {
        let row = Row {
            group: "start",
            subject: name,
            run,
        };
        let time = first_line(bench, named(name)?)?;
        row.tell("first line", "ms", ms(time))?;
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Reads lines on a thread of its own, until a line is about one of our connections.
fn next_of_ours(lines: &Lines) -> Result<Instant> {
    loop {
        let (at, line) = lines.recv_timeout(PATIENCE).context("no line")?;
        if line.contains("127.0.0.1") {
            return Ok(at);
        }
    }
}

/// From the start of a tool on a terminal to its first line about a connection, of which
/// there are many.
fn first_line(bench: &Bench, subject: &Subject) -> Result<Duration> {
    let (master, slave) = terminal()?;
    let (send, lines) = mpsc::channel();
    thread::spawn(move || forward(master, |_| true, &send));
    let mut command = subject.command(bench)?.context("nobody")?;
    let has_come = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !has_come.load(Ordering::Relaxed) {
                flood::connect(&flood::Args::of_one_thread(1))?;
                thread::sleep(PAUSE);
            }
            anyhow::Ok(())
        });
        let begin = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(slave)
            .stderr(Stdio::null())
            .spawn();
        let first = child
            .context("start it")
            .and_then(|child| Ok((child, next_of_ours(&lines)?)));
        has_come.store(true, Ordering::Relaxed);
        let (mut child, at) = first?;
        kill_process(Pid::from_child(&child), Signal::INT)?;
        child.wait()?;
        Ok(at - begin)
    })
}

/// From the return of a connect to its line in a pipe.
fn latencies(bench: &Bench) -> Result<Vec<Duration>> {
    const ARGS: &[&str] = &["--output", "json", "--events", "connect"];
    let subject = Subject::new("JSON to a pipe", Tool::Ours(ARGS));
    let mut child = subject
        .command(bench)?
        .context("nobody")?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let (send, lines) = mpsc::channel();
    let stdout = child.stdout.take().context("no stdout")?;
    thread::spawn(move || forward(stdout, |_| true, &send));
    // Its header.
    lines.recv_timeout(PATIENCE).context("no header")?;
    let mut times = Vec::new();
    for _ in 0..AWAITED {
        thread::sleep(Duration::from_secs(1));
        flood::connect(&flood::Args::of_one_thread(1))?;
        let connected = Instant::now();
        times.push(next_of_ours(&lines)?.saturating_duration_since(connected));
    }
    kill_process(Pid::from_child(&child), Signal::INT)?;
    child.wait()?;
    Ok(times)
}

/// Everything that is neither shown nor told to be lost, of what happened while the
/// reader was stopped.
fn stalled(bench: &Bench, run: u32) -> Result<()> {
    let subject = named("table to a file")?;
    let running = subject.start(bench)?.context("nobody")?;
    running.signal(Signal::STOP)?;
    let connections = flood::connect(&flood::Args::of_one_thread(STALLED))?;
    running.signal(Signal::CONT)?;
    running.idle()?;
    let account = Account::of(&running.stop()?)?;
    let row = Row {
        group: "stalled",
        subject: subject.name,
        run,
    };
    row.tell("shown", "events", figure(account.shown))?;
    row.tell("lost", "events", figure(account.lost))?;
    let told = account.shown + account.lost;
    row.tell(
        "unaccounted",
        "events",
        figure(told.abs_diff(2 * connections)),
    )
}
