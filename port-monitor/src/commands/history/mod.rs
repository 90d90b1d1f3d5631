//! `port-monitor history`: looks back, at what `--history` and the service have kept.

mod filters;
mod list;
mod place;
mod sums;

use std::io::Write;

use self::{
    filters::FilterArgs,
    list::ListArgs,
    place::{FileArgs, Here},
};
use crate::base::exit_code::{ExitCode, Failure};

/// Flags of `history`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    list: ListArgs,
}

/// Tells what is in the history.
pub fn run(args: &Args, out: impl Write) -> Result<ExitCode, Failure> {
    run_at(args, &Here::now(), out)
}

fn run_at(args: &Args, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    list::run(args, here, out)
}

#[cfg(test)]
mod tests;
