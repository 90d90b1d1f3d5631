//! The history: every connection as a row of an SQLite file, which outlives the run.
//!
//! Rows are written in batches. Those of connections that are open are there from the next
//! batch on, and are completed. Whatever is wrong with the file, nothing else suffers.

mod keep;
mod names;
pub mod outbox;
pub mod read;
mod rows;
mod schema;
mod store;
pub mod told;
mod writer;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use self::{keep::Keep, store::OpenError};
use self::{
    keep::Left,
    rows::wall_ns,
    store::{Store, shown},
    writer::Writer,
};
use super::{
    consumer::{Consumer, Gaps, Kinds, Needs, Stats},
    join::{Connection, Join, State},
};
use crate::events::{
    record::{Account, Dropped, Header, Item, Loss, Record},
    wire::words::Spelled as _,
};

/// Rows that are written at once.
const BATCH_ROWS: usize = 1_000;
/// After so long at most, what has come is written; after a failure it is tried again.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// How often it is written that somebody watches, while nothing comes.
const WATCH_TIME: Duration = Duration::from_secs(10);
/// Why events are missing that could not be written.
const NOT_WRITTEN: &str = "not_written";
/// Rows that wait at most while the file cannot be written.
const WAITING_ROWS: usize = 16_384;

/// The consumer that writes the history.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    keep: Keep,
    kinds: Kinds,
    /// The file, until a run is begun with it.
    store: Option<Store>,
    header: Option<Header>,
    writer: Option<Writer>,
    join: Join<Saved>,
    /// Those of which something was told since they were written.
    changed: Vec<u64>,
    /// Those of which nothing more is expected.
    done: Vec<Connection<Saved>>,
    losses: Vec<(i128, &'static str, u64)>,
    gaps: Gaps,
    /// When it was written last, or tried to.
    written: Instant,
    /// There may be more that is too old, or too much.
    left: Left,
    now_ns: i64,
    taken: u64,
    failed: u64,
    /// Of those, the history does not tell yet.
    untold: u64,
    /// What it failed of last.
    error: Option<String>,
    is_failing: bool,
}

/// What of a connection is written.
#[derive(Clone, Copy, Debug, Default)]
struct Saved {
    row: Option<i64>,
    events: u32,
    is_changed: bool,
}

impl Connection<Saved> {
    /// Events that are not written.
    fn unsaved(&self) -> u64 {
        u64::from(self.events.saturating_sub(self.mark.events))
    }

    /// The file does not have it as it is.
    const fn is_unwritten(&self) -> bool {
        self.events != self.mark.events || matches!(self.state, State::CutOff | State::PushedOut)
    }
}

impl History {
    /// A history in the file at `path`, of events of these `kinds`.
    pub fn open(path: &Path, kinds: Kinds, keep: Keep) -> Result<Self, OpenError> {
        let now = Instant::now();
        Ok(Self {
            path: path.to_owned(),
            keep,
            kinds,
            store: Some(Store::open(path)?),
            header: None,
            writer: None,
            join: Join::default(),
            changed: Vec::new(),
            done: Vec::new(),
            losses: Vec::new(),
            gaps: Gaps::default(),
            written: now,
            left: Left::Nothing,
            now_ns: 0,
            taken: 0,
            failed: 0,
            untold: 0,
            error: None,
            is_failing: false,
        })
    }

    fn event(&mut self, record: &Record) {
        self.now_ns = wall_ns(record.wall_ns);
        let connection = self.join.take(record, &mut self.done);
        if let Some(connection) = connection
            && !connection.mark.is_changed
        {
            connection.mark.is_changed = true;
            self.changed.push(record.event.id);
        }
        let is_due = !self.is_failing || self.written.elapsed() >= BATCH_TIME;
        if self.changed.len() + self.done.len() >= BATCH_ROWS && is_due {
            self.write();
        }
    }

    /// Writes what has come, if that is long enough ago.
    fn write_in_time(&mut self) {
        let is_waiting = !self.changed.is_empty()
            || !self.losses.is_empty()
            || self.done.iter().any(Connection::is_unwritten);
        let time = if is_waiting || self.left == Left::Something {
            BATCH_TIME
        } else {
            WATCH_TIME
        };
        if self.written.elapsed() >= time {
            self.write();
        }
    }

    /// Writes what has come, and forgets some of what is too old.
    fn write(&mut self) {
        let result = match self.try_write() {
            Err(Fault::Sql(error)) if store::is_damage(&error) => {
                self.move_aside(&error).and_then(|()| self.try_write())
            }
            other => other,
        };
        self.written = Instant::now();
        let is_failing = result.is_err();
        if let Err(fault) = result {
            let error = fault.told(&self.path);
            if !self.is_failing {
                log::warn!("--history: {error}; it is tried again");
            }
            self.error = Some(error);
            if self.done.len() >= WAITING_ROWS {
                self.give_up();
            }
        } else if self.is_failing {
            log::warn!("--history: {} is written again", shown(&self.path));
        }
        self.is_failing = is_failing;
    }

    fn try_write(&mut self) -> Result<(), Fault> {
        let Some(writer) = self.begin()? else {
            return Ok(());
        };
        let mut writer = writer;
        let result = self.write_with(&mut writer);
        self.writer = Some(writer);
        result
    }

    /// The run in the file; `None` before it begins.
    fn begin(&mut self) -> Result<Option<Writer>, Fault> {
        if let Some(writer) = self.writer.take() {
            return Ok(Some(writer));
        }
        let Some(header) = &self.header else {
            return Ok(None);
        };
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path)?,
        };
        Ok(Some(Writer::begin(store, header)?))
    }

    fn write_with(&mut self, writer: &mut Writer) -> Result<(), Fault> {
        let (join, changed, done) = (&self.join, &self.changed, &self.done);
        let (losses, untold, now_ns) = (&self.losses, self.untold, self.now_ns);
        let rows = writer.batch(now_ns, |batch| {
            for (time_ns, cause, lost) in losses {
                batch.lose(*time_ns, cause, *lost)?;
            }
            if untold > 0 {
                batch.lose(now_ns.into(), NOT_WRITTEN, untold)?;
            }
            for connection in done.iter().filter(|connection| connection.is_unwritten()) {
                batch.save(connection, connection.mark.row)?;
            }
            let rows = changed.iter().map(|id| match join.get(*id) {
                Some(connection) => batch.save(connection, connection.mark.row),
                // It is among those that are done.
                None => Ok(0),
            });
            rows.collect::<Result<Vec<_>, _>>()
        })?;
        self.note_written(&rows);
        self.left = writer.forget(self.keep, now_ns)?;
        Ok(())
    }

    /// All that has come is in the file; those that have changed are in `rows`.
    fn note_written(&mut self, rows: &[i64]) {
        for (id, row) in self.changed.drain(..).zip(rows) {
            if let Some(connection) = self.join.get_mut(id) {
                self.taken += connection.unsaved();
                connection.mark = Saved {
                    row: Some(*row),
                    events: connection.events,
                    is_changed: false,
                };
            }
        }
        self.taken += self.done.drain(..).map(|done| done.unsaved()).sum::<u64>();
        self.losses.clear();
        self.untold = 0;
    }

    /// The file is damaged: begins another one, with what is not over yet.
    fn move_aside(&mut self, error: &rusqlite::Error) -> Result<(), Fault> {
        // Before its file has another name.
        self.writer = None;
        store::move_aside(&self.path, error)?;
        for connection in self.join.iter_mut() {
            connection.mark.row = None;
            if connection.state.is_open() && !connection.mark.is_changed {
                connection.mark.is_changed = true;
                self.changed.push(connection.id());
            }
        }
        for connection in &mut self.done {
            connection.mark.row = None;
        }
        Ok(())
    }

    /// Too much waits for a file that cannot be written: what is over is given up.
    fn give_up(&mut self) {
        let lost: u64 = self.done.drain(..).map(|done| done.unsaved()).sum();
        self.failed += lost;
        self.untold += lost;
        let join = &self.join;
        self.changed.retain(|id| join.get(*id).is_some());
    }
}

impl Consumer for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn needs(&self) -> Needs {
        Needs {
            kinds: self.kinds,
            allowed: true,
            peers: false,
        }
    }

    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Event(record) => self.event(record),
            Item::Header(header) => {
                self.now_ns = wall_ns(header.wall_ns);
                self.header = Some(header.clone());
                self.write();
            }
            // Each row has the name of its rule.
            Item::Policy(_) => {}
            Item::Loss(loss) => self.losses.push(missing(loss)),
            Item::Summary(summary) => {
                if let Some(writer) = self.writer.take()
                    && let Err(error) = writer.end(wall_ns(summary.wall_ns))
                {
                    log::warn!("--history: {}", Fault::Sql(error).told(&self.path));
                }
            }
        }
    }

    fn tick(&mut self, stats: &Stats) {
        self.now_ns = wall_ns(stats.wall_ns);
        let losses = &mut self.losses;
        self.gaps.tell(stats, stats.queue_full, |loss| {
            losses.push(missing(loss));
            true
        });
        self.join.sweep(&mut self.done);
        self.write_in_time();
    }

    fn settle(&mut self) {
        self.join.end(&mut self.done);
        self.write();
        if self.is_failing {
            self.give_up();
        }
    }

    fn account(&mut self) -> Account {
        let has_failed = self.is_failing || self.failed > 0;
        Account {
            delivered: self.taken + self.failed,
            taken: self.taken,
            hidden: 0,
            dropped: Dropped {
                failed: self.failed,
                ..Dropped::default()
            },
            error: self.error.clone().filter(|_| has_failed),
        }
    }
}

fn missing(loss: &Loss) -> (i128, &'static str, u64) {
    (loss.wall_ns, loss.cause.word(), loss.lost)
}

/// Why something is not written.
#[derive(Debug)]
enum Fault {
    Open(OpenError),
    Sql(rusqlite::Error),
}

impl Fault {
    fn told(&self, path: &Path) -> String {
        match self {
            Self::Open(error) => error.to_string(),
            Self::Sql(error) => format!("write {}: {error}", shown(path)),
        }
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

#[cfg(test)]
mod tests;
