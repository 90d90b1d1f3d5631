//! `cargo xtask run`: builds port-monitor and becomes it.

use std::{convert::Infallible, ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{artifacts, process};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of port-monitor
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Builds as the caller and asks for privilege only to run.
///
/// Replacing this process keeps signals and the exit status port-monitor's own.
pub(crate) fn run(args: &Args) -> Result<Infallible> {
    let program = artifacts::build_program(artifacts::RELEASE)?;
    let error = process::elevated(&program)?.args(&args.arguments).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}
