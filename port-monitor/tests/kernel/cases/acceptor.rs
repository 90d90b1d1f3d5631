//! `--acceptor`: the tracepoint rung names the accepting thread after all.

use anyhow::Result;

use crate::{
    check::Stream,
    lab::Lab,
    monitor::Watch,
    report::Verdict,
    rung::{Rung, Sight},
};

/// Scenarios in which the acceptor is not the listener, or nobody accepts.
const SCENARIOS: [&str; 5] = [
    "never-accepted",
    "accept-64-threads",
    "accept-polled",
    "accept-prefork",
    "accept-reuseport",
];

pub(super) fn named(lab: &Lab) -> Result<Verdict> {
    let watch = Watch::json(lab, Rung::Tracepoint).arg("--acceptor");
    let observed = lab.observe(watch, &SCENARIOS)?;
    let mut stream = Stream::of(&observed.run)?;
    for name in SCENARIOS {
        stream.check(&observed.facts(name)?, Sight::WITH_ACCEPTOR)?;
    }
    stream.expect_nothing_else()?;
    Ok(Verdict::pass())
}
