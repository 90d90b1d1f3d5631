//! The consumers beside what is shown, and the flags that ask for them. To add one: a file
//! here, and below its flag and its line in [`Args::open`].

pub(in crate::consume) mod recording;

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::builder::{PathBufValueParser, TypedValueParser as _};
use port_monitor_common::event::EventKind;
use rustix::net::SocketAddrUnix;

use self::recording::Recording;
use super::{
    alert,
    consumer::{Consumer, Kinds, Needs},
    enforced,
    export::Board,
    history::{History, Keep, OpenError},
    metrics::Metrics,
    open::Register,
    output::{
        args::{new_path, parse_keep, parse_size},
        file::Limits,
    },
    socket::{Events, Socket},
};
use crate::base::{
    duration,
    exit_code::{ExitCode, Failure, OrExit as _},
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
    /// Put the recording aside before it is larger than this (64K, 100M, 2G): the latest is
    /// FILE.1.gz
    #[arg(long, value_name = "BYTES", value_parser = parse_size, requires = "record")]
    record_rotate_size: Option<u64>,
    /// How many old recordings to keep
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = parse_keep,
        requires = "record_rotate_size"
    )]
    record_rotate_keep: u32,
    /// Keep every connection in FILE too, an SQLite database, beside whatever is shown
    ///
    /// One row for each, whatever --events shows; `port-monitor history` reads them. FILE is
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
    /// Have metrics scraped at http://ADDR:PORT/metrics, by Prometheus and what asks as it does
    ///
    /// `docs/metrics.md` has all of them. Whoever reaches the address can read them: choose
    /// one of this host, such as 127.0.0.1:9758.
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    metrics: Option<SocketAddr>,
    /// Write metrics to FILE every 5 seconds, for the textfile collector of `node_exporter`
    ///
    /// FILE ends in `.prom`, and is always whole. What it has at the end of a run is what the
    /// account says.
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(metrics_file)
    )]
    metrics_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) alerts: alert::Args,
    /// Tell at the Unix socket FILE how the run stands, to `port-monitor status`
    ///
    /// Its owner and its group may ask. FILE goes when the run ends.
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(socket)
    )]
    socket: Option<PathBuf>,
    /// How exports stand, for the metrics.
    #[arg(skip)]
    exports: Arc<Board>,
    /// How the policy stands that is enforced, for the metrics and the socket.
    #[arg(skip)]
    enforced: Arc<enforced::Board>,
    /// What a service tells at its socket.
    #[arg(skip)]
    events: Option<Events>,
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

/// The path of a Unix socket, whose name the kernel has no room for beyond some bytes.
fn socket(path: PathBuf) -> Result<PathBuf, &'static str> {
    if SocketAddrUnix::new(&path).is_err() {
        return Err("too long for a Unix socket: name a file by at most 107 bytes");
    }
    new_path(path)
}

/// The path of a file that the collector of `node_exporter` reads.
fn metrics_file(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path.extension() != Some(OsStr::new("prom")) {
        return Err("node_exporter reads files whose names end in .prom: name it so");
    }
    new_path(path)
}

/// An address to listen at.
fn parse_listen(text: &str) -> Result<SocketAddr, &'static str> {
    let address = text.parse();
    address.map_err(|_| "not an address with a port: write 127.0.0.1:9758 or [::1]:9758")
}

impl Args {
    /// One of them tells events in JSON.
    pub(crate) const fn tell_json(&self) -> bool {
        self.record.is_some()
    }

    /// The file of the history.
    pub(crate) fn history_file(&self) -> Option<&Path> {
        self.history.as_deref()
    }

    /// Has metrics and the socket tell of the exports and of the policy on these boards.
    pub(crate) fn tell_boards(&mut self, exports: Arc<Board>, enforced: Arc<enforced::Board>) {
        self.exports = exports;
        self.enforced = enforced;
    }

    /// Has the socket tell these events to whoever asks.
    pub(crate) fn tell_events(&mut self, events: Events) {
        self.events = Some(events);
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
            let keep = self.record_rotate_keep;
            let limits = self.record_rotate_size.map(|size| Limits { size, keep });
            consumers.push(Box::new(Recording::open(path, limits, kinds, shown)?));
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
        if self.metrics.is_some() || self.metrics_file.is_some() {
            consumers.push(Box::new(self.metrics(kinds)?));
        }
        if let Some(alerts) = self.alerts.open()? {
            consumers.push(Box::new(alerts));
        }
        if let Some(path) = &self.socket {
            let socket = Socket::open(path, self.events.clone(), Arc::clone(&self.enforced))
                .with_context(|| format!("--socket: {}", path.display()))
                .or_exit(ExitCode::OutputFailed)?;
            consumers.push(Box::new(socket));
            if self.events.is_some() {
                consumers.push(Box::new(Register::new(Needs {
                    kinds: whole(kinds),
                    ..Needs::EVENTS
                })));
            }
        }
        Ok(consumers)
    }

    /// Metrics are of connections as a whole, as the history is.
    fn metrics(&self, kinds: Kinds) -> Result<Metrics, Failure> {
        let (exports, enforced) = (Arc::clone(&self.exports), Arc::clone(&self.enforced));
        let mut metrics = Metrics::new(whole(kinds)).with_boards(exports, enforced);
        if let Some(address) = self.metrics {
            metrics = metrics
                .listen(address)
                .with_context(|| format!("--metrics: listen at {address}"))
                .or_exit(ExitCode::OutputFailed)?;
            if !address.ip().is_loopback() {
                log::warn!("--metrics: whoever reaches {address} can read the metrics");
            }
        }
        if let Some(path) = &self.metrics_file {
            metrics = metrics
                .write_to(path)
                .with_context(|| format!("--metrics-file: write {}", path.display()))
                .or_exit(ExitCode::OutputFailed)?;
        }
        Ok(metrics)
    }

    /// The history takes every kind that makes a connection whole; progress where it is told.
    fn history(&self, path: &Path, kinds: Kinds) -> Result<History, Failure> {
        let keep = Keep {
            age: self.history_keep,
            bytes: self.history_max_size,
        };
        History::open(path, whole(kinds), keep).map_err(|error| {
            let code = match error {
                OpenError::Locked { .. } => ExitCode::Locked,
                OpenError::NotAHistory { .. } | OpenError::Newer { .. } => ExitCode::Usage,
                OpenError::Io { .. } | OpenError::Sql { .. } => ExitCode::OutputFailed,
            };
            Failure::new(code, anyhow::Error::new(error).context("--history"))
        })
    }
}

/// These kinds, and all that make a connection whole.
pub(crate) fn whole(kinds: Kinds) -> Kinds {
    let whole = EventKind::ALL.into_iter();
    let whole = whole.filter(|kind| *kind != EventKind::Progress);
    kinds.or(whole.collect())
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
