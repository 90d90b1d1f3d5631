//! What is kept, and how the rest goes: in small steps, so that no write waits for long.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::rows::wall_ns;

/// Rows that go at once.
const ROWS: i64 = 2_000;
/// Free pages that are given back to the file system at once.
const PAGES: u32 = 512;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// What has ended longer ago goes.
    pub age: Duration,
    /// Where the file is larger, in bytes, the oldest goes.
    pub bytes: u64,
}

/// Whether a step has left something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Something,
    Nothing,
}

impl Keep {
    /// Takes a step, by the time `now_ns`.
    pub(super) fn step(self, db: &Connection, now_ns: i64) -> rusqlite::Result<Left> {
        let age_ns = i128::try_from(self.age.as_nanos()).unwrap_or(i128::MAX);
        let cutoff_ns = i128::from(now_ns).saturating_sub(age_ns);
        let mut gone = forget(db, wall_ns(cutoff_ns))?;
        if used_bytes(db)? > self.bytes {
            gone += forget_oldest(db)?;
        }
        if gone > 0 {
            forget_names(db)?;
        }
        give_back(db)?;
        let is_full_step = gone >= usize::try_from(ROWS).unwrap_or(usize::MAX);
        Ok(if is_full_step || pragma(db, "freelist_count")? > 0 {
            Left::Something
        } else {
            Left::Nothing
        })
    }
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<u64> {
    let mut statement = db.prepare_cached(&format!("PRAGMA {name}"))?;
    let number: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(number.unsigned_abs())
}

/// Bytes of the file that are in use.
pub(super) fn used_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let pages = pragma(db, "page_count")?.saturating_sub(pragma(db, "freelist_count")?);
    Ok(pages * pragma(db, "page_size")?)
}

/// Forgets what has ended before `cutoff_ns`; how many rows that were.
fn forget(db: &Connection, cutoff_ns: i64) -> rusqlite::Result<usize> {
    let mut gone = db
        .prepare_cached(
            "DELETE FROM connection_rows WHERE id IN (SELECT id FROM connection_rows
            WHERE id < ?1 AND state >= 2 AND id + coalesce(duration_ns, 0) < ?1
            ORDER BY id LIMIT ?2)",
        )?
        .execute([cutoff_ns, ROWS])?;
    for delete in [
        "DELETE FROM listener_rows WHERE id IN (SELECT id FROM listener_rows
        WHERE id < ?1 AND state >= 2 AND coalesce(ended_ns, id) < ?1 ORDER BY id LIMIT ?2)",
        "DELETE FROM gap_rows WHERE id IN (SELECT id FROM gap_rows
        WHERE ended_ns < ?1 ORDER BY id LIMIT ?2)",
        "DELETE FROM loss_rows WHERE id IN (SELECT id FROM loss_rows
        WHERE time_ns < ?1 ORDER BY id LIMIT ?2)",
    ] {
        gone += db.prepare_cached(delete)?.execute([cutoff_ns, ROWS])?;
    }
    Ok(gone)
}

/// Forgets the oldest that has ended, whatever its age.
fn forget_oldest(db: &Connection) -> rusqlite::Result<usize> {
    db.prepare_cached(
        "DELETE FROM connection_rows WHERE id IN (SELECT id FROM connection_rows
        WHERE state >= 2 ORDER BY id LIMIT ?1)",
    )?
    .execute([ROWS])
}

/// Forgets the texts and owners of epochs that no row is from any more, and runs of which
/// nothing is left.
fn forget_names(db: &Connection) -> rusqlite::Result<()> {
    let oldest: Option<i64> = db
        .prepare_cached(
            "SELECT min(id) FROM (SELECT min(id) AS id FROM connection_rows
            UNION ALL SELECT min(id) FROM listener_rows)",
        )?
        .query_row([], |row| row.get(0))?;
    // Every epoch after the kept one began after the oldest row.
    let kept: Option<(i64, i64, i64)> = db
        .prepare_cached(
            "SELECT id, first_text, first_owner FROM epochs WHERE id < coalesce(
            (SELECT min(id) FROM epochs WHERE began_ns > ?1), 9e18) ORDER BY id DESC LIMIT 1",
        )?
        .query_row([oldest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((epoch, text, owner)) = kept else {
        return Ok(());
    };
    for (delete, first) in [
        ("DELETE FROM owners WHERE id < ?1", owner),
        ("DELETE FROM texts WHERE id < ?1", text),
        ("DELETE FROM epochs WHERE id < ?1", epoch),
    ] {
        db.prepare_cached(delete)?.execute([first])?;
    }
    db.prepare_cached(
        "DELETE FROM runs WHERE state > 0 AND id < (SELECT min(run) FROM owners)
        AND id < coalesce((SELECT min(run) FROM loss_rows), id + 1)",
    )?
    .execute([])?;
    Ok(())
}

/// Gives free pages back. Each step of the statement gives back one.
fn give_back(db: &Connection) -> rusqlite::Result<()> {
    if pragma(db, "freelist_count")? == 0 {
        return Ok(());
    }
    let mut statement = db.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
