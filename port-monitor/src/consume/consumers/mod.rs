//! The consumers beside what is shown, and the flags that ask for them. To add one: a file
//! here, and below its flag and its line in [`Args::open`].

mod recording;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use port_monitor_common::event::EventKind;

use self::recording::Recording;
use super::{
    consumer::{Consumer, Kinds},
    history::{History, Keep, OpenError},
    output::args::{new_path, parse_size},
};
use crate::base::{
    duration,
    exit_code::{ExitCode, Failure},
};

/// The smallest limit of a history.
const MIN_HISTORY_BYTES: u64 = 1 << 20;

/// What asks for consumers.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Output")]
pub struct Args {
    /// Write every event as JSON lines to FILE too, beside whatever is shown
    ///
    /// What it has more than the table or --violations show counts as filtered there. FILE is
    /// appended to, and may be a named pipe. If it cannot be written, or its reader is too
    /// slow, nothing else suffers: the account says what is missing there.
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(file)
    )]
    record: Option<PathBuf>,
    /// Keep every connection in FILE too, an SQLite database, beside whatever is shown
    ///
    /// One row for each, whatever --events shows; `docs/history.md` has the columns. FILE is
    /// added to, by one port-monitor at a time. If it cannot be written, nothing else suffers:
    /// the account says what is missing there.
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(database)
    )]
    history: Option<PathBuf>,
    /// Forget in the history what has ended longer ago: 12h, 30d
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30d",
        value_parser = duration::parse,
        requires = "history"
    )]
    history_keep: Duration,
    /// Forget the oldest in the history when FILE is larger: 500M, 2GiB
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "2GiB",
        value_parser = parse_max_size,
        requires = "history"
    )]
    history_max_size: u64,
}

/// The path of a file, which the standard output is not.
fn file(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path == Path::new("-") {
        return Err("not a file: -o json writes to standard output");
    }
    new_path(path)
}

/// The path of a database, which no stream is.
fn database(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path == Path::new("-") {
        return Err("not a file: a history is a database");
    }
    new_path(path)
}

impl Args {
    /// One of them tells events in JSON.
    pub(crate) const fn tell_json(&self) -> bool {
        self.record.is_some()
    }

    /// Makes them, of events of these `kinds`. What is shown is in `shown`, or on standard
    /// output.
    pub fn open(
        &self,
        kinds: Kinds,
        shown: Option<&Path>,
    ) -> Result<Vec<Box<dyn Consumer>>, Failure> {
        let mut consumers: Vec<Box<dyn Consumer>> = Vec::new();
        if let Some(path) = &self.record {
            consumers.push(Box::new(Recording::open(path, kinds, shown)?));
        }
        if let Some(path) = &self.history {
            let others = [shown, self.record.as_deref()];
            if others
                .into_iter()
                .flatten()
                .any(|other| is_one_file(path, other))
            {
                return Err(Failure::usage(format_args!(
                    "--history: {} is written already: name another file",
                    path.display()
                )));
            }
            consumers.push(Box::new(self.history(path, kinds)?));
        }
        Ok(consumers)
    }

    /// The history takes every kind that makes a connection whole; progress where it is told.
    fn history(&self, path: &Path, kinds: Kinds) -> Result<History, Failure> {
        let whole = EventKind::ALL.into_iter();
        let whole = whole.filter(|kind| *kind != EventKind::Progress);
        let keep = Keep {
            age: self.history_keep,
            bytes: self.history_max_size,
        };
        History::open(path, kinds.or(whole.collect()), keep).map_err(|error| {
            let code = match error {
                OpenError::Locked { .. } => ExitCode::Locked,
                OpenError::NotAHistory { .. } | OpenError::Newer { .. } => ExitCode::Usage,
                OpenError::Io { .. } | OpenError::Sql { .. } => ExitCode::OutputFailed,
            };
            Failure::new(code, anyhow::Error::new(error).context("--history"))
        })
    }
}

/// A history has room for some hours of a quiet host at least.
fn parse_max_size(text: &str) -> Result<u64, &'static str> {
    match parse_size(text)? {
        bytes if bytes < MIN_HISTORY_BYTES => Err("too small for a history: write 1M or more"),
        bytes => Ok(bytes),
    }
}

/// Both paths lead to one file.
fn is_one_file(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}
