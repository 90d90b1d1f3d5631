//! Workloads that began before the monitor.

use anyhow::Result;

use crate::{
    check::Stream,
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

fn attach_late(lab: &Lab, rung: Rung, name: &str) -> Result<()> {
    let mut workload = lab.workload(name)?;
    workload.hear("ready")?;
    let mut monitor = lab.only(Watch::json(lab, rung), workload.pid()).start()?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.stop()?;
    let mut stream = Stream::of(&run)?;
    stream.check(&workload.facts()?, rung.sight())?;
    stream.expect_nothing_else()
}
