//! What is written of a run: its beginning and end, and batches of rows, each as a whole.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::{
    keep::{Keep, Left},
    names::Names,
    rows::{self, wall_ns},
    store::Store,
};
use crate::{consume::join, events::record::Header};

/// A run that is written.
#[derive(Debug)]
pub(super) struct Writer {
    store: Store,
    run: i64,
    names: Names,
}

impl Writer {
    /// Opens the history, and begins a run. What the run before left open, it cut off: it
    /// did not end in good order. From then to now nobody has watched.
    pub(super) fn begin(store: Store, header: &Header) -> rusqlite::Result<Self> {
        let db = Transaction::new_unchecked(store.db(), TransactionBehavior::Immediate)?;
        let now_ns = wall_ns(header.wall_ns);
        cut_off(&db)?;
        leave_gap(&db, now_ns)?;
        db.execute(
            "INSERT INTO runs (host, boot_id, kernel, version, backend, policy, began_ns, seen_ns,
            state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 0)",
            params![
                header.host,
                header.boot_id,
                header.kernel,
                header.version,
                header.backend,
                header.policy,
                now_ns,
            ],
        )?;
        let run = db.last_insert_rowid();
        db.commit()?;
        let names = Names::of_run(run);
        Ok(Self { store, run, names })
    }

    /// Writes a batch: all that `fill` gives it, or nothing.
    pub(super) fn batch<T>(
        &mut self,
        now_ns: i64,
        fill: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let Self { store, run, names } = self;
        let result = write(store.db(), *run, names, now_ns, fill);
        if result.is_err() {
            // Some were of this batch alone.
            names.forget();
        }
        result
    }

    /// The run has ended in good order.
    pub(super) fn end(&self, now_ns: i64) -> rusqlite::Result<()> {
        let db = Transaction::new_unchecked(self.store.db(), TransactionBehavior::Immediate)?;
        // Open is what was told of, and could not be written any more.
        cut_off(&db)?;
        let end = "UPDATE runs SET seen_ns = ?2, ended_ns = ?2, state = 1 WHERE id = ?1";
        db.execute(end, [self.run, now_ns])?;
        db.commit()
    }

    /// Forgets some of what is too old or too much.
    pub(super) fn forget(&self, keep: Keep, now_ns: i64) -> rusqlite::Result<Left> {
        keep.step(self.store.db(), now_ns)
    }
}

#[cfg(test)]
impl Writer {
    /// The first column of the last row that a statement of a test gives.
    pub(super) fn ask(&self, sql: &str) -> i64 {
        let mut statement = self.store.db().prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        let first = rows.next().unwrap().map_or(0, |row| row.get(0).unwrap());
        while rows.next().unwrap().is_some() {}
        first
    }

    /// Nothing stays in memory that is in the file.
    pub(super) fn shrink(&self) {
        self.store.db().release_memory().unwrap();
    }
}

/// Rows that are written as a whole.
pub(super) struct Batch<'a> {
    db: &'a Connection,
    run: i64,
    names: &'a mut Names,
}

impl Batch<'_> {
    /// Writes a connection or a listener, over its `row` if it has one; the row's number.
    pub(super) fn save<M>(
        &mut self,
        connection: &join::Connection<M>,
        row: Option<i64>,
    ) -> rusqlite::Result<i64> {
        rows::save(self.db, self.names, connection, row)
    }

    /// Writes that so many events are missing.
    pub(super) fn lose(&self, time_ns: i128, cause: &str, lost: u64) -> rusqlite::Result<()> {
        let insert = "INSERT INTO loss_rows (run, time_ns, cause, lost) VALUES (?1, ?2, ?3, ?4)";
        let mut insert = self.db.prepare_cached(insert)?;
        insert.execute(params![
            self.run,
            wall_ns(time_ns),
            cause,
            lost.cast_signed()
        ])?;
        Ok(())
    }
}

fn write<T>(
    db: &Connection,
    run: i64,
    names: &mut Names,
    now_ns: i64,
    fill: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    names.begin(db, now_ns)?;
    let result = fill(&mut Batch { db, run, names })?;
    let seen = "UPDATE runs SET seen_ns = max(seen_ns, ?2) WHERE id = ?1";
    db.prepare_cached(seen)?.execute([run, now_ns])?;
    transaction.commit()?;
    Ok(result)
}

/// Marks what a run that was cut off has left open.
fn cut_off(db: &Connection) -> rusqlite::Result<()> {
    let state = rows::state(join::State::CutOff);
    for update in [
        "UPDATE connection_rows SET state = ?1 WHERE state < 2",
        "UPDATE listener_rows SET state = ?1 WHERE state < 2",
    ] {
        db.execute(update, [state])?;
    }
    Ok(())
}

/// Writes from when on nobody has watched.
fn leave_gap(db: &Connection, now_ns: i64) -> rusqlite::Result<()> {
    let last = "SELECT coalesce(ended_ns, seen_ns), state FROM runs ORDER BY id DESC LIMIT 1";
    let last = db.query_row(last, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    let Some((since_ns, state)) = last.optional()? else {
        return Ok(());
    };
    db.execute("UPDATE runs SET state = 2 WHERE state = 0", [])?;
    let cause = if state == 0 { "cut off" } else { "not running" };
    // The clock may have been set back.
    if since_ns < now_ns {
        db.execute(
            "INSERT INTO gap_rows (began_ns, ended_ns, cause) VALUES (?1, ?2, ?3)",
            params![since_ns, now_ns, cause],
        )?;
    }
    Ok(())
}
