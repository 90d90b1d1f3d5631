//! What of a history is to be sent elsewhere: rows that have ended, in the order of that, and
//! for each export how far it has come. No look and no write here lasts longer than a batch
//! takes; nothing is held in between.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
};
use thiserror::Error;

use super::{
    read::{ip_of, text},
    rows::INBOUND,
    schema,
    store::{self, OpenError, shown},
};

/// What fills the outbox while there is an export, and counts what is forgotten.
const TRIGGERS: &str = "
    CREATE TRIGGER IF NOT EXISTS outbox_insert AFTER INSERT ON connection_rows
    WHEN NEW.state >= 2 BEGIN INSERT INTO outbox (row) VALUES (NEW.id); END;
    CREATE TRIGGER IF NOT EXISTS outbox_update AFTER UPDATE ON connection_rows
    WHEN NEW.state >= 2 BEGIN INSERT INTO outbox (row) VALUES (NEW.id); END;
    CREATE TRIGGER IF NOT EXISTS outbox_delete AFTER DELETE ON connection_rows
    WHEN OLD.state >= 2 BEGIN
        UPDATE exports SET expired = expired +
            (SELECT count(*) FROM outbox WHERE row = OLD.id AND number > exports.sent_to);
        DELETE FROM outbox WHERE row = OLD.id;
    END;";

const NO_TRIGGERS: &str = "
    DROP TRIGGER IF EXISTS outbox_insert; DROP TRIGGER IF EXISTS outbox_update;
    DROP TRIGGER IF EXISTS outbox_delete; DELETE FROM outbox;";

/// The last number that was given in the outbox.
const LAST: &str = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)";

const NEXT: &str = "SELECT b.number, c.id, c.number, r.host, r.boot_id, process.text, o.pid,
    exe.text, coalesce(user.text, o.uid), unit.text, container.text, c.flags, c.local_ip,
    c.local_port, c.remote_ip, c.remote_port, service.text, c.state, c.verdict, rule.text,
    c.duration_ns, c.sent, c.received, c.handshake_us, c.rtt_us, c.retransmits, c.errno
    FROM outbox b CROSS JOIN connection_rows c ON c.id = b.row
    LEFT JOIN owners o ON o.id = c.owner LEFT JOIN runs r ON r.id = o.run
    LEFT JOIN texts process ON process.id = o.process LEFT JOIN texts exe ON exe.id = o.exe
    LEFT JOIN texts user ON user.id = o.user LEFT JOIN texts unit ON unit.id = o.unit
    LEFT JOIN texts container ON container.id = o.container
    LEFT JOIN texts service ON service.id = c.service LEFT JOIN texts rule ON rule.id = c.rule
    WHERE b.number > (SELECT sent_to FROM exports WHERE name = ?1) AND b.number <= ?3
    ORDER BY b.number LIMIT ?2";

/// Why an outbox cannot be used.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// The history cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is being begun.
    #[error("{0}: not written by this version yet")]
    NotYet(String),
    /// SQLite refused.
    #[error("{path}: {error}")]
    Sql {
        /// The file.
        path: String,
        /// Why.
        error: rusqlite::Error,
    },
}

/// What became of all that was recorded for an export:
/// `recorded = sent + waiting + expired + rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that have ended since it was set up.
    pub recorded: u64,
    /// Of these, those that the receiver has.
    pub sent: u64,
    /// Those that the history forgot before they were sent.
    pub expired: u64,
    /// Those that the receiver got and does not take.
    pub rejected: u64,
}

impl fmt::Display for Progress {
    /// The account. Hardly a receiver rejects anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting();
        let Self {
            recorded,
            sent,
            expired,
            rejected,
        } = self;
        write!(
            f,
            "recorded {recorded} = sent {sent} + waiting {waiting} + expired {expired}"
        )?;
        if *rejected > 0 {
            write!(f, " + rejected {rejected}")?;
        }
        Ok(())
    }
}

impl Progress {
    /// Those that are still to be sent.
    pub const fn waiting(&self) -> u64 {
        self.recorded
            .saturating_sub(self.sent)
            .saturating_sub(self.expired)
            .saturating_sub(self.rejected)
    }
}

/// A connection that has ended, with the names of the view `connections`.
#[expect(missing_docs, reason = "the comments of the receiver's table say it")]
#[derive(Debug, Default, serde::Serialize)]
pub struct Ended {
    /// Seconds since 1970.
    pub time: i64,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    pub direction: &'static str,
    pub local: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    pub remote: String,
    pub remote_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Tells the rows of one connection apart.
    pub time_ns: i64,
    pub boot_id: String,
    pub connection_id: u64,
    /// Of rows with the same key, the one with the highest is the last.
    pub version: i64,
}

/// Rows that were taken to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// So many.
    pub rows: u64,
    /// They were on their way before, and may have arrived.
    pub is_repeat: bool,
    last: i64,
}

/// What an export has to send.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
    name: String,
    progress: Progress,
    /// It was set up; where the file knows nothing of that, it is another file.
    is_set_up: bool,
}

impl Outbox {
    /// What the export of that name has to send of the history at `path`. A new one begins
    /// with what ends from now on.
    pub fn open(path: &Path, name: &str) -> Result<Self, OutboxError> {
        let mut outbox = Self {
            path: path.to_owned(),
            name: name.to_owned(),
            progress: Progress::default(),
            is_set_up: false,
        };
        outbox.look()?;
        outbox.is_set_up = true;
        Ok(outbox)
    }

    /// What became of all that was recorded, as of the last look.
    pub const fn progress(&self) -> Progress {
        self.progress
    }

    /// Looks how far it has come by now.
    pub fn look(&mut self) -> Result<(), OutboxError> {
        let db = self.set_up()?;
        let progress = progress(&db, &self.name).map_err(|error| self.sql(error))?;
        self.progress = progress.unwrap_or(self.progress);
        Ok(())
    }

    /// Gives the next rows to `take`, `most` of them at most, until it has no room for one.
    pub fn next(
        &mut self,
        most: u32,
        take: impl FnMut(&Ended) -> bool,
    ) -> Result<Taken, OutboxError> {
        let db = self.set_up()?;
        next(&db, &self.name, most, take).map_err(|error| self.sql(error))
    }

    /// What was taken goes out. Until it is sent, what is taken ends where this does, after a
    /// restart too: a receiver knows what it has already.
    pub fn sending(&mut self, taken: Taken) -> Result<(), OutboxError> {
        let db = connect(&self.path)?;
        let update = "UPDATE exports SET sending_to = ?2 WHERE name = ?1";
        let updated = db.execute(update, params![self.name, taken.last]);
        updated.map(drop).map_err(|error| self.sql(error))
    }

    /// What was taken is sent, and the receiver has all of it but those that it `rejected`.
    pub fn sent(&mut self, taken: Taken, rejected: u64) -> Result<(), OutboxError> {
        let db = connect(&self.path)?;
        let rejected = rejected.min(taken.rows);
        let is_known = sent(&db, &self.name, taken, rejected).map_err(|error| self.sql(error))?;
        if is_known {
            self.look()
        } else {
            // The file is another one by now, and is told when it is looked at.
            self.progress.sent += taken.rows - rejected;
            self.progress.rejected += rejected;
            Ok(())
        }
    }

    /// The history, with a place for this export.
    fn set_up(&mut self) -> Result<Connection, OutboxError> {
        let db = connect(&self.path)?;
        let before = self.is_set_up.then_some(self.progress);
        set_up(&db, &self.name, before).map_err(|error| self.sql(error))?;
        Ok(db)
    }

    fn sql(&self, error: rusqlite::Error) -> OutboxError {
        sql(&self.path, error)
    }
}

/// Exports but those of these `names` are over: what waits for them is not sent. Returns their
/// names, and how much that is.
pub fn keep_only(path: &Path, names: &[&str]) -> Result<Vec<(String, u64)>, OutboxError> {
    let db = connect(path)?;
    keep_only_in(&db, names).map_err(|error| sql(path, error))
}

fn keep_only_in(db: &Connection, names: &[&str]) -> rusqlite::Result<Vec<(String, u64)>> {
    let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let known: Vec<String> = transaction
        .prepare("SELECT name FROM exports")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut over = Vec::new();
    for name in known {
        if names.contains(&name.as_str()) {
            continue;
        }
        let left = progress(&transaction, &name)?.unwrap_or_default();
        transaction.execute("DELETE FROM exports WHERE name = ?1", [&name])?;
        over.push((name, left.waiting()));
    }
    if !over.is_empty() && names.is_empty() {
        transaction.execute_batch(NO_TRIGGERS)?;
    }
    transaction.commit()?;
    Ok(over)
}

fn sql(path: &Path, error: rusqlite::Error) -> OutboxError {
    let path = shown(path);
    OutboxError::Sql { path, error }
}

/// The history as it is by now: the file may be another one than a moment ago.
fn connect(path: &Path) -> Result<Connection, OutboxError> {
    let db = store::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let db = db.map_err(|error| sql(path, error))?;
    if store::version(&db, path)? < schema::VERSION {
        return Err(OutboxError::NotYet(shown(path)));
    }
    Ok(db)
}

/// Makes a place for an export that has none. One that had come so far `before` goes on in a
/// file that was begun anew: what waited in the other one is gone.
fn set_up(db: &Connection, name: &str, before: Option<Progress>) -> rusqlite::Result<()> {
    let has_place = "SELECT EXISTS (SELECT 1 FROM exports WHERE name = ?1)";
    if db.query_row(has_place, [name], |row| row.get(0))? {
        return Ok(());
    }
    let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let is_first: bool =
        transaction.query_row("SELECT NOT EXISTS (SELECT 1 FROM exports)", [], |row| {
            row.get(0)
        })?;
    transaction.execute_batch(TRIGGERS)?;
    if let Some(before) = before {
        if is_first {
            let all = "INSERT INTO outbox (row) SELECT id FROM connection_rows WHERE state >= 2";
            transaction.execute(all, [])?;
        }
        transaction.execute(
            &format!(
                "INSERT INTO exports (name, began, sent_to, sent, rejected, expired)
                VALUES (?1, -?2, 0, ?3, ?4,
                ?2 - ?3 - ?4 + {LAST} - (SELECT count(*) FROM outbox))"
            ),
            params![
                name,
                before.recorded.cast_signed(),
                before.sent.cast_signed(),
                before.rejected.cast_signed()
            ],
        )?;
    } else {
        transaction.execute(
            &format!(
                "INSERT INTO exports (name, began, sent_to, sent, expired)
                VALUES (?1, {LAST}, {LAST}, 0, 0)"
            ),
            [name],
        )?;
    }
    transaction.commit()
}

fn progress(db: &Connection, name: &str) -> rusqlite::Result<Option<Progress>> {
    let select =
        format!("SELECT {LAST} - began, sent, expired, rejected FROM exports WHERE name = ?1");
    db.query_row(&select, [name], |row| {
        Ok(Progress {
            recorded: row.get::<_, i64>(0)?.unsigned_abs(),
            sent: row.get::<_, i64>(1)?.unsigned_abs(),
            expired: row.get::<_, i64>(2)?.unsigned_abs(),
            rejected: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })
    .optional()
}

fn next(
    db: &Connection,
    name: &str,
    most: u32,
    mut take: impl FnMut(&Ended) -> bool,
) -> rusqlite::Result<Taken> {
    let sending = "SELECT sending_to FROM exports WHERE name = ?1 AND sending_to > sent_to";
    let sending: Option<i64> = db.query_row(sending, [name], |row| row.get(0)).optional()?;
    if let Some(until) = sending {
        let taken = next_until(db, name, most, until, &mut take)?;
        // All of them may be forgotten by now.
        if taken.rows > 0 {
            return Ok(Taken {
                is_repeat: true,
                ..taken
            });
        }
    }
    next_until(db, name, most, i64::MAX, &mut take)
}

fn next_until(
    db: &Connection,
    name: &str,
    most: u32,
    until: i64,
    take: &mut impl FnMut(&Ended) -> bool,
) -> rusqlite::Result<Taken> {
    let mut statement = db.prepare(NEXT)?;
    let mut rows = statement.query(params![name, most, until])?;
    let mut taken = Taken::default();
    while let Some(row) = rows.next()? {
        let ended = ended(row)?;
        if !take(&ended) {
            break;
        }
        taken.rows += 1;
        taken.last = ended.version;
    }
    Ok(taken)
}

/// Notes what is sent; whether this file knows the export.
fn sent(db: &Connection, name: &str, taken: Taken, rejected: u64) -> rusqlite::Result<bool> {
    let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    // What was forgotten on its way counts as sent.
    let known = transaction.execute(
        "UPDATE exports SET sent_to = ?2, sent = sent + ?3 - ?4, rejected = rejected + ?4,
        expired = expired - ?3 +
        (SELECT count(*) FROM outbox WHERE number > exports.sent_to AND number <= ?2)
        WHERE name = ?1",
        params![
            name,
            taken.last,
            taken.rows.cast_signed(),
            rejected.cast_signed()
        ],
    )?;
    transaction.execute(
        "DELETE FROM outbox WHERE number <= (SELECT min(sent_to) FROM exports)",
        [],
    )?;
    transaction.commit()?;
    Ok(known > 0)
}

/// A row of [`NEXT`].
fn ended(row: &Row<'_>) -> rusqlite::Result<Ended> {
    let time_ns: i64 = row.get(1)?;
    let is_inbound = row.get::<_, i64>(11)? & INBOUND != 0;
    let (local_port, remote_port) = (row.get(13)?, row.get(15)?);
    let number = |at| -> rusqlite::Result<Option<u64>> {
        let number: Option<i64> = row.get(at)?;
        Ok(number.map(i64::unsigned_abs))
    };
    let (bytes_sent, bytes_received) = (number(21)?, number(22)?);
    let bytes = bytes_sent.zip(bytes_received);
    Ok(Ended {
        time: time_ns.div_euclid(1_000_000_000),
        host: text(row, 3)?.unwrap_or_default(),
        process: text(row, 5)?,
        pid: row.get(6)?,
        exe: text(row, 7)?,
        user: text(row, 8)?,
        unit: text(row, 9)?,
        container: text(row, 10)?,
        direction: if is_inbound { "in" } else { "out" },
        local: ip_of(row, 12)?.to_string(),
        local_port,
        remote: ip_of(row, 14)?.to_string(),
        remote_port,
        port: if is_inbound {
            local_port
        } else {
            Some(remote_port)
        },
        service: text(row, 16)?,
        state: match row.get::<_, i64>(17)? {
            2 => "failed",
            3 => "closed",
            4 => "cut off",
            _ => "pushed out",
        },
        verdict: row.get::<_, Option<i64>>(18)?.map(|verdict| match verdict {
            0 => "allowed",
            1 => "denied",
            _ => "violation",
        }),
        rule: text(row, 19)?,
        duration: number(20)?.map(seconds),
        bytes_sent,
        bytes_received,
        bytes: bytes.map(|(sent, received)| sent.saturating_add(received)),
        handshake_us: row.get(23)?,
        rtt_us: row.get(24)?,
        retransmits: row.get(25)?,
        errno: row.get(26)?,
        time_ns,
        boot_id: text(row, 4)?.unwrap_or_default(),
        connection_id: row.get::<_, i64>(2)?.cast_unsigned(),
        version: row.get(0)?,
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "to the microsecond it is exact for a century"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
