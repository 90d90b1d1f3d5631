//! The command line: clap types only, no logic. `--help`, the man page and the
//! completions all come from here.

use clap::{Parser, Subcommand};

use crate::{base::exit_code::ExitCode, commands};

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

impl Cli {
    /// The command to run and watch, where one may be named.
    pub(crate) fn command_to_run(&self) -> Option<&[std::ffi::OsString]> {
        match &self.command {
            None => Some(self.watch.command()),
            Some(Command::Watch(args)) => Some(args.command()),
            Some(_) => None,
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show connections as they happen (the default)
    Watch(Box<commands::watch::Args>),
    /// Look at connections, processes, services, listeners and rules as they are
    #[cfg(feature = "top")]
    Top(Box<commands::top::Args>),
    /// List what listens, how exposed it is, whose it is, and who came in
    Audit(Box<commands::audit::Args>),
    /// Look back at the connections that were kept
    History(Box<commands::history::Args>),
    /// Print what a receiver of exported connections needs
    Export(commands::export::Args),
    /// Say what this kernel and these privileges allow
    Doctor(commands::doctor::Args),
    /// Look up TCP ports and service names
    Service(commands::service::Args),
    /// Wait for the monitor, then become a command
    #[command(name = crate::commands::child::SUBCOMMAND, hide = true)]
    Exec(commands::exec::Args),
    /// Run as a service, as a configuration says
    Serve(commands::serve::Args),
    /// Print the JSON Schema of the lines `-o json` writes
    Schema(commands::schema::Args),
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
    /// Tell which policy is in force, and how often each rule decided; or how the service stands
    Status(commands::status::Args),
    /// End the enforcement of a policy: detach its programs, and deny nothing by it
    #[command(name = "panic-open")]
    PanicOpen(commands::enforce::InstanceArgs),
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command, CommandFactory as _};

    use super::*;

    /// Options whose values are names and paths that somebody else chose.
    fn options_of_names(command: &Command, found: &mut Vec<(String, Arg)>) {
        let takes_name = |arg: &&Arg| {
            let names = arg.get_value_names().unwrap_or_default();
            let kinds = ["NAME", "NAME|UID", "USER", "PATH", "FILE"];
            let is_name = names.iter().any(|name| kinds.contains(&name.as_str()));
            !arg.is_positional() && (is_name || arg.get_id() == "dir")
        };
        let named = command.get_arguments().filter(takes_name);
        found.extend(named.map(|arg| (command.get_name().to_owned(), arg.clone())));
        for command in command.get_subcommands() {
            options_of_names(command, found);
        }
    }

    #[test]
    fn every_name_and_path_may_begin_with_a_hyphen() {
        let mut found = Vec::new();
        options_of_names(&Cli::command(), &mut found);
        assert!(found.len() > 20, "{}", found.len());
        for (command, arg) in found {
            let refuses = !arg.is_allow_hyphen_values_set();
            assert!(!refuses, "{command}: {}", arg.get_id());
        }
    }

    #[test]
    fn units_whose_names_begin_with_a_hyphen_are_taken_and_options_are_not_made_names() {
        let takes = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for unit in ["-.slice", "-.mount", "--odd.service"] {
            for command in [
                "policy explain out tcp 192.0.2.1:1",
                "watch",
                "audit",
                "watch --comm -bash",
            ] {
                assert!(
                    takes(&format!("port-monitor {command} --unit {unit}")),
                    "{command}"
                );
            }
        }
        assert!(takes("port-monitor watch --output-file -x --policy -y"));
        assert!(takes("port-monitor man --dir -x"));
        assert!(takes("port-monitor apply --instance -x"));
        assert!(!takes("port-monitor watch --output-file --verbose"));
        assert!(!takes("port-monitor man --dir --help"));
        assert!(!takes("port-monitor apply --instance --force"));
        assert!(!takes(
            "port-monitor policy explain out tcp 192.0.2.1:1 --no-such"
        ));
    }
}
