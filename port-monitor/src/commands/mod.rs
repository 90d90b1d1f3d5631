//! One module per subcommand: its arguments and its `run`.

use crate::{
    cli::{Cli, Command},
    exit_code::{ExitCode, Failure},
};

pub mod exec;
pub mod watch;

/// Runs what the command line asks for.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        None => watch::run(cli.watch),
        Some(Command::Watch(args)) => watch::run(*args),
        Some(Command::Exec(args)) => exec::run(&args),
    }
}
