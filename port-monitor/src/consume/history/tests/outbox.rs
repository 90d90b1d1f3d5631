//! What has ended is in the outbox until it is sent, and every row is accounted for.

use std::collections::BTreeMap;

use super::{forgetting::tick_at, *};
use crate::consume::{
    history::{
        outbox::{Outbox, Taken, keep_only},
        schema,
    },
    lines::sample::{ownerless, violation},
};

const DAY_NS: u64 = 24 * 3_600 * 1_000_000_000;

/// What was recorded, is sent, waits and has expired. What waits is counted in the file too.
fn account(place: &Place, outbox: &mut Outbox, name: &str) -> [u64; 4] {
    outbox.look().unwrap();
    let progress = outbox.progress();
    let waiting: i64 = place.ask(&format!(
        "SELECT count(*) FROM outbox WHERE number >
        (SELECT sent_to FROM exports WHERE name = '{name}')"
    ));
    assert_eq!(progress.waiting(), waiting.unsigned_abs());
    [
        progress.recorded,
        progress.sent,
        progress.waiting(),
        progress.expired,
    ]
}

/// The next rows by the numbers of their connections.
fn take(outbox: &mut Outbox, most: u32) -> (Taken, Vec<u64>) {
    let mut ids = Vec::new();
    let taken = outbox.next(most, |row| {
        ids.push(row.connection_id);
        true
    });
    (taken.unwrap(), ids)
}

fn send(outbox: &mut Outbox, most: u32) -> Vec<u64> {
    let (taken, ids) = take(outbox, most);
    outbox.sent(taken, 0).unwrap();
    ids
}

#[test]
fn what_has_ended_waits_until_it_is_sent() {
    let place = Place::new();
    let mut history = place.begin();
    short(&mut history, 90, 2);
    history.write();
    // What ended before is not its own.
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    history.take(Item::Event(&at(&accepted(), 1 << 40, 0)));
    short(&mut history, 1, 5);
    history.write();
    assert_eq!(account(&place, &mut outbox, "a"), [5, 0, 5, 0]);
    let (_, ids) = take(&mut outbox, 3);
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(send(&mut outbox, 3), [1, 2, 3]);
    assert_eq!(account(&place, &mut outbox, "a"), [5, 3, 2, 0]);
    // It goes on after a restart of whoever sends.
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    assert_eq!(send(&mut outbox, 100), [4, 5]);
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM outbox"), 0);
    // The open one is over at the end of the run.
    settled(&mut history);
    assert_eq!(account(&place, &mut outbox, "a"), [6, 5, 1, 0]);
    let mut states = Vec::new();
    let taken = outbox.next(9, |row| {
        states.push(row.state);
        true
    });
    assert_eq!((taken.unwrap().rows, states), (1, vec!["cut off"]));
}

#[test]
fn a_row_that_is_completed_after_its_end_is_sent_again_as_a_later_version() {
    let place = Place::new();
    let mut history = place.begin();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    history.take(Item::Event(&at(&closed(), 7, 200)));
    let mut rows = Vec::new();
    for _ in 0..2 {
        history.write();
        let taken = outbox.next(9, |row| {
            rows.push((row.connection_id, row.time_ns, row.version));
            true
        });
        outbox.sent(taken.unwrap(), 0).unwrap();
        history.take(Item::Event(&at(&connected(), 7, 100)));
    }
    let [first, second] = rows[..] else {
        panic!("{rows:?}");
    };
    assert_eq!((first.0, first.1), (second.0, second.1));
    assert!(first.2 < second.2, "{rows:?}");
    assert_eq!(account(&place, &mut outbox, "a"), [2, 2, 0, 0]);
}

#[test]
fn what_is_forgotten_before_it_is_sent_has_expired() {
    let place = Place::new();
    let mut history = place.open_keeping(Keep { age: DAY, ..KEEP });
    history.take(Item::Header(&header()));
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    short(&mut history, 0, 10);
    history.write();
    // Some are on their way.
    let (taken, _) = take(&mut outbox, 4);
    tick_at(&mut history, DAY_NS / 2);
    assert_eq!(account(&place, &mut outbox, "a"), [10, 0, 10, 0]);
    tick_at(&mut history, 2 * DAY_NS);
    assert_eq!(account(&place, &mut outbox, "a"), [10, 0, 0, 10]);
    outbox.sent(taken, 0).unwrap();
    assert_eq!(account(&place, &mut outbox, "a"), [10, 4, 0, 6]);
    assert_eq!(send(&mut outbox, 9), [0; 0]);
}

#[test]
fn each_export_comes_as_far_as_it_does_and_one_that_is_over_leaves_nothing() {
    let place = Place::new();
    let mut history = place.begin();
    let mut one = Outbox::open(&place.path(), "one").unwrap();
    short(&mut history, 0, 2);
    history.write();
    let mut other = Outbox::open(&place.path(), "other").unwrap();
    short(&mut history, 10, 3);
    history.write();
    assert_eq!(send(&mut one, 9), [0, 1, 10, 11, 12]);
    assert_eq!(send(&mut other, 1), [10]);
    assert_eq!(account(&place, &mut one, "one"), [5, 5, 0, 0]);
    assert_eq!(account(&place, &mut other, "other"), [3, 1, 2, 0]);
    let over = keep_only(&place.path(), &["one"]).unwrap();
    assert_eq!(over, [("other".to_owned(), 2)]);
    short(&mut history, 20, 1);
    history.write();
    assert_eq!(send(&mut one, 9), [20]);
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM outbox"), 0);
    let over = keep_only(&place.path(), &[]).unwrap();
    assert_eq!(over, [("one".to_owned(), 0)]);
    short(&mut history, 30, 1);
    history.write();
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM outbox"), 0);
}

#[test]
fn where_the_file_is_begun_anew_the_account_goes_on() {
    let place = Place::new();
    let mut history = place.begin();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    short(&mut history, 0, 10);
    history.write();
    assert_eq!(send(&mut outbox, 4).len(), 4);
    let (taken, _) = take(&mut outbox, 1);
    drop(history);
    std::fs::remove_file(place.path()).unwrap();
    let mut history = place.begin();
    short(&mut history, 20, 3);
    history.write();
    // Another file knows nothing of what was on its way.
    outbox.sent(taken, 0).unwrap();
    assert_eq!(account(&place, &mut outbox, "a"), [13, 5, 3, 5]);
    assert_eq!(send(&mut outbox, 9), [20, 21, 22]);
    assert_eq!(account(&place, &mut outbox, "a"), [13, 8, 0, 5]);
}

/// Those that a receiver does not take are no longer waiting, and not with it either.
#[test]
fn what_is_rejected_is_in_the_account_of_its_own() {
    let place = Place::new();
    let mut history = place.begin();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    short(&mut history, 0, 10);
    history.write();
    let (taken, _) = take(&mut outbox, 4);
    outbox.sent(taken, 3).unwrap();
    // No receiver rejects more than it got.
    let (taken, _) = take(&mut outbox, 1);
    outbox.sent(taken, 99).unwrap();
    let told = "recorded 10 = sent 1 + waiting 5 + expired 0 + rejected 4";
    assert_eq!(outbox.progress().to_string(), told);
    let mut again = Outbox::open(&place.path(), "a").unwrap();
    assert_eq!(again.progress(), outbox.progress());
    drop(history);
    std::fs::remove_file(place.path()).unwrap();
    let mut history = place.begin();
    short(&mut history, 20, 3);
    history.write();
    again.look().unwrap();
    let told = "recorded 13 = sent 1 + waiting 3 + expired 5 + rejected 4";
    assert_eq!(again.progress().to_string(), told);
}

/// What its export has sent by then stays so.
#[test]
fn a_history_of_the_second_version_knows_of_rows_that_are_rejected() {
    let place = Place::new();
    let db = Db::open(place.path()).unwrap();
    db.execute_batch(include_str!("../tables.sql")).unwrap();
    db.execute_batch(include_str!("../outbox.sql")).unwrap();
    db.execute_batch(&format!(
        "INSERT INTO exports VALUES ('a', -7, 0, 5, 2);
        PRAGMA application_id = {}; PRAGMA user_version = 2;",
        schema::APPLICATION_ID
    ))
    .unwrap();
    drop(db);
    let _history = place.begin();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    assert_eq!(account(&place, &mut outbox, "a"), [7, 5, 0, 2]);
    assert_eq!(outbox.progress().rejected, 0);
}

/// Also after a restart, and though more has come since.
#[test]
fn what_may_have_arrived_is_taken_again_as_it_was() {
    let place = Place::new();
    let mut history = place.open_keeping(Keep { age: DAY, ..KEEP });
    history.take(Item::Header(&header()));
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    short(&mut history, 0, 3);
    history.write();
    let (taken, ids) = take(&mut outbox, 9);
    assert_eq!((taken.is_repeat, ids), (false, vec![0, 1, 2]));
    outbox.sending(taken).unwrap();
    short(&mut history, 3, 2);
    history.write();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    let (taken, ids) = take(&mut outbox, 9);
    assert_eq!((taken.is_repeat, ids), (true, vec![0, 1, 2]));
    outbox.sent(taken, 0).unwrap();
    let (taken, ids) = take(&mut outbox, 9);
    assert_eq!((taken.is_repeat, ids), (false, vec![3, 4]));
    outbox.sending(taken).unwrap();
    // Nothing is left of that batch.
    tick_at(&mut history, 2 * DAY_NS);
    short(&mut history, 5, 1);
    history.write();
    let (taken, ids) = take(&mut outbox, 9);
    assert_eq!((taken.is_repeat, ids), (false, vec![5]));
    outbox.sent(taken, 0).unwrap();
    assert_eq!(account(&place, &mut outbox, "a"), [6, 4, 0, 2]);
}

#[test]
fn a_history_of_the_first_version_gets_an_outbox() {
    let place = Place::new();
    let db = Db::open(place.path()).unwrap();
    db.execute_batch(include_str!("../tables.sql")).unwrap();
    db.execute_batch(&format!(
        "PRAGMA application_id = {}; PRAGMA user_version = 1;",
        schema::APPLICATION_ID
    ))
    .unwrap();
    drop(db);
    assert!(Outbox::open(&place.path(), "a").is_err());
    let mut history = place.begin();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    short(&mut history, 0, 1);
    history.write();
    assert_eq!(account(&place, &mut outbox, "a"), [1, 0, 1, 0]);
}

/// Columns that say the same in the view, in the same form.
const COLUMNS: [&str; 23] = [
    "host",
    "process",
    "pid",
    "exe",
    "user",
    "unit",
    "container",
    "direction",
    "local",
    "local_port",
    "remote",
    "remote_port",
    "port",
    "service",
    "state",
    "verdict",
    "rule",
    "bytes_sent",
    "bytes_received",
    "bytes",
    "handshake_us",
    "errno",
    "duration",
];

#[test]
fn a_row_says_what_the_view_says() {
    let place = Place::new();
    let mut history = place.begin();
    let mut outbox = Outbox::open(&place.path(), "a").unwrap();
    let records = [connected(), closed(), violation(), ownerless(), accepted()];
    for (id, record) in (0..).zip(&records) {
        history.take(Item::Event(&at(record, id, id)));
    }
    settled(&mut history);
    let mut rows = BTreeMap::new();
    let taken = outbox.next(99, |row| {
        rows.insert(row.time_ns, serde_json::to_value(row).unwrap());
        true
    });
    assert_eq!(taken.unwrap().rows, 5);
    for (time_ns, row) in rows {
        for column in COLUMNS {
            let select = format!("SELECT {column} FROM connections WHERE time_ns = {time_ns}");
            let view: rusqlite::types::Value = place.ask(&select);
            let view = match view {
                rusqlite::types::Value::Null => serde_json::Value::Null,
                rusqlite::types::Value::Integer(number) => number.into(),
                rusqlite::types::Value::Real(number) => number.into(),
                rusqlite::types::Value::Text(text) => text.into(),
                rusqlite::types::Value::Blob(_) => panic!("{column}"),
            };
            let own = row.get(column).cloned().unwrap_or_default();
            assert_eq!(own, view, "{column}");
        }
        assert_eq!(row["time"], time_ns / 1_000_000_000);
        assert_eq!(row["boot_id"], header().boot_id);
    }
}
