//! All scenarios under one monitor: each is judged by its own records.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::{
    check::Stream,
    expect::Expected,
    fact::Fact,
    lab::Lab,
    monitor::Watch,
    report::{Report, Verdict},
    rung::{Blind, Rung},
    scenarios::Scenario,
};

/// The case that nobody else's records are in the stream.
pub(crate) const NOTHING_ELSE: &str = "nothing-else";

/// The case that the header tells what the rung does not see.
pub(crate) const HEADER: &str = "header";

/// Runs the scenarios and reports each.
pub(crate) fn run(
    lab: &Lab,
    rung: Rung,
    scenarios: &[&Scenario],
    report: &mut Report,
) -> Result<()> {
    let (waiting, others): (Vec<&Scenario>, Vec<&Scenario>) =
        scenarios.iter().partition(|scenario| scenario.waits);
    let names = |scenarios: &[&Scenario]| -> Vec<&str> {
        scenarios.iter().map(|scenario| scenario.name).collect()
    };
    let (waiting, others) = (names(&waiting), names(&others));
    let observed = lab.observe_beside(Watch::json(lab, rung), &waiting, &others)?;
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
                stream.check_kept(&facts, rung.sight(), in_view)
            })
            .and_then(|met| judge(scenario, rung, &met));
        report.case(rung.name(), scenario.name, &result)?;
    }
    let rest = stream.expect_nothing_else().and_then(|()| {
        let summary = stream.summary();
        let exact = lab.native || summary.filtered == 0 && summary.seen == summary.shown;
        ensure!(exact, "nothing was filtered, yet {summary:?}");
        Ok(Verdict::Pass(format!("{} records", summary.shown)))
    });
    report.case(rung.name(), NOTHING_ELSE, &rest)?;
    let header = observed.monitor.header();
    let header = header.and_then(|header| check_header(&header, rung));
    report.case(rung.name(), HEADER, &header)?;
    Ok(())
}

/// A scenario that shows a blind spot must have met it where the rung has it.
fn judge(scenario: &Scenario, rung: Rung, met: &BTreeSet<Blind>) -> Result<Verdict> {
    match scenario.shows {
        Some(blind) if rung.sight().lacks(blind) => {
            ensure!(met.contains(&blind), "not blind here: {}", blind.text());
            Ok(Verdict::Blind(blind))
        }
        _ => Ok(Verdict::pass()),
    }
}

fn check_header(header: &crate::json::Line, rung: Rung) -> Result<Verdict> {
    ensure!(
        header.backend() == rung.name(),
        "the header names {}",
        header.backend()
    );
    let spots = header.blind_spots();
    for blind in Blind::ALL {
        let told = spots.iter().any(|spot| spot.contains(blind.header_words()));
        ensure!(
            told || !rung.sight().lacks(blind),
            "the header does not say: {}; it says {spots:?}",
            blind.text()
        );
    }
    Ok(Verdict::Pass(format!("{} blind spots", spots.len())))
}
