//! Very many connections, and whose each of them is.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    backend::{Backend, Blind},
    bulk::{self, End, Many, RING_BYTES, Seen},
    cases::accounting,
    fact::{Fact, Owner},
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    scenarios::owners::{CLOSED_LISTENERS, CONNECTIONS},
};

/// Exit status: events were lost, with `--fail-on-loss`.
const EVENTS_LOST: i32 = 4;

/// Every record names the thread that connected or accepted, though packets are
/// handled under another process.
pub(super) fn are_right(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut monitor = Watch::json(lab, backend)
        .args(["--ring-size", RING_BYTES])
        .args(accounting::LATENCY)
        .start_into_file(lab)?;
    let begin = Instant::now();
    let mut workload = lab.workload("owners")?;
    // What went wrong stands in its facts.
    let _ = workload.hear("done");
    let took = begin.elapsed();
    let skips = accounting::skips(&monitor)?;
    let run = monitor.stop()?;
    let facts = workload.facts()?;
    let listens = |fact: &Fact| match fact {
        Fact::Listen(listen) => Some(listen.owner.clone()),
        _ => None,
    };
    let listener = facts.iter().find_map(listens).context("no listener")?;
    let records = bulk::read(&run)?;
    let ends = bulk::check(&records, &facts, 0, |many, end, seen| {
        judge_owner(backend, &listener, many, end, seen)
    })
    .with_context(|| format!("the kernel skipped {skips:?}"))?;
    ensure!(ends == 2 * CONNECTIONS as usize, "{ends} ends");
    let count = records.len();
    Ok(Verdict::Pass(format!(
        "{CONNECTIONS} connections in {took:.1?}, {count} records, all of the right owner"
    )))
}

fn judge_owner(
    backend: Backend,
    listener: &Owner,
    many: &Many,
    end: &End,
    seen: &Seen<'_>,
) -> Option<String> {
    let (owner, source, beginning) = match many.inbound {
        false => (&many.owner, "connect", "connected"),
        true if backend.sight().lacks(Blind::Acceptor) => (listener, "listener", "accept"),
        true => (&many.owner, "accept", "accept"),
    };
    let closed_by = if end.closes_first { "local" } else { "peer" };
    let records = [Some(seen.beginning), Some(seen.close), seen.attempt];
    let is_theirs = records
        .into_iter()
        .flatten()
        .all(|record| record.is_of(owner) && record.owner_source() == source);
    let is_right = is_theirs
        && seen.attempt.is_some() != many.inbound
        && seen.beginning.action() == beginning
        && seen.close.closed_by() == closed_by
        && seen.close.bytes() == (Some(end.sent), Some(end.received));
    (!is_right).then(|| format!("not {owner:?}, {end:?}: {seen:?}"))
}

/// The monitor's iterator holds the file that it looks at. Where its process closes that in
/// this moment, the monitor lets go of it last; yet it has closed nothing. One backend looks for
/// owners all the time.
pub(super) fn close_while_looked(lab: &Lab) -> Result<Verdict> {
    let mut workload = lab.workload("closed-rows")?;
    workload.hear("ready")?;
    let watch = Watch::json(lab, Backend::Tracepoint).args(["--ring-size", RING_BYTES]);
    let mut monitor = lab
        .only(watch, workload.pid())
        .args(["--events", "close"])
        .start_into_file(lab)?;
    workload.go()?;
    // What went wrong stands in its facts.
    let _ = workload.hear("done");
    let (lines, _) = monitor.stop()?.read()?;
    workload.facts()?;
    let ends = || lines.iter().filter(|line| line.action() == "close");
    ensure!(ends().count() > 0, "no connection has ended");
    let mut wrong = ends().filter(|line| line.number("port_monitor.closing_pid").is_some());
    if let Some(first) = wrong.next() {
        let (others, all) = (wrong.count(), ends().count());
        bail!("another closed {} of {all}: {}", others + 1, first.text);
    }
    Ok(Verdict::Pass(format!("{} ends", ends().count())))
}

/// Of connections whose listeners are closed before anybody looks, very many of them, the owner
/// is who closed those. Where that is not told, they are lost for that cause: no filter keeps
/// them back.
pub(super) fn of_closed_listeners(lab: &Lab) -> Result<Verdict> {
    let all = u64::from(CLOSED_LISTENERS);
    let (told, late) = close_listeners(lab, &[], 0)?;
    ensure!(
        (told, late) == (all, 0),
        "{told} told, {late} late of {all}"
    );
    // Of others on this machine some may be late too: nobody knows whose they were.
    let (told, late) = close_listeners(lab, &["--test-fault", "tell_closer"], EVENTS_LOST)?;
    ensure!(
        late > 0 && told + late >= all,
        "{told} told, {late} late of {all}"
    );
    Ok(Verdict::Pass(format!(
        "{all} of closed listeners; {late} of them late without their closers"
    )))
}

/// How many of those connections are told, and how many were late.
fn close_listeners(lab: &Lab, faults: &[&str], code: i32) -> Result<(u64, u64)> {
    let mut workload = lab.workload("closed-listeners")?;
    workload.hear("ready")?;
    let pid = workload.pid();
    let mut monitor = Watch::json(lab, Backend::Tracepoint)
        .args([
            "--ring-size",
            RING_BYTES,
            "--events",
            "accept",
            "--fail-on-loss",
        ])
        .args(["--pid", &pid.to_string()])
        .args(faults)
        .start_into_file(lab)?;
    workload.go()?;
    // What went wrong stands in its facts.
    let _ = workload.hear("done");
    let run = monitor.stop()?;
    workload.facts()?;
    run.expect_code(code)?;
    let (lines, summary) = run.read()?;
    let mut told = 0;
    for line in lines.iter().filter(|line| line.action() == "accept") {
        let is_right =
            line.pid() == Some(pid) && line.text("port_monitor.owner_source") == "listener";
        ensure!(is_right, "not of {pid}: {}", line.text);
        told += 1;
    }
    Ok((told, summary.lost))
}
