//! Many connections open at once: what they cost, and what becomes of those the
//! kernel's table has no room for.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{
    backend::Backend,
    json::{Line, Summary},
    lab::Lab,
    monitor::{Monitor, Watch},
    process::PATIENCE,
    report::Verdict,
    scenarios::crowd::{self, LARGE, SHARE, SMALL, shares},
    workload::Workload,
};

/// Exit status: events were lost, with `--fail-on-loss`.
const EVENTS_LOST: i32 = 4;
/// Connections the table of `table_full` has room for.
const ROOM: u64 = 32;

/// What the monitor may take, all in all: this, and so much for each connection.
const BASE_BYTES: u64 = 64 << 20;
const BYTES_EACH: u64 = 200;

/// Lines of a stream by their actions; of the ends, those that name the peer.
#[derive(Debug, Default)]
struct Counts {
    connect: u64,
    connected: u64,
    accept: u64,
    close: u64,
    close_with_peer: u64,
}

impl Counts {
    /// Counts a line; whether it is the last accept or the last end of a share of
    /// connections, or none of these.
    fn take(&mut self, line: &str) -> bool {
        let share = u64::from(SHARE);
        let all = u64::from(LARGE);
        let action = line.split_once(r#""action":""#).map(|(_, rest)| rest);
        match action.and_then(|rest| rest.split('"').next()) {
            Some("connect") => self.connect += 1,
            Some("connected") => self.connected += 1,
            Some("accept") => {
                self.accept += 1;
                return self.accept == all || self.accept.is_multiple_of(share);
            }
            Some("close") => {
                self.close += 1;
                self.close_with_peer += u64::from(line.contains(r#""peer_process":"#));
                return self.close == 2 * all || self.close.is_multiple_of(2 * share);
            }
            Some("listen" | "unlisten") => {}
            _ => return true,
        }
        false
    }
}

/// Memory of a process, kB of `/proc/PID/status`.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// The most that was ever resident, shared mappings included.
    peak: u64,
    resident: u64,
    /// The rest is files and shared mappings: the program, the ring, the counters.
    anonymous: u64,
}

impl Memory {
    fn of(monitor: &Monitor) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid()))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
            value
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("no {name} in {status}"))
        };
        Ok(Self {
            peak: field("VmHWM:")?,
            resident: field("VmRSS:")?,
            anonymous: field("RssAnon:")?,
        })
    }
}

/// Starts a crowd and its monitor, which keeps the lines that `keeps` chooses.
fn watch(
    lab: &Lab,
    name: &str,
    backend: &str,
    room: u64,
    keeps: impl FnMut(&str) -> bool + Send + 'static,
) -> Result<(Workload, Monitor)> {
    let mut workload = lab.workload(name)?;
    workload.hear("ready")?;
    let mut watch = Watch::new(lab, backend, "json")
        .arg("--fail-on-loss")
        .arg("--max-connections")
        .arg((2 * room).to_string());
    if lab.native {
        watch = watch.arg("--comm").arg(crowd::name(workload.pid()));
    }
    let monitor = watch.start_keeping(keeps)?;
    Ok((workload, monitor))
}

/// Lets the crowd of `live` go on, share by share: what each does has to be in
/// the stream before the next one begins.
fn advance(workload: &mut Workload, monitor: &Monitor, word: &str, action: &str) -> Result<()> {
    for _ in shares(LARGE) {
        workload.go()?;
        workload.hear(word)?;
        let (_, text) = monitor.next_line(PATIENCE)?.context("the stream ended")?;
        let line = Line::parse(&text)?;
        ensure!(line.action() == action, "not the last {action}: {text}");
    }
    Ok(())
}

/// 100,000 connections are open at once: little memory, and nothing is missed.
pub(super) fn live(lab: &Lab) -> Result<Verdict> {
    let connections = u64::from(LARGE);
    let counts = std::sync::Arc::new(std::sync::Mutex::new(Counts::default()));
    let counter = counts.clone();
    let keeps = move |line: &str| {
        let mut counts = counter.lock();
        counts.as_mut().is_ok_and(|counts| counts.take(line))
    };
    let (mut workload, mut monitor) = watch(lab, "live-100000", "auto", 131_072, keeps)?;
    let idle = Memory::of(&monitor)?;
    advance(&mut workload, &monitor, "opened", "accept")?;
    let open = Memory::of(&monitor)?;
    advance(&mut workload, &monitor, "ended", "close")?;
    workload.hear("done")?;
    let ended = Memory::of(&monitor)?;
    let run = monitor.stop()?;
    run.expect_code(0)?;
    let (_, summary) = run.read()?;
    let counts = counts.lock().map(|counts| format!("{counts:?}"));
    let all = Counts {
        connect: connections,
        connected: connections,
        accept: connections,
        close: 2 * connections,
        close_with_peer: 2 * connections,
    };
    ensure!(
        counts
            .as_ref()
            .is_ok_and(|counts| *counts == format!("{all:?}")),
        "{counts:?}, {summary:?}"
    );
    expect_whole(&summary, 0)?;
    let limit = (BASE_BYTES + BYTES_EACH * connections) / 1_024;
    ensure!(
        ended.peak <= limit,
        "{ended:?}, but the limit is {limit} kB"
    );
    let each = (open.anonymous.saturating_sub(idle.anonymous) * 1_024) / connections;
    Ok(Verdict::Pass(format!(
        "kB resident {} idle, {} open, {} at most (limit {limit}); {each} bytes of anonymous \
         memory for each connection",
        idle.resident, open.resident, ended.peak
    )))
}

/// Connections beyond the table's room are shown and counted; their outcome and
/// their end cannot be.
pub(super) fn table_full(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let connections = u64::from(SMALL);
    let (mut workload, mut monitor) = watch(lab, "live-100", backend.name(), ROOM, |_| true)?;
    for word in ["opened", "ended"] {
        workload.go()?;
        workload.hear(word)?;
    }
    workload.hear("done")?;
    let run = monitor.stop()?;
    run.expect_code(EVENTS_LOST)?;
    let (lines, summary) = run.read()?;
    let count = |action| lines.iter().filter(|line| line.action() == action).count() as u64;
    let found = ["connect", "accept", "connected", "close"].map(count);
    ensure!(
        found == [connections, connections, ROOM, 2 * ROOM],
        "attempts, accepts, outcomes and ends are {found:?}, {summary:?}"
    );
    expect_whole(&summary, 2 * (connections - ROOM))?;
    Ok(Verdict::Pass(format!(
        "{ROOM} of {connections} connections remembered"
    )))
}

fn expect_whole(summary: &Summary, table_full: u64) -> Result<()> {
    ensure!(
        summary.adds_up && summary.lost == 0 && summary.table_full == table_full,
        "not {table_full} times full: {summary:?}"
    );
    Ok(())
}
