//! `policy learn`: a policy made of recorded connections.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use super::recording;
use crate::{
    commands::written,
    exit_code::{ExitCode, Failure},
    policy::{Host, Policy, Source, learn::Learner},
};

/// Arguments of `policy learn`.
#[derive(Debug, clap::Args)]
pub(super) struct LearnArgs {
    /// Connections recorded with `-o json`; `-` is the standard input
    #[arg(value_name = "FILE")]
    recording: PathBuf,
}

/// Prints the policy.
pub(super) fn run(args: &LearnArgs, mut out: impl Write) -> Result<ExitCode, Failure> {
    let path: &Path = &args.recording;
    let mut learner = Learner::default();
    let account = recording::read(path, |facts| learner.take(facts))?;
    if account.seen == 0 {
        let empty = "no connection in it, so nothing would be learned";
        return Err(recording::refusal(path, &empty));
    }
    let text = learner
        .policy(account.lost, &Host)
        .map_err(|error| recording::refusal(path, &error))?;
    // Lists that are too long for a policy are found by the one who reads it.
    let source = Source {
        name: path.display().to_string(),
        text: text.clone(),
    };
    if let Err(invalid) = Policy::parse(source, &Host) {
        let mut problems = invalid.diagnostics.iter();
        let first = problems
            .find(|diagnostic| diagnostic.is_error())
            .map(|diagnostic| diagnostic.problem.to_string())
            .unwrap_or_default();
        let error = format!("too much was seen for one policy: {first}");
        return Err(recording::refusal(path, &error));
    }
    written(out.write_all(text.as_bytes()))
}
