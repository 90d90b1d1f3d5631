//! `port-monitor completions SHELL`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    cli::Cli,
    exit_code::{ExitCode, Failure},
    sink::target::print,
};

/// The shell to complete in.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the shell's completion script.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(&script)
}
