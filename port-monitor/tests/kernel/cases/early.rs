//! Workloads that began before the monitor.

use anyhow::{Result, bail, ensure};

use crate::{
    backend::{Backend, Blind},
    check::Stream,
    fact::{Fact, Listen},
    json::Line,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
};

pub(super) fn asleep_in_accept(lab: &Lab, backend: Backend) -> Result<Verdict> {
    attach_late(lab, backend, "asleep-in-accept")?;
    Ok(if backend.sight().lacks(Blind::Acceptor) {
        Verdict::Blind(Blind::Acceptor)
    } else {
        Verdict::pass()
    })
}

pub(super) fn already_listening(lab: &Lab, backend: Backend) -> Result<Verdict> {
    attach_late(lab, backend, "already-listening")?;
    Ok(Verdict::pass())
}

/// Listeners that several processes shared are over for good when they are closed: who
/// listens there next is who accepts.
pub(super) fn shared_before(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("shared-before")?;
    workload.hear("ready")?;
    let watch = Watch::json(lab, backend).args(["--events", "accept"]);
    let mut monitor = lab.only(watch, workload.pid()).start()?;
    workload.go()?;
    workload.hear("done")?;
    let (lines, _) = monitor.stop()?.read()?;
    let accepts: Vec<_> = lines
        .iter()
        .filter(|line| line.action() == "accept")
        .collect();
    let [accept] = *accepts else {
        bail!("{} accepts", accepts.len());
    };
    ensure!(
        accept.pid() == Some(workload.pid()),
        "not {}'s: {}",
        workload.pid(),
        accept.text
    );
    Ok(Verdict::pass())
}

/// Both ends of a connection are reported at the start, with the process that
/// holds them, and again when they end.
pub(super) fn already_open(lab: &Lab, backend: Backend) -> Result<Verdict> {
    // And the listener.
    check_older_ends(lab, backend, "already-open", 1)
}

/// Both ends of a connection that was put into its sockets before, one still in repair, are
/// reported at the start, and again when they end.
pub(super) fn already_restored(lab: &Lab, backend: Backend) -> Result<Verdict> {
    check_older_ends(lab, backend, "already-restored", 0)
}

fn check_older_ends(lab: &Lab, backend: Backend, name: &str, listeners: usize) -> Result<Verdict> {
    let (stream, facts, pid) = watch_late(lab, backend, name)?;
    let mut ends = 0;
    for fact in &facts {
        let Fact::Closed(closed) = fact else { continue };
        let ours = (closed.local, closed.remote);
        let found: Vec<_> = stream
            .older()
            .iter()
            .filter(|line| line.local_and_remote() == Some(ours))
            .collect();
        let [line] = *found else {
            bail!("{} records of {ours:?}", found.len());
        };
        ensure!(
            line.pid() == Some(pid) && line.text("port_monitor.owner_source") == "holder",
            "not the holder's, {pid}: {}",
            line.text
        );
        ends += 1;
    }
    ensure!(
        ends == 2 && stream.older().len() == ends + listeners,
        "{:?}",
        stream.older()
    );
    Ok(Verdict::pass())
}

/// A listener is reported at the start, with the process that holds it.
fn check_older_listener(stream: &Stream, listen: &Listen) -> Result<()> {
    let is_meant = |line: &&Line| {
        line.text("port_monitor.state") == "listen" && line.destination() == Some(listen.at)
    };
    let found: Vec<_> = stream.older().iter().filter(is_meant).collect();
    let [line] = *found else {
        bail!("{} records of {listen:?}", found.len());
    };
    ensure!(
        line.pid() == Some(listen.owner.pid)
            && line.text("port_monitor.owner_source") == "holder"
            && line.text("network.direction") == "ingress"
            && line.source_ip().is_none(),
        "not {listen:?}: {}",
        line.text
    );
    Ok(())
}

fn attach_late(lab: &Lab, backend: Backend, name: &str) -> Result<()> {
    watch_late(lab, backend, name).map(drop)
}

/// Starts a workload that listens, then the monitor, and lets the workload go on.
/// What the monitor said agrees with the facts; the workload's pid.
fn watch_late(lab: &Lab, backend: Backend, name: &str) -> Result<(Stream, Vec<Fact>, u32)> {
    let mut workload = lab.workload(name)?;
    workload.hear("ready")?;
    let mut monitor = lab
        .only(Watch::json(lab, backend), workload.pid())
        .start()?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.stop()?;
    let mut stream = Stream::of(&run)?;
    let mut facts = workload.facts()?;
    for fact in &mut facts {
        if let Fact::Listen(listen) = fact {
            listen.older = true;
            check_older_listener(&stream, listen)?;
        }
    }
    stream.check(&facts, backend.sight())?;
    stream.expect_nothing_else()?;
    Ok((stream, facts, workload.pid()))
}

/// What becomes of each end of the connections that had half begun, in the order of the
/// workload's facts: its records, all of one id.
const fn half_begun_records(backend: Backend) -> [&'static [&'static str]; 6] {
    const OLDER: &[&str] = &["preexisting", "close"];
    const OLDER_ATTEMPT: &[&str] = &["preexisting", "connected", "close"];
    const ARRIVAL: &[&str] = &["accept", "close"];
    match backend {
        // An accept is seen when it is made.
        Backend::Fentry | Backend::Kprobe => {
            [OLDER_ATTEMPT, ARRIVAL, OLDER_ATTEMPT, OLDER, OLDER, ARRIVAL]
        }
        // Changes of a state alone: a client is told to connect, a handshake completed. What
        // waits to be accepted belongs to no process.
        Backend::Tracepoint => [OLDER_ATTEMPT, ARRIVAL, OLDER_ATTEMPT, ARRIVAL, OLDER, &[]],
    }
}

/// Whatever was half-way at the start is told once, and so is its end.
pub(super) fn half_begun(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("half-begun")?;
    workload.hear("ready")?;
    let mut monitor = lab
        .only(Watch::json(lab, backend), workload.pid())
        .start()?;
    workload.go()?;
    workload.hear("done")?;
    let (lines, _) = monitor.stop()?.read()?;
    let facts = workload.facts()?;
    let ends = facts.iter().filter_map(|fact| match fact {
        Fact::Closed(closed) => Some((closed.local, closed.remote)),
        _ => None,
    });
    for (end, expected) in ends.zip(half_begun_records(backend)) {
        let of_end: Vec<_> = lines
            .iter()
            .filter(|line| line.local_and_remote() == Some(end))
            .collect();
        let actions: Vec<_> = of_end.iter().map(|line| line.action()).collect();
        ensure!(
            actions == expected,
            "{end:?}: {actions:?}, not {expected:?}"
        );
        let id = of_end.first().map(|line| line.id());
        let strange = of_end
            .iter()
            .find(|line| Some(line.id()) != id || line.pid() != Some(workload.pid()));
        ensure!(strange.is_none(), "of another: {strange:?}, {of_end:?}");
    }
    Ok(Verdict::pass())
}
