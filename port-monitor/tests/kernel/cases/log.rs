//! `--bpf-log`: what the programs log reaches standard error, and without it
//! none of the logging is left in the programs the kernel runs.

use anyhow::{Result, ensure};

use crate::{
    backend::Backend,
    bpf,
    check::Stream,
    lab::Lab,
    monitor::{Run, Watch},
    report::Verdict,
};

pub(super) fn costs_nothing_when_off(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let (off, silent) = translated_bytes(lab, backend, &[])?;
    let (on, talking) = translated_bytes(lab, backend, &["--bpf-log", "debug"])?;
    let logged = |run: &Run| run.stderr.contains("port_monitor_ebpf");
    ensure!(!logged(&silent), "logged without --bpf-log");
    ensure!(logged(&talking), "nothing logged: {}", talking.stderr);
    // The dead code the verifier removed: every call of the logger.
    ensure!(off < on, "{off} bytes without the log, {on} with it");
    Ok(Verdict::pass())
}

/// The size of the programs as the kernel runs them, and the whole run.
fn translated_bytes(lab: &Lab, backend: Backend, flags: &[&str]) -> Result<(u32, Run)> {
    let mut workload = lab.workload("already-listening")?;
    workload.hear("ready")?;
    let mut monitor = lab
        .only(Watch::json(lab, backend), workload.pid())
        .args(flags.iter().copied())
        .start()?;
    let programs = bpf::programs(&bpf::held_by(monitor.pid())?)?;
    workload.go()?;
    workload.hear("done")?;
    let run = monitor.stop()?;
    Stream::of(&run)?;
    let bytes = programs.iter().map(|program| program.translated_bytes);
    Ok((bytes.sum(), run))
}
