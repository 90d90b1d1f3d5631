//! `port-monitor [watch]`: the live monitor.

use crate::exit_code::{ExitCode, Failure};

/// Flags of `watch`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the monitor.
pub fn run(_args: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::Ok)
}
