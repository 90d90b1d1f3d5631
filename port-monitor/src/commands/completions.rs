//! `port-monitor completions SHELL`.

use clap::Command;
use clap_complete::Shell;

use crate::{
    base::exit_code::{ExitCode, Failure},
    consume::output::target::print,
};

/// What the completed command line begins with.
const PROGRAM: &str = "port-monitor";

/// The shell to complete in.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script by which the shell completes the command line of `program`.
pub fn run(args: &Args, program: &Command) -> Result<ExitCode, Failure> {
    // The generators would offer hidden subcommands too.
    let shown = program.get_subcommands().filter(|it| !it.is_hide_set());
    let mut command = Command::new(PROGRAM)
        .args(program.get_arguments().cloned())
        .groups(program.get_groups().cloned())
        .subcommands(shown.cloned());
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, PROGRAM, &mut script);
    print(&script)
}
