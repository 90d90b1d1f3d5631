//! All scenarios under one monitor: each is judged by its own records.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::{
    backend::{Backend, Blind},
    check::Stream,
    expect::Expected,
    fact::Fact,
    lab::Lab,
    monitor::Watch,
    report::{Report, Verdict},
    scenarios::Scenario,
};

/// The case that nobody else's records are in the stream.
pub(crate) const NOTHING_ELSE: &str = "nothing-else";

/// The case that the header tells what the backend does not see.
pub(crate) const HEADER: &str = "header";

/// Runs the scenarios and reports each.
pub(crate) fn run(
    lab: &Lab,
    backend: Backend,
    scenarios: &[&Scenario],
    report: &mut Report,
) -> Result<()> {
    let (waiting, others): (Vec<&Scenario>, Vec<&Scenario>) =
        scenarios.iter().partition(|scenario| scenario.waits);
    let names = |scenarios: &[&Scenario]| -> Vec<&str> {
        scenarios.iter().map(|scenario| scenario.name).collect()
    };
    let (waiting, others) = (names(&waiting), names(&others));
    let observed = lab.observe_beside(Watch::json(lab, backend), &waiting, &others)?;
    let mut stream = Stream::of(&observed.run)?;
    for scenario in scenarios {
        let result = observed
            .facts(scenario.name)
            .and_then(|facts| {
                // A record without an owner belongs to the tree only where the
                // listeners that may be meant are known, and all belong to it.
                let is_shared = |fact: &Fact| matches!(fact, Fact::Listen(listen) if listen.bound);
                let shared = facts.iter().any(is_shared);
                let in_view = |record: &Expected| !lab.native || record.owner.is_some() || shared;
                stream.check_kept(&facts, backend.sight(), in_view)
            })
            .and_then(|met| judge(scenario, backend, &met));
        report.case(backend.name(), scenario.name, &result)?;
    }
    let rest = stream.expect_nothing_else().and_then(|()| {
        let summary = stream.summary();
        let exact = lab.native || summary.filtered == 0 && summary.seen == summary.shown;
        ensure!(exact, "nothing was filtered, yet {summary:?}");
        Ok(Verdict::Pass(format!("{} records", summary.shown)))
    });
    report.case(backend.name(), NOTHING_ELSE, &rest)?;
    let header = observed.monitor.header();
    let header = header.and_then(|header| check_header(&header, backend));
    report.case(backend.name(), HEADER, &header)?;
    Ok(())
}

/// A scenario that shows a blind spot must have met it where the backend has it.
fn judge(scenario: &Scenario, backend: Backend, met: &BTreeSet<Blind>) -> Result<Verdict> {
    match scenario.shows {
        Some(blind) if backend.sight().lacks(blind) => {
            ensure!(met.contains(&blind), "not blind here: {}", blind.text());
            Ok(Verdict::Blind(blind))
        }
        _ => Ok(Verdict::pass()),
    }
}

fn check_header(header: &crate::json::Line, backend: Backend) -> Result<Verdict> {
    ensure!(
        header.backend() == backend.name(),
        "the header names {}",
        header.backend()
    );
    let spots = header.blind_spots();
    for blind in Blind::ALL {
        let told = spots.iter().any(|spot| spot.contains(blind.header_words()));
        ensure!(
            told || !backend.sight().lacks(blind),
            "the header does not say: {}; it says {spots:?}",
            blind.text()
        );
    }
    Ok(Verdict::Pass(format!("{} blind spots", spots.len())))
}
