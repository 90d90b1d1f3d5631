//! The command line: clap types only, no logic. `--help`, the man page and the
//! completions all come from here.

use clap::{Parser, Subcommand};

use crate::{commands, exit_code::ExitCode};

/// Show every TCP connection this host opens and accepts, and hold it to a policy.
#[derive(Debug, Parser)]
#[command(
    name = "port-monitor",
    version,
    args_conflicts_with_subcommands = true,
    after_long_help = ExitCode::help()
)]
pub struct Cli {
    /// What to do; `watch` when nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `watch`.
    #[command(flatten)]
    pub watch: commands::watch::Args,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show connections as they happen (the default)
    Watch(Box<commands::watch::Args>),
    /// List what listens, how exposed it is, whose it is, and who came in
    Audit(Box<commands::audit::Args>),
    /// Say what this kernel and these privileges allow
    Doctor(commands::doctor::Args),
    /// Look up TCP ports and service names
    Service(commands::service::Args),
    /// Wait for the monitor, then become a command
    #[command(name = crate::child::SUBCOMMAND, hide = true)]
    Exec(commands::exec::Args),
    /// Print the JSON Schema of the lines `-o json` writes
    Schema,
    /// Print the completion script for a shell
    Completions(commands::completions::Args),
    /// Print the manual page, or write one for each command
    Man(commands::man::Args),
    /// Check a policy, explain what it decides, or try it
    Policy(commands::policy::Args),
    /// Put a policy into force, in the kernel, from now on
    Apply(commands::enforce::ApplyArgs),
    /// Keep the policy that waits to be confirmed
    Confirm(commands::enforce::InstanceArgs),
    /// Go back to the policy before
    Rollback(commands::enforce::InstanceArgs),
    /// Tell which policy is in force, and how often each rule decided
    Status(commands::enforce::StatusArgs),
    /// End enforcement: detach everything, let every connection be
    #[command(name = "panic-open")]
    PanicOpen(commands::enforce::InstanceArgs),
}
