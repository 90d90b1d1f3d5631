//! `port-monitor __exec`: the process that becomes the command after `--`.
//! Hidden: only [`crate::commands::child`] starts it.

use std::{ffi::OsString, io, process};

use crate::commands::child::{self, ChildError};

/// Exit status of a command that cannot be run, as shells have it.
const CANNOT_RUN: i32 = 126;
/// Exit status of a command that is not there, as shells have it.
const NOT_FOUND: i32 = 127;

/// The command line of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Waits for the release and becomes the command. This process stands for the
/// command, so its exit status is a shell's and not one of port-monitor's.
#[expect(clippy::print_stderr, reason = "the command itself cannot report it")]
pub fn run(args: &Args) -> ! {
    let Some(error) = child::become_command(&args.command) else {
        process::exit(child::ABANDONED);
    };
    let status = match &error {
        ChildError::Run { source, .. } if source.kind() == io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    };
    eprintln!("port-monitor: {:#}", anyhow::Error::new(error));
    process::exit(status)
}
