//! `port-monitor history`: looks back, at what `--history` and the service have kept.

mod filters;
mod form;
mod groups;
mod list;
mod new;
mod place;
mod sql;
mod stats;
mod unused;
mod who;

use std::io::Write;

use self::{
    filters::FilterArgs,
    list::ListArgs,
    new::NewArgs,
    place::{FileArgs, Here},
    sql::SqlArgs,
    stats::StatsArgs,
    unused::UnusedArgs,
    who::WhoArgs,
};
use crate::base::exit_code::{ExitCode, Failure};

/// Flags of `history`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    question: Option<Question>,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// What else a history is asked.
#[derive(Debug, clap::Subcommand)]
enum Question {
    /// Who has used a port, and with whom
    Who(WhoArgs),
    /// Processes, ports and peers that were never seen before
    New(NewArgs),
    /// Listeners that nobody used
    Unused(UnusedArgs),
    /// Connections and failures over time
    Stats(StatsArgs),
    /// Where the history is, and how to ask it by SQL
    Sql(SqlArgs),
}

/// Tells what is in the history.
pub fn run(args: &Args, out: impl Write) -> Result<ExitCode, Failure> {
    run_at(args, &Here::now(), out)
}

fn run_at(args: &Args, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    match (&args.question, args.list.groups.chosen()) {
        (Some(Question::Who(args)), _) => who::run(args, here, out),
        (Some(Question::New(args)), _) => new::run(args, here, out),
        (Some(Question::Unused(args)), _) => unused::run(args, here, out),
        (Some(Question::Stats(args)), _) => stats::run(args, here, out),
        (Some(Question::Sql(args)), _) => sql::run(args, out),
        (None, Some(counted)) => groups::run(args, counted, here, out),
        (None, None) => list::run(args, here, out),
    }
}

#[cfg(test)]
mod tests;
