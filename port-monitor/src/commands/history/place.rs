//! Which history, and which time.

use std::path::PathBuf;

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    base::{
        exit_code::{ExitCode, Failure},
        time,
        when::{self, When},
        zone,
    },
    consume::history::{
        read::{ReadError, Reader},
        told::missing,
    },
};

/// Where the service keeps its history.
const FILE: &str = "/var/lib/port-monitor/history.db";

/// Which history.
#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// The history: that of the service, or of `--history FILE`
    #[arg(long, value_name = "FILE", default_value = FILE, allow_hyphen_values = true)]
    pub(super) file: PathBuf,
}

impl FileArgs {
    /// Opens it for reading.
    pub(super) fn open(&self) -> Result<Reader, Failure> {
        Reader::open(&self.file).map_err(unreadable)
    }
}

/// The history cannot be read.
pub(super) fn unreadable(error: ReadError) -> Failure {
    let code = if error.is_lock() {
        ExitCode::Locked
    } else {
        ExitCode::Usage
    };
    Failure::new(code, error)
}

/// When and where somebody looks back.
#[derive(Debug)]
pub(super) struct Here {
    /// ns since the Unix epoch.
    pub(super) now_ns: i128,
    /// Where people live.
    pub(super) zone: TimeZone,
}

impl Here {
    /// Now, on this host.
    pub(super) fn now() -> Self {
        Self {
            now_ns: Timestamp::now().as_nanosecond(),
            zone: zone::local(),
        }
    }

    /// How much local clocks are ahead of UTC at a time, both in ns.
    pub(super) fn offset_ns(&self, wall_ns: i128) -> i128 {
        let time = Timestamp::from_nanosecond(wall_ns).unwrap_or(Timestamp::UNIX_EPOCH);
        i128::from(self.zone.to_offset(time).seconds()) * 1_000_000_000
    }
}

/// What is missing from the time that is asked for, from and to so many ns since the Unix epoch.
pub(super) fn missing_of(
    reader: &Reader,
    (since_ns, until_ns): (Option<i128>, Option<i128>),
    here: &Here,
) -> Result<Vec<String>, Failure> {
    let watched = reader.watched(since_ns, until_ns, here.now_ns);
    Ok(missing(&watched.map_err(unreadable)?, &here.zone))
}

/// Which time.
#[derive(Debug, clap::Args)]
pub(super) struct SpanArgs {
    /// What began then or later: 30m or 1h ago, today, yesterday, 2026-11-28,
    /// 2026-11-28T10:00 (local; or with Z or +01:00 behind it)
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<When>,
    /// What began before that; written in the same way
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    until: Option<When>,
}

/// A span of time, in ns since the Unix epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) since_ns: Option<i128>,
    pub(super) until_ns: Option<i128>,
}

impl SpanArgs {
    /// The span that is meant.
    pub(super) fn span(&self, here: &Here) -> Result<Span, Failure> {
        let Here { now_ns, zone } = here;
        let at = |when: Option<When>| when.map(|when| when.wall_ns(*now_ns, zone));
        let (since_ns, until_ns) = (at(self.since), at(self.until));
        if let Some((since, until)) = since_ns.zip(until_ns)
            && since >= until
        {
            let told = |ns| time::local(ns, zone);
            let (since, until) = (told(since), told(until));
            return Err(Failure::usage(format!(
                "--since {since} is not before --until {until}: nothing is between them"
            )));
        }
        Ok(Span { since_ns, until_ns })
    }
}
