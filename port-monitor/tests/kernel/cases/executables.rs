//! What processes execute that are gone before anybody can ask.

use std::env;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{backend::Backend, lab::Lab, monitor::Watch, report::Verdict, scenarios::executables};

/// Each attempt names the path that /proc had.
pub(super) fn are_told(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let observed = lab.observe(Watch::json(lab, backend), &["executables"])?;
    // What went wrong there is told first.
    observed.facts("executables")?;
    let (lines, _) = observed.run.read()?;
    let mut all = 0;
    for (port, path, count) in executables::expected()? {
        let is_meant = |port_of: Option<u16>| port_of == Some(port);
        let attempts = lines.iter().filter(|line| {
            line.action() == "connect" && is_meant(line.destination().map(|to| to.port()))
        });
        let told: Vec<_> = attempts.map(|line| line.process().2).collect();
        let right = told.iter().filter(|exe| **exe == path.to_string_lossy());
        ensure!(
            right.count() == count && told.len() == count,
            "{count} times {}, not {told:?}",
            path.display()
        );
        all += count;
    }
    Ok(Verdict::Pass(format!("{all} of {all} executables")))
}

/// A process lives on after its first thread: what it executes and is called with is found at
/// another one, of listeners that are older than the monitor and of what it does.
pub(super) fn first_thread_ended(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let mut workload = lab.workload("first-thread-ended")?;
    workload.hear("ready")?;
    let pid = workload.pid();
    let watch = Watch::json(lab, backend).arg("--process-args");
    let mut monitor = lab.only(watch, pid).start()?;
    workload.go()?;
    workload.hear("done")?;
    let (lines, _) = monitor.stop()?.read()?;
    let program = env::current_exe()?;
    let program = program.to_str().context("a name that is not UTF-8")?;
    let its: Vec<_> = lines
        .iter()
        .filter(|line| line.number("process.pid") == Some(pid.into()))
        .collect();
    for action in ["preexisting", "connect", "accept", "close"] {
        let line = its.iter().find(|line| line.action() == action);
        let line = line.with_context(|| format!("no {action}: {its:?}"))?;
        let args = line.fields.get("process.args");
        let word = args.and_then(|args| args.get(1)).and_then(Value::as_str);
        ensure!(
            line.process().2 == program && word == Some("workload"),
            "{}",
            line.text
        );
    }
    Ok(Verdict::pass())
}
