//! What processes execute that are gone before anybody can ask.

use anyhow::{Result, ensure};

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
