//! `cargo xtask`: build, test and maintain port-monitor.

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Build, test and maintain port-monitor.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

fn main() -> Result<()> {
    match Cli::parse().command {}
}
