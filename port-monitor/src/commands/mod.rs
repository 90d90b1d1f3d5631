//! One module per subcommand: its arguments and its `run`.

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::Context as _;

use crate::{
    cli::{Cli, Command},
    exit_code::{ExitCode, Failure, OrExit as _},
    logging,
    sink::stdout::{self, Stdout},
};

pub mod audit;
pub mod completions;
pub mod doctor;
pub mod enforce;
pub mod exec;
pub mod man;
pub mod policy;
pub mod schema;
pub mod service;
pub mod watch;

/// Runs what the command line asks for.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    logging::init(match &cli.command {
        None => cli.watch.bpf_log(),
        Some(Command::Watch(args)) => args.bpf_log(),
        Some(Command::Audit(args)) => args.bpf_log(),
        Some(_) => None,
    });
    match cli.command {
        None => watch::run(&cli.watch),
        Some(Command::Watch(args)) => watch::run(&args),
        Some(Command::Audit(args)) => audit::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args, Stdout::lock()),
        Some(Command::Service(args)) => service::run(&args, Stdout::lock()),
        Some(Command::Exec(args)) => exec::run(&args),
        Some(Command::Schema) => schema::run(),
        Some(Command::Completions(args)) => completions::run(&args),
        Some(Command::Man(args)) => man::run(&args),
        Some(Command::Policy(args)) => policy::run(&args, Stdout::lock()),
        Some(Command::Apply(args)) => {
            // Before anything changes. What takes a policy back is done all the same.
            written(stdout::check())?;
            enforce::apply(&args, Stdout::lock())
        }
        Some(Command::Confirm(args)) => enforce::confirm(&args, Stdout::lock()),
        Some(Command::Rollback(args)) => enforce::rollback(&args, Stdout::lock()),
        Some(Command::Status(args)) => enforce::status(&args, Stdout::lock()),
        Some(Command::PanicOpen(args)) => enforce::panic_open(&args, Stdout::lock()),
    }
}

/// How a command ends that wrote to the standard output: a reader that has had
/// enough, as `head` does, is no failure.
fn written(result: io::Result<()>) -> Result<ExitCode, Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error)
            .context("write to the standard output")
            .or_exit(ExitCode::OutputFailed),
        _ => Ok(ExitCode::Ok),
    }
}

/// Tells on standard error, in one line, what ends no command.
fn note(text: impl fmt::Display) {
    // Whoever closed it does not want to be told.
    let _ = writeln!(io::stderr(), "port-monitor: {text}");
}
