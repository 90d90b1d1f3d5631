//! What the runner prints: one machine-readable line per case.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::Instant,
};

use anyhow::{Error, Result};

use crate::{backend::Blind, monitor::Refused};

/// The backend column of cases that do not depend on one.
pub(crate) const ANY_BACKEND: &str = "auto";

/// How a case that did not fail ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// As it should be.
    Pass(String),
    /// A blind spot, and exactly that.
    Blind(Blind),
}

impl Verdict {
    /// Passed, with nothing to add.
    pub(crate) fn pass() -> Self {
        Self::Pass(String::new())
    }
}

/// The lines printed so far, counted.
#[derive(Debug)]
pub(crate) struct Report {
    passed: u32,
    failed: u32,
    /// When the last line was printed.
    last: Instant,
}

impl Report {
    /// Nothing printed yet.
    pub(crate) fn new() -> Self {
        Self {
            passed: 0,
            failed: 0,
            last: Instant::now(),
        }
    }

    /// Prints how a case ended, and how long it took: of cases that are run together,
    /// the first one has the time of all.
    pub(crate) fn case(
        &mut self,
        backend: &str,
        name: &str,
        result: &Result<Verdict>,
    ) -> io::Result<()> {
        let (status, text) = match result {
            Ok(Verdict::Pass(text)) => ("PASS", text.clone()),
            Ok(Verdict::Blind(blind)) => ("BLIND", blind.text().to_owned()),
            Err(error) => ("FAIL", format!("{error:#}")),
        };
        if result.is_ok() {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        let now = Instant::now();
        let took = now.duration_since(self.last);
        self.last = now;
        let text = one_line(&format!("{text} [{took:.1?}]"));
        line(format_args!("CASE {backend} {name} {status} {text}"))
    }

    /// Prints the totals; whether nothing failed.
    pub(crate) fn done(&self) -> io::Result<bool> {
        line(format_args!("DONE {} {}", self.passed, self.failed))?;
        Ok(self.failed == 0)
    }

    /// Whether any case has ended.
    pub(crate) const fn has_cases(&self) -> bool {
        self.failed + self.passed > 0
    }
}

/// Prints that this kernel does not offer a backend.
pub(crate) fn skipped(backend: &str, refused: &Refused) -> io::Result<()> {
    let text = refused.to_string();
    line(format_args!(
        "CASE {backend} backend SKIP {}",
        one_line(&text)
    ))
}

/// The refusal behind an error, if that is what it is.
pub(crate) fn refusal(error: &Error) -> Option<&Refused> {
    error.downcast_ref()
}

/// Prints something worth knowing.
pub(crate) fn info(text: impl Display) -> io::Result<()> {
    line(format_args!("INFO {text}"))
}

/// Prints how many instructions the verifier walked through.
pub(crate) fn verified_insns(program: &str, count: u32) -> io::Result<()> {
    line(format_args!("INSNS {program} {count}"))
}

fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
