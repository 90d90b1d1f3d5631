//! Connections that are opened while the monitor starts.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    backend::Backend,
    bulk::{self, RING_BYTES},
    cases::accounting,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
};

/// How long connections are opened under the monitor, after its header.
const AFTER_START: Duration = Duration::from_secs(2);

/// How long they are opened where the start is what counts, again and again.
const SHORTLY: Duration = Duration::from_millis(200);

/// How often [`many_starts`] starts the monitor on the backends of a guest together, or on the
/// only one of this host.
const STARTS: usize = 501;

/// Each is reported once: as older than the monitor, or as it begins.
pub(super) fn during_start(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let (ends, older) = during_one_start(lab, backend, AFTER_START)?;
    Ok(Verdict::Pass(format!("{ends} ends, {older} of them older")))
}

/// Connections are opened during very many starts: what goes wrong once in a hundred is
/// found.
pub(super) fn many_starts(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let starts = if lab.native {
        STARTS
    } else {
        STARTS / Backend::ALL.len()
    };
    let (mut all, mut all_older) = (0, 0);
    for start in 1..=starts {
        let (ends, older) =
            during_one_start(lab, backend, SHORTLY).with_context(|| format!("start {start}"))?;
        lab.remove_files()?;
        all += ends;
        all_older += older;
    }
    Ok(Verdict::Pass(format!(
        "{starts} starts, {all} ends, {all_older} of them older"
    )))
}

/// The ends of the connections that are opened around one start, and how many are older
/// than the monitor.
fn during_one_start(lab: &Lab, backend: Backend, after: Duration) -> Result<(usize, usize)> {
    let mut workloads = [
        lab.workload("open-and-hold")?,
        lab.workload("open-and-hold")?,
    ];
    let mut watch = Watch::json(lab, backend).args(["--ring-size", RING_BYTES]);
    for workload in &mut workloads {
        workload.hear("ready")?;
        watch = lab.only(watch, workload.pid());
    }
    let mut monitor = watch.start_into_file(lab)?;
    thread::sleep(after);
    for workload in &mut workloads {
        workload.go()?;
        workload.hear("done")?;
    }
    // What a preemptible kernel skips on the tracepoint backend is seen by nothing
    // else: each run leaves one end without a record, or half of it.
    let skips = accounting::skips(&monitor)?;
    let skipped: u64 = skips.iter().map(|(_, count)| count).sum();
    let tolerated = match backend {
        Backend::Tracepoint => 2 * usize::try_from(skipped)?,
        Backend::Fentry | Backend::Kprobe => 0,
    };
    let run = monitor.stop()?;
    let mut facts = workloads[0].facts()?;
    facts.extend(workloads[1].facts()?);
    let records = bulk::read(&run)?;
    let ends = bulk::check(&records, &facts, tolerated, |many, _, seen| {
        let beginnings = if many.inbound {
            ["preexisting", "accept"]
        } else {
            ["preexisting", "connected"]
        };
        let is_right = beginnings.contains(&seen.beginning.action())
            && seen.beginning.pid() == Some(many.owner.pid)
            && seen.close.pid() == Some(many.owner.pid);
        (!is_right).then(|| format!("not of {}: {seen:?}", many.owner.pid))
    })
    .with_context(|| format!("the kernel skipped {skips:?}"))?;
    let older = records
        .iter()
        .filter(|record| record.action() == "preexisting")
        .count();
    ensure!(
        0 < older && older < ends,
        "{older} of {ends} ends are older"
    );
    Ok((ends, older))
}
