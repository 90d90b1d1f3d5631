//! From the command line to the command it asks for.

use clap::CommandFactory as _;

use crate::{
    base::exit_code::{ExitCode, Failure},
    cli::{Cli, Command},
    commands::{
        audit, completions, doctor, enforce, exec, export, history, man, policy, schema, serve,
        service, status, watch,
    },
    consume::output::stdout::Stdout,
    logging,
};

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
        #[cfg(feature = "top")]
        Some(Command::Top(args)) => crate::commands::top::run(&args),
        Some(Command::Audit(args)) => audit::run(&args),
        Some(Command::History(args)) => history::run(&args, Stdout::lock()),
        Some(Command::Export(args)) => export::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args, Stdout::lock()),
        Some(Command::Service(args)) => service::run(&args, Stdout::lock()),
        Some(Command::Exec(args)) => exec::run(&args),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Schema(args)) => schema::run(&args),
        Some(Command::Completions(args)) => completions::run(&args, &Cli::command()),
        Some(Command::Man(args)) => man::run(&args, Cli::command()),
        Some(Command::Policy(args)) => policy::run(&args, Stdout::lock()),
        Some(Command::Apply(args)) => enforce::apply(&args, Stdout::lock()),
        Some(Command::Confirm(args)) => enforce::confirm(&args, Stdout::lock()),
        Some(Command::Rollback(args)) => enforce::rollback(&args, Stdout::lock()),
        Some(Command::Status(args)) => status::run(&args, Stdout::lock()),
        Some(Command::PanicOpen(args)) => enforce::panic_open(&args, Stdout::lock()),
    }
}
