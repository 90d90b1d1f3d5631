//! `cargo xtask`: build, test and maintain port-monitor.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod services;

/// Build, test and maintain port-monitor.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the table of IANA services
    Services(services::Args),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Services(args) => services::run(&args),
    }
}
