//! How a command ends that writes to the standard output, and what it tells beside that.

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::Context as _;

use crate::base::exit_code::{ExitCode, Failure, OrExit as _};

/// How a command ends that wrote to the standard output: a reader that has had
/// enough, as `head` does, is no failure.
pub(super) fn written(result: io::Result<()>) -> Result<ExitCode, Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error)
            .context("write to the standard output")
            .or_exit(ExitCode::OutputFailed),
        _ => Ok(ExitCode::Ok),
    }
}

/// Tells on standard error, in one line, what ends no command.
pub(super) fn note(text: impl fmt::Display) {
    // Whoever closed it does not want to be told.
    let _ = writeln!(io::stderr(), "port-monitor: {text}");
}
