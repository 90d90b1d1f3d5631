//! One module per subcommand: its arguments and its `run`.

use crate::{
    cli::{Cli, Command},
    exit_code::{ExitCode, Failure},
};

pub mod completions;
pub mod man;
pub mod schema;
pub mod watch;

/// Runs what the command line asks for.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        None => watch::run(cli.watch),
        Some(Command::Watch(args)) => watch::run(*args),
        Some(Command::Schema) => schema::run(),
        Some(Command::Completions(args)) => completions::run(&args),
        Some(Command::Man) => man::run(),
    }
}
