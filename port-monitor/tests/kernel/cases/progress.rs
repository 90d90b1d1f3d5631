//! What open connections have carried so far, with `--progress`.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    backend::Backend,
    json::Line,
    lab::Lab,
    monitor::{Monitor, Watch},
    process::PATIENCE,
    report::Verdict,
    scenarios::{
        closing::{FROM_CLIENT, FROM_SERVER},
        crowd,
    },
    workload::Workload,
};

/// A look takes a hundredth of a processor at most, and telling what it shows about as much
/// again on a machine that does nothing else. Where others keep the processors busy both cost
/// several times as much: 10 % was seen. Without a limit a look each 100 ms would take most of
/// one.
const SHARE: f64 = 0.25;

/// Two looks at each state of a connection tell the same, what is told only grows, and the
/// last that is told is the end, which has all of it.
pub(super) fn adds_up(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let (mut workload, mut monitor) = start(lab, backend, &[])?;
    let mut lines = Vec::new();
    workload.go()?;
    workload.hear("sent")?;
    let carried = (FROM_CLIENT as u64, 0);
    await_progress(&monitor, &mut lines, carried, 2)?;
    workload.go()?;
    workload.hear("answered")?;
    let carried = (FROM_CLIENT as u64, FROM_SERVER as u64);
    await_progress(&monitor, &mut lines, carried, 2)?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.stop()?;
    run.expect_code(0)?;
    let (rest, summary) = run.read()?;
    ensure!(summary.adds_up && summary.lost == 0, "{summary:?}");
    lines.extend(rest);
    let ends = by_id(&lines);
    let mut told = 0;
    for lines in ends.values() {
        told += usize::from(check_end(lines)?);
    }
    // Three connections, each with two ends.
    ensure!(told == 6, "progress of {told} ends of connections");
    Ok(Verdict::pass())
}

/// What the filters keep back has no progress either.
pub(super) fn filtered(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let (mut workload, mut monitor) = start(lab, backend, &["--direction", "out"])?;
    let mut lines = Vec::new();
    workload.go()?;
    workload.hear("sent")?;
    await_progress(&monitor, &mut lines, (FROM_CLIENT as u64, 0), 2)?;
    for word in ["answered", "done"] {
        workload.go()?;
        workload.hear(word)?;
    }
    let (rest, summary) = monitor.stop()?.read()?;
    ensure!(summary.adds_up, "{summary:?}");
    lines.extend(rest);
    for line in lines {
        ensure!(
            line.text("network.direction") == "egress",
            "not outbound: {}",
            line.text
        );
    }
    Ok(Verdict::pass())
}

/// 10,000 connections are open and idle: looking at them takes no more than its share.
pub(super) fn of_many(lab: &Lab) -> Result<Verdict> {
    let ends = 2 * u64::from(crowd::MANY);
    let mut workload = lab.workload("live-10000")?;
    workload.hear("ready")?;
    let watch = Watch::new(lab, "auto", "json")
        .args(["--progress", "100ms", "--comm"])
        .arg(crowd::name(workload.pid()));
    let mut is_first = true;
    let mut monitor = watch.start_keeping(move |line| {
        std::mem::take(&mut is_first) || line.contains(r#""action":"progress""#)
    })?;
    for _ in crowd::shares(crowd::MANY) {
        workload.go()?;
        workload.hear("opened")?;
    }
    // Those that are open halfway are over.
    let whole = |looks: u64| {
        for _ in 0..looks * ends {
            monitor.next_line(PATIENCE)?.context("the stream ended")?;
        }
        processor_time(&monitor)
    };
    let start = std::time::Instant::now();
    let before = whole(2)?;
    let first = start.elapsed();
    let after = whole(3)?;
    let elapsed = start.elapsed().saturating_sub(first);
    let share = after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64();
    ensure!(
        share < SHARE,
        "{:.2} % of a processor, {:?} of {elapsed:?}",
        share * 100.0,
        after.saturating_sub(before)
    );
    for _ in crowd::shares(crowd::MANY) {
        workload.go()?;
        workload.hear("ended")?;
    }
    monitor.stop()?.expect_code(0)?;
    Ok(Verdict::Pass(format!(
        "{:.1} us for each of {ends} ends, {:.2} % of a processor",
        share * elapsed.as_secs_f64() * 1e6 / f64::from(u32::try_from(3 * ends)?),
        share * 100.0
    )))
}

fn start(lab: &Lab, backend: Backend, args: &[&str]) -> Result<(Workload, Monitor)> {
    let mut workload = lab.workload("progress")?;
    workload.hear("ready")?;
    let watch = Watch::json(lab, backend)
        .args(["--progress", "100ms"])
        .args(args);
    let monitor = lab.only(watch, workload.pid()).start()?;
    Ok((workload, monitor))
}

/// Reads on until so many looks have found that a client has sent and received this much.
fn await_progress(
    monitor: &Monitor,
    lines: &mut Vec<Line>,
    carried: (u64, u64),
    looks: usize,
) -> Result<()> {
    let mut found = 0;
    while found < looks {
        let (_, text) = monitor.next_line(PATIENCE)?.context("the stream ended")?;
        let line = Line::parse(&text)?;
        let is_client = line.text("network.direction") == "egress";
        let is_it = line.action() == "progress" && line.bytes_out_and_in() == Some(carried);
        found += usize::from(is_client && is_it);
        lines.push(line);
    }
    Ok(())
}

fn by_id(lines: &[Line]) -> BTreeMap<&str, Vec<&Line>> {
    let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in lines {
        ends.entry(line.id()).or_default().push(line);
    }
    ends
}

/// Whether the lines of one end of a connection, which are right, tell progress.
fn check_end(lines: &[&Line]) -> Result<bool> {
    let is_progress = |line: &&&Line| line.action() == "progress";
    let told: Vec<_> = lines.iter().filter(is_progress).collect();
    let Some(last) = lines.last().filter(|_| !told.is_empty()) else {
        return Ok(false);
    };
    ensure!(last.action() == "close", "the last is {}", last.text);
    let mut before = ((0, 0), 0);
    for line in told.into_iter().chain([last]) {
        let (sent, received) = line.bytes_out_and_in().context("no bytes")?;
        let duration = line.number("event.duration").unwrap_or_default();
        let ((sent_before, received_before), duration_before) = before;
        ensure!(
            sent >= sent_before && received >= received_before && duration >= duration_before,
            "less than before: {}",
            line.text
        );
        before = ((sent, received), duration);
        for field in SAME {
            let told = line.fields.get(*field);
            // The peer's end is known once it has been accepted.
            let is_early = told.is_none() && *field == PEER;
            ensure!(
                is_early || told == last.fields.get(*field),
                "{field} of {} is not that of {}",
                line.text,
                last.text
            );
        }
        ensure!(
            line.number("port_monitor.retransmits").is_some(),
            "no retransmits: {}",
            line.text
        );
    }
    Ok(true)
}

/// What progress tells as the end does.
const SAME: &[&str] = &[
    "network.community_id",
    "network.direction",
    "source.ip",
    "source.port",
    "destination.ip",
    "destination.port",
    "process.pid",
    "process.name",
    "user.id",
    "port_monitor.netns",
    "port_monitor.owner_source",
    PEER,
];
const PEER: &str = "port_monitor.peer_process.pid";

/// What the monitor has worked.
fn processor_time(monitor: &Monitor) -> Result<Duration> {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{}/stat", monitor.pid()))?;
    let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("no time in stat")?.parse()?) };
    Ok(Duration::from_millis(
        (ticks()? + ticks()?) * (1_000 / TICKS_PER_SECOND),
    ))
}
