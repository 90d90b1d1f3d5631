//! `policy learn`: a policy made of connections, recorded or as they happen.

use std::{io::Write, path::PathBuf, time::Duration};

use super::{live, recording};
use crate::{
    base::{
        duration,
        exit_code::{ExitCode, Failure},
    },
    commands::told::written,
    policy::{Host, Policy, Source, learn::Learner},
};

/// Arguments of `policy learn`.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct LearnArgs {
    /// Connections recorded with `-o json`; `-` is the standard input
    #[arg(value_name = "FILE")]
    recording: Option<PathBuf>,
    /// Watch this host instead, for so long: 10m, 24h, 7d; Ctrl-C ends it early
    ///
    /// Takes root. What is open and listens already counts too.
    #[arg(
        long = "for",
        value_name = "TIME",
        value_parser = duration::parse
    )]
    duration: Option<Duration>,
}

/// Prints the policy.
pub(super) fn run(args: &LearnArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let (learner, lost, origin) = match (&args.recording, args.duration) {
        (Some(path), _) => {
            let mut learner = Learner::default();
            let account = recording::read(path, |facts| learner.take(facts, &Host))?;
            if account.unknown.count > 0 {
                log::warn!("{}: {}", path.display(), account.unknown);
            }
            (learner, account.lost, path.display().to_string())
        }
        (None, duration) => {
            let (learner, lost) = live::watch(duration.unwrap_or_default())?;
            (learner, Some(lost), "this host's connections".to_owned())
        }
    };
    let refusal = |error: &str| Failure::usage(format!("learn from {origin}: {error}"));
    if learner.is_empty() {
        return Err(refusal(
            "there is no connection, so nothing would be learned",
        ));
    }
    let text = learner
        .policy(lost, &Host)
        .map_err(|error| refusal(&error.to_string()))?;
    // Lists that are too long for a policy are found by the one who reads it.
    let source = Source::new(origin.clone(), text.clone());
    if let Err(invalid) = Policy::parse(source, &Host) {
        let mut problems = invalid.diagnostics.iter();
        let first = problems
            .find(|diagnostic| diagnostic.is_error())
            .map(|diagnostic| diagnostic.problem.to_string())
            .unwrap_or_default();
        return Err(refusal(&format!(
            "too much was seen for one policy: {first}"
        )));
    }
    written(out.write_all(text.as_bytes()))
}
