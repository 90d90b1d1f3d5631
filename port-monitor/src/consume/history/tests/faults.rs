//! What goes wrong with the file costs nothing else, and is told.

use std::fs;

use super::*;

fn refused(path: &Path) -> String {
    let error = History::open(path, Kinds::ALL, KEEP).err().unwrap();
    error.to_string()
}

/// No page more.
fn fill_disk(history: &History) {
    let writer = history.writer.as_ref().unwrap();
    let pages = writer.ask("PRAGMA page_count");
    writer.ask(&format!("PRAGMA max_page_count = {pages}"));
}

fn free_disk(history: &History) {
    let writer = history.writer.as_ref().unwrap();
    writer.ask("PRAGMA max_page_count = 1000000");
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost_once_there_is_room() {
    let place = Place::new();
    let mut history = place.begin();
    short(&mut history, 0, 10);
    history.write();
    fill_disk(&history);
    short(&mut history, 10, 3_000);
    history.write();
    let account = history.account();
    assert!(account.taken < 9_030, "{account:?}");
    let error = account.error.unwrap();
    let said = format!("write {}: database or disk is full", place.path().display());
    assert_eq!(error, said);
    free_disk(&history);
    let account = settled(&mut history);
    assert_eq!((account.taken, account.error), (9_030, None));
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM connections"), 3_010);
}

#[test]
fn what_a_full_disk_costs_is_in_the_account_and_told_in_the_history() {
    let place = Place::new();
    let mut history = place.begin();
    history.write();
    fill_disk(&history);
    let connections = 3 * WAITING_ROWS as u64;
    for id in 0..connections {
        short(&mut history, id, 1);
        if id % 1_000 == 0 {
            history.write();
        }
    }
    let failed = history.account().dropped.failed;
    assert!(failed > 0);
    assert!(history.done.len() < WAITING_ROWS + 2_000);
    free_disk(&history);
    let account = settled(&mut history);
    assert_eq!(account.dropped.failed, failed);
    assert_eq!(account.delivered, 3 * connections);
    assert!(account.error.is_some(), "{account:?}");
    let losses = place.list("SELECT cause || ' ' || lost AS a FROM losses");
    assert_eq!(losses, [format!("{NOT_WRITTEN} {failed}")]);
}

#[test]
fn a_disk_that_stays_full_costs_what_was_not_written_and_no_more() {
    let place = Place::new();
    let mut history = place.begin();
    short(&mut history, 0, 10);
    history.write();
    fill_disk(&history);
    short(&mut history, 10, 3_000);
    let account = settled(&mut history);
    assert_eq!(account.delivered, 9_030);
    assert!(account.taken >= 30 && account.dropped.failed > 0);
    assert!(account.error.is_some());
}

#[test]
fn what_is_no_history_is_refused_and_left_alone() {
    let place = Place::new();
    let path = place.path();
    fs::write(&path, "some notes that are longer than a header\n").unwrap();
    let said = format!(
        "{}: not a history of port-monitor: name another file",
        path.display()
    );
    assert_eq!(refused(&path), said);
    assert!(fs::read_to_string(&path).unwrap().starts_with("some notes"));
    fs::remove_file(&path).unwrap();
    let db = Db::open(&path).unwrap();
    db.execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    drop(db);
    assert_eq!(refused(&path), said);
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM sqlite_schema"), 1);
    assert_eq!(
        refused(place.dir.path()),
        format!(
            "open {}: Is a directory (os error 21)",
            place.dir.path().display()
        )
    );
    let nowhere = place.dir.path().join("no/history.db");
    let error = refused(&nowhere);
    assert!(
        error.ends_with("No such file or directory (os error 2)"),
        "{error}"
    );
}

#[test]
fn a_history_of_a_later_version_is_refused() {
    let place = Place::new();
    drop(place.begin());
    let db = Db::open(place.path()).unwrap();
    db.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(db);
    let error = refused(&place.path());
    let known = schema::VERSION;
    assert!(error.contains(&format!(
        "of version 99, and this program knows those up to {known}"
    )));
}

#[test]
fn one_writes_at_a_time() {
    let place = Place::new();
    let history = place.begin();
    let error = refused(&place.path());
    assert!(
        error.ends_with("another port-monitor writes to it: name another file"),
        "{error}"
    );
    drop(history);
    place.open();
}

#[test]
fn a_lock_of_somebody_else_delays_and_loses_nothing() {
    let place = Place::new();
    let mut history = place.begin();
    let db = Db::open(place.path()).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    short(&mut history, 0, 10);
    history.write();
    let account = history.account();
    assert_eq!(account.taken, 0);
    assert!(account.error.unwrap().ends_with("database is locked"));
    db.execute_batch("ROLLBACK").unwrap();
    let account = settled(&mut history);
    assert_eq!((account.taken, account.error), (30, None));
}

#[test]
fn a_reader_in_the_middle_of_reading_delays_nothing() {
    let place = Place::new();
    let mut history = place.begin();
    short(&mut history, 0, 10);
    history.write();
    let db = Db::open(place.path()).unwrap();
    db.execute_batch("BEGIN").unwrap();
    let count = || db.query_row("SELECT count(*) FROM connections", [], |row| row.get(0));
    assert_eq!(count(), Ok(10));
    short(&mut history, 10, 10);
    assert_eq!(settled(&mut history).taken, 60);
    assert_eq!(count(), Ok(10));
}

/// Damages all pages of the file but the first ones.
fn damage(path: &Path, first: usize) {
    let mut bytes = fs::read(path).unwrap();
    assert!(bytes.len() > first * 4_096);
    bytes[first * 4_096..].fill(0xa5);
    fs::write(path, bytes).unwrap();
}

fn aside(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.dir.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".damaged-")).collect()
}

#[test]
fn a_damaged_history_is_moved_aside_and_begun_anew() {
    let place = Place::new();
    let mut history = place.begin();
    short(&mut history, 0, 3_000);
    settled(&mut history);
    end(history, 1);
    damage(&place.path(), 1);
    let mut history = place.begin();
    assert_eq!(aside(&place).len(), 1, "{:?}", aside(&place));
    short(&mut history, 0, 10);
    let account = settled(&mut history);
    assert_eq!((account.taken, account.error), (30, None));
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM connections"), 10);
}

#[test]
fn damage_in_the_middle_of_a_run_costs_nothing_that_is_told_from_then_on() {
    let place = Place::new();
    let mut history = place.begin();
    history.take(Item::Event(&at(&accepted(), 7_000_000, 0)));
    short(&mut history, 0, 3_000);
    history.write();
    let writer = history.writer.as_ref().unwrap();
    writer.ask("PRAGMA wal_checkpoint(TRUNCATE)");
    damage(&place.path(), 1);
    writer.shrink();
    short(&mut history, 3_000, 10);
    history.write();
    assert_eq!(aside(&place).len(), 1);
    let account = settled(&mut history);
    assert_eq!((account.taken, account.error), (9_031, None));
    // And the one that is open since before.
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM connections"), 11);
}
