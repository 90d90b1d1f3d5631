//! Parse, run, print the error, exit.

use std::process::ExitCode;

use clap::Parser as _;
use port_monitor::{cli::Cli, commands};

#[expect(clippy::print_stderr, reason = "the one place that reports a failure")]
fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(code) => code.into(),
        Err(failure) => {
            eprintln!("port-monitor: {:#}", failure.error);
            failure.code.into()
        }
    }
}
