//! Workloads that began before the monitor.

use anyhow::{Result, bail, ensure};

use crate::{
    check::Stream,
    fact::Fact,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    rung::{Blind, Rung},
};

pub(super) fn asleep_in_accept(lab: &Lab, rung: Rung) -> Result<Verdict> {
    attach_late(lab, rung, "asleep-in-accept")?;
    Ok(if rung.sight().lacks(Blind::Acceptor) {
        Verdict::Blind(Blind::Acceptor)
    } else {
        Verdict::pass()
    })
}

pub(super) fn already_listening(lab: &Lab, rung: Rung) -> Result<Verdict> {
    attach_late(lab, rung, "already-listening")?;
    Ok(Verdict::pass())
}

/// Both ends of a connection are reported at the start, with the process that
/// holds them, and again when they end.
pub(super) fn already_open(lab: &Lab, rung: Rung) -> Result<Verdict> {
    let (stream, facts, pid) = watch_late(lab, rung, "already-open")?;
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
    let peers = stream.older().iter().map(|line| line.peer().0);
    ensure!(
        peers.eq([None, Some(pid.into())]),
        "not the second names the first: {:?}",
        stream.older()
    );
    ensure!(
        ends == 2 && stream.older().len() == 2,
        "{:?}",
        stream.older()
    );
    Ok(Verdict::pass())
}

fn attach_late(lab: &Lab, rung: Rung, name: &str) -> Result<()> {
    watch_late(lab, rung, name).map(drop)
}

/// Starts a workload, then the monitor, and lets the workload go on. What the
/// monitor said agrees with the facts; the workload's pid.
fn watch_late(lab: &Lab, rung: Rung, name: &str) -> Result<(Stream, Vec<Fact>, u32)> {
    let mut workload = lab.workload(name)?;
    workload.hear("ready")?;
    let mut monitor = lab.only(Watch::json(lab, rung), workload.pid()).start()?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.stop()?;
    let mut stream = Stream::of(&run)?;
    let facts = workload.facts()?;
    stream.check(&facts, rung.sight())?;
    stream.expect_nothing_else()?;
    Ok((stream, facts, workload.pid()))
}
