//! The flags that ask for alerts.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use clap::ArgGroup;
use rustix::fs::{Access, access};

use super::{Alerts, Commands, Journal, gate::Rate, journal::SOCKET};
use crate::{
    base::{
        duration,
        exit_code::{ExitCode, Failure, OrExit as _},
    },
    events::alert::AlertKind,
};

/// How long a command may run where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a command may run.
const LONGEST: Duration = Duration::from_hours(1);

/// What asks for alerts.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(
    next_help_heading = "Alerts",
    group = ArgGroup::new("alerts").multiple(true).args(["alert_journal", "alert_command"])
)]
pub struct Args {
    /// Tell in the systemd journal of what --alert-on names
    ///
    /// An entry for each, with fields to find it by: `journalctl -t port-monitor -p warning`,
    /// or `journalctl PORT_MONITOR_ALERT=violation`. `docs/alerts.md` has all of them.
    #[arg(id = "alert_journal", long = "alert-journal")]
    journal: bool,
    /// Run a command for each of what --alert-on names: its program, by its whole path
    ///
    /// Repeat it for each argument. The command reads one line of JSON on its standard input,
    /// as -o json writes them. It is not run by a shell, and 4 run at a time.
    #[arg(
        id = "alert_command",
        long = "alert-command",
        value_name = "ARG",
        allow_hyphen_values = true,
        value_parser = argument
    )]
    command: Vec<String>,
    /// What to tell of
    #[arg(
        id = "alert_on",
        long = "alert-on",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "violation,denied,allowed,listener,loss",
        requires = "alerts"
    )]
    on: Vec<AlertKind>,
    /// Tell no more of each kind and priority than this, in bursts at most so many: 10/m, 1/s
    ///
    /// What is alike is told once a minute. What is held back is counted, and the next alert
    /// tells how many they were.
    #[arg(
        id = "alert_rate",
        long = "alert-rate",
        value_name = "RATE",
        default_value = "10/m",
        requires = "alerts"
    )]
    rate: Rate,
    /// Kill the command when it takes longer [default: 10s]
    #[arg(
        id = "alert_timeout",
        long = "alert-timeout",
        value_name = "TIME",
        value_parser = parse_timeout,
        requires = "alerts"
    )]
    timeout: Option<Duration>,
}

/// An argument of a command.
fn argument(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("empty: leave it out"),
        text if text.contains('\0') => Err("no argument can have a NUL in it"),
        text => Ok(text.to_owned()),
    }
}

/// A command takes a while, but not for ever.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let taken = "1h or less, such as 10s";
    match duration::parse_some(text, taken) {
        Ok(limit) if limit > LONGEST => Err(format!("more than 1 h: write {taken}")),
        Ok(limit) => Ok(limit),
        Err(error) => Err(error.to_string()),
    }
}

impl Args {
    /// What is wrong with a flag that is right by its form alone, and which one that is.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match self.command.first() {
            Some(program) if !program.starts_with('/') => Err((
                "alert-command",
                format!("`{}` is not an absolute path", program.escape_debug()),
            )),
            None if self.timeout.is_some() => Err((
                "alert-timeout",
                "there is no command that it is for".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Makes the consumer, if there is to be one.
    pub fn open(&self) -> Result<Option<Alerts>, Failure> {
        self.check()
            .map_err(|(flag, wrong)| Failure::usage(format_args!("--{flag}: {wrong}")))?;
        let program = self.command.first();
        if !self.journal && program.is_none() {
            return Ok(None);
        }
        let mut alerts = Alerts::new(&self.on, self.rate);
        if self.journal {
            alerts.journal = Some(Journal::at(SOCKET.into()));
        }
        if let Some(program) = program {
            check_program(program.as_ref())
                .with_context(|| format!("--alert-command: {program}"))
                .or_exit(ExitCode::Usage)?;
            let argv = self.command.clone();
            let limit = self.timeout.unwrap_or(TIMEOUT);
            alerts.commands = Some(Commands::new(argv, limit));
        }
        Ok(Some(alerts))
    }
}

fn check_program(program: &Path) -> anyhow::Result<()> {
    let is_file = fs::metadata(program)?.is_file();
    anyhow::ensure!(
        is_file && access(program, Access::EXEC_OK).is_ok(),
        "not an executable file (check its mode)"
    );
    Ok(())
}
