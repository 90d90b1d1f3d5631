//! The history by what it leaves in its file.

mod faults;
mod forgetting;
mod kill;
mod outbox;
mod reading;
mod whole;

use port_monitor_common::event::EventKind;
use rusqlite::{Connection as Db, types::FromSql};
use tempfile::TempDir;

use crate::consume::history::*;
use crate::{
    consume::lines::sample::{NOON_NS, accepted, closed, connected, header, listening, summary},
    events::{decode::Action, record::Summary},
};

const DAY: Duration = Duration::from_hours(24);

const KEEP: Keep = Keep {
    age: Duration::from_hours(24 * 30),
    bytes: 1 << 30,
};

/// A directory with a history.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("history.db")
    }

    fn open(&self) -> History {
        self.open_keeping(KEEP)
    }

    fn open_keeping(&self, keep: Keep) -> History {
        History::open(&self.path(), Kinds::ALL, keep).unwrap()
    }

    /// A history whose run has begun.
    fn begin(&self) -> History {
        let mut history = self.open();
        history.take(Item::Header(&header()));
        history
    }

    /// The first column of the only row.
    fn ask<T: FromSql>(&self, sql: &str) -> T {
        let db = Db::open(self.path()).unwrap();
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The first column of every row, as text.
    fn list(&self, sql: &str) -> Vec<String> {
        let db = Db::open(self.path()).unwrap();
        let mut statement = db
            .prepare(&format!("SELECT CAST(a AS TEXT) FROM ({sql})"))
            .unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
}

/// `record`, of connection `id`, so many ns after noon.
fn at(record: &Record, id: u64, ns: u64) -> Record {
    let mut record = record.clone();
    record.event.id = id;
    record.event.ts_ns += ns;
    record.wall_ns = NOON_NS + i128::from(ns);
    record
}

fn attempt(id: u64, ns: u64) -> Record {
    let mut record = at(&connected(), id, ns);
    record.event.action = Action::Connect;
    record
}

/// All that is told of `count` connections, one after the other.
fn short(history: &mut History, first: u64, count: u64) {
    for id in first..first + count {
        history.take(Item::Event(&attempt(id, id * 10_000)));
        history.take(Item::Event(&at(&connected(), id, id * 10_000 + 100)));
        history.take(Item::Event(&at(&closed(), id, id * 10_000 + 200)));
    }
}

/// The account of a history that is given no more.
fn settled(history: &mut History) -> Account {
    history.settle();
    let account = history.account();
    assert!(account.adds_up());
    account
}

fn end(mut history: History, ns: u64) {
    let summary = Summary {
        wall_ns: NOON_NS + i128::from(ns),
        ..summary()
    };
    history.take(Item::Summary(&summary));
}

#[test]
fn a_history_takes_the_kinds_that_it_is_given() {
    let kinds: Kinds = [EventKind::Close].into_iter().collect();
    let place = Place::new();
    let history = History::open(&place.path(), kinds, KEEP).unwrap();
    assert_eq!(history.needs().kinds, kinds);
    assert_eq!(history.name(), "history");
}
