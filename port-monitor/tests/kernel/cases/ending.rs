//! How a monitor ends, and that it leaves nothing in the kernel.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::{
    backend::Backend,
    bpf,
    cases::policy,
    check::Stream,
    is_one_of,
    lab::Lab,
    monitor::{Run, Watch},
    report::{self, Verdict},
};

pub(super) fn sigterm(lab: &Lab, backend: Backend) -> Result<Verdict> {
    ends_well(lab, backend, Signal::TERM)
}

pub(super) fn sigint(lab: &Lab, backend: Backend) -> Result<Verdict> {
    ends_well(lab, backend, Signal::INT)
}

pub(super) fn sigkill(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let run = end(lab, backend, Signal::KILL)?;
    run.expect_signal(Signal::KILL)?;
    Ok(Verdict::pass())
}

/// What a panic that aborts does.
pub(super) fn sigabrt(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let run = end(lab, backend, Signal::ABORT)?;
    run.expect_signal(Signal::ABORT)?;
    Ok(Verdict::pass())
}

fn ends_well(lab: &Lab, backend: Backend, signal: Signal) -> Result<Verdict> {
    let run = end(lab, backend, signal)?;
    // Exit status 0, a summary, and an account that adds up.
    Stream::of(&run)?;
    Ok(Verdict::pass())
}

/// What has the monitor tell of the programs that it unloads before it is attached.
const SNAPSHOT_LOG: &str = "warn,port_monitor::kernel::snapshot=debug";

/// Reports the programs that look at what is open at the start, by what the monitor said.
fn report_snapshot(stderr: &str) -> Result<()> {
    let counts = stderr.lines().filter_map(|line| {
        let line = line.strip_suffix(" verified instructions")?;
        let (rest, count) = line.rsplit_once(": ")?;
        Some((rest.rsplit(' ').next()?, count.parse().ok()?))
    });
    let mut is_told = false;
    for (program, count) in counts {
        report::verified_insns(program, count)?;
        is_told = true;
    }
    // Kernels before 5.16 count none.
    ensure!(
        is_told || is_one_of(&["5.10"]),
        "the snapshot's programs are not told: {stderr}"
    );
    Ok(())
}

/// Ends an attached monitor by `signal` and waits until the kernel has freed
/// everything it held.
fn end(lab: &Lab, backend: Backend, signal: Signal) -> Result<Run> {
    // With a policy the programs are at their longest.
    let watch = Watch::json(lab, backend)
        .arg("--policy")
        .arg(policy::write(lab)?)
        .args(["--unit", "port-monitor-none@.service"])
        .env("RUST_LOG", SNAPSHOT_LOG);
    let before = bpf::all()?;
    let mut monitor = lab.only(watch, std::process::id()).start()?;
    let held = bpf::held_by(monitor.pid())?;
    let programs = bpf::programs(&held)?;
    ensure!(!programs.is_empty(), "an attached monitor holds no program");
    for program in programs {
        if signal == Signal::TERM && program.verified_insns > 0 {
            report::verified_insns(&program.name, program.verified_insns)?;
        }
    }
    monitor.signal(signal)?;
    let run = monitor.finish()?;
    if signal == Signal::TERM {
        report_snapshot(&run.stderr)?;
    }
    bpf::await_gone(&held)?;
    if !lab.native {
        let left: bpf::Objects = bpf::all()?.difference(&before).copied().collect();
        bpf::await_gone(&left)?;
    }
    Ok(run)
}

/// The third record is not shown, and the monitor ends by itself.
pub(super) fn count(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("already-listening")?;
    workload.hear("ready")?;
    let mut monitor = lab
        .only(Watch::json(lab, backend), workload.pid())
        .args(["--count", "2", "--events", "connect,connected,accept"])
        .start()?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.finish()?;
    let stream = Stream::of(&run)?;
    ensure!(
        stream.events().len() == 2,
        "{} records, not 2",
        stream.events().len()
    );
    Ok(Verdict::pass())
}

pub(super) fn duration(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let begin = Instant::now();
    let mut monitor = lab
        .only(Watch::json(lab, backend), std::process::id())
        .args(["--duration", "1s"])
        .start()?;
    let run = monitor.finish()?;
    Stream::of(&run)?;
    let took = begin.elapsed();
    ensure!(took >= Duration::from_secs(1), "ended after {took:?}");
    Ok(Verdict::pass())
}
