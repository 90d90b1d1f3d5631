//! What is in a history, for whoever looks back. It is opened for reading alone; no look
//! lasts longer than a page of rows takes, so nothing that writes waits, and its log is cut
//! down as ever.

mod groups;
mod kept;
mod open;
mod questions;
mod wanted;
mod watched;

use std::path::Path;

use rusqlite::{Connection, types::Value};

use self::kept::{Owners, from_row};
pub(super) use self::kept::{ip_of, text};
pub use self::{
    groups::{By, Counted, Group, Key, Sort, Sums},
    kept::{Kept, Run},
    open::ReadError,
    questions::{Listeners, Spans, Talk, Tally, Unused},
    wanted::{Ended, User, Wanted},
    watched::{Gap, Watched},
};

/// Rows that are read at once.
const PAGE: i64 = 2_000;

/// A history that is read.
#[derive(Debug)]
pub struct Reader {
    db: Connection,
    path: String,
}

impl Reader {
    /// Opens the history at `path`.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        open::open(path)
    }

    /// Gives every connection that is `wanted` to `take`, the oldest first, until that fails;
    /// of more than `latest`, only so many. Their ports are not classified.
    pub fn connections<E: From<ReadError>>(
        &self,
        wanted: &Wanted,
        latest: Option<u32>,
        mut take: impl FnMut(Kept) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after = i64::MIN;
        if let Some(latest) = latest {
            match self.first_of_latest(wanted, latest)? {
                Some(first) => after = first.saturating_sub(1),
                None => return Ok(()),
            }
        }
        let mut owners = Owners::default();
        loop {
            let page = self.page(wanted, after, &mut owners)?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.mark.row;
            for kept in page {
                take(kept)?;
            }
        }
    }

    /// The next connections after the row `after`.
    fn page(
        &self,
        wanted: &Wanted,
        after: i64,
        owners: &mut Owners,
    ) -> Result<Vec<Kept>, ReadError> {
        let mut sql = self.condition(wanted)?;
        let (after, page) = (sql.bind(after), sql.bind(PAGE));
        let select = format!(
            "SELECT {} FROM {} WHERE {} AND c.id > {after} ORDER BY c.id LIMIT {page}",
            kept::COLUMNS,
            sql.from(),
            sql.condition()
        );
        self.ask(|db| {
            let mut statement = db.prepare_cached(&select)?;
            let mut rows = statement.query(sql.values())?;
            let mut page = Vec::new();
            while let Some(row) = rows.next()? {
                page.push(from_row(db, owners, row)?);
            }
            Ok(page)
        })
    }

    /// The row of the oldest of the `latest` connections that are wanted.
    fn first_of_latest(&self, wanted: &Wanted, latest: u32) -> Result<Option<i64>, ReadError> {
        let mut sql = self.condition(wanted)?;
        let latest = sql.bind(latest);
        let select = format!(
            "SELECT min(id) FROM (SELECT c.id AS id FROM {} WHERE {} ORDER BY c.id DESC \
             LIMIT {latest})",
            sql.from(),
            sql.condition()
        );
        self.ask(|db| db.query_row(&select, sql.values(), |row| row.get(0)))
    }

    fn condition(&self, wanted: &Wanted) -> Result<wanted::Sql, ReadError> {
        self.ask(|db| wanted.sql(db))
    }

    /// Whether a text is in the history.
    pub fn has_text(&self, text: &str) -> Result<bool, ReadError> {
        let select = "SELECT EXISTS (SELECT 1 FROM texts WHERE text = ?1)";
        self.ask(|db| db.query_row(select, [Value::from(text.to_owned())], |row| row.get(0)))
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        question(&self.db).map_err(|error| ReadError::of(&self.path, error))
    }
}
