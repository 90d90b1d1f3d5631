//! `policy test --replay`: what a policy would have denied of recorded connections.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use port_monitor_common::policy::Verdict;
use serde::Serialize;

use super::{
    FileArgs, expect_apart,
    explained::ReasonReport,
    json_line,
    recording::{self, Account},
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure},
        order,
    },
    commands::{load::load, told::written},
    policy::{Facts, Policy},
};

/// The answer of `policy test --replay`.
#[derive(Serialize)]
struct Report {
    /// Connections and listeners, each counted once.
    seen: usize,
    denied: usize,
    /// Events that are not in the recording, by its own account.
    lost: u64,
    /// Lines of the recording that are of kinds this version does not know.
    unknown_lines: usize,
    /// How many, as a sentence.
    #[serde(skip)]
    unknown: Option<String>,
    by: Vec<Denials>,
}

#[derive(Serialize)]
struct Denials {
    denied: usize,
    decided_by: ReasonReport,
}

/// Judges every connection and listener of a recording.
pub(super) fn run(
    policy: &FileArgs,
    recording: &Path,
    out: impl Write,
) -> Result<ExitCode, Failure> {
    expect_apart(&policy.path, recording)?;
    let compiled = load(&policy.path)?;
    let mut tally = Tally::default();
    let account = recording::read(recording, |facts| {
        tally.take(facts, &compiled, &policy.path);
    })?;
    if account.seen == 0 {
        let empty = "no connection in it, so nothing would be tested";
        return Err(recording::refusal(recording, &empty));
    }
    let report = tally.report(&account);
    written(if policy.json {
        json_line(&report, out)
    } else {
        report.write(out)
    })
}

/// What has been judged so far.
#[derive(Default)]
struct Tally {
    denied: usize,
    /// By what decides, as it is told.
    by: BTreeMap<String, Denials>,
}

impl Tally {
    fn take(&mut self, facts: &Facts<'_>, policy: &Policy, policy_path: &Path) {
        let explanation = policy.explain(facts);
        if explanation.verdict == Verdict::Allow {
            return;
        }
        self.denied += 1;
        let reason = ReasonReport::of(&explanation.reason, facts.direction, policy_path);
        let denials = self.by.entry(reason.text()).or_insert(Denials {
            denied: 0,
            decided_by: reason,
        });
        denials.denied += 1;
    }

    fn report(self, account: &Account) -> Report {
        let mut by: Vec<Denials> = self.by.into_values().collect();
        order::sort_by_key(&mut by, |denials| std::cmp::Reverse(denials.denied));
        Report {
            seen: account.seen,
            denied: self.denied,
            lost: account.lost.unwrap_or_default(),
            unknown_lines: account.unknown.count,
            unknown: (account.unknown.count > 0).then(|| account.unknown.to_string()),
            by,
        }
    }
}

impl Report {
    fn write(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(
            out,
            "would have denied {} of {} connections and listeners",
            self.denied, self.seen
        )?;
        for denials in &self.by {
            writeln!(out, "{:>8}  {}", denials.denied, denials.decided_by.text())?;
        }
        if self.lost > 0 {
            writeln!(
                out,
                "the recording lacks {} events that were lost",
                self.lost
            )?;
        }
        if let Some(unknown) = &self.unknown {
            writeln!(out, "{unknown}")?;
        }
        Ok(())
    }
}
