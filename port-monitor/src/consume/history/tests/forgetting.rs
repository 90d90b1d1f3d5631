//! What is too old or too much goes, in small steps, and the file gets smaller.

use super::*;

/// Ticks until nothing is left to do, `ns` after noon.
pub(super) fn tick_at(history: &mut History, ns: u64) {
    let stats = Stats {
        wall_ns: NOON_NS + i128::from(ns),
        ..Stats::default()
    };
    for _ in 0..1_000 {
        history.tick(&stats);
        history.write();
        if history.left == Left::Nothing {
            return;
        }
    }
    panic!("it never ends");
}

const DAY_NS: u64 = 24 * 3_600 * 1_000_000_000;

#[test]
fn what_has_ended_too_long_ago_goes_and_the_file_shrinks() {
    let place = Place::new();
    let mut history = place.open_keeping(Keep { age: DAY, ..KEEP });
    history.take(Item::Header(&header()));
    history.take(Item::Event(&at(&accepted(), 1 << 40, 0)));
    history.take(Item::Event(&at(&listening(), 1 << 41, 0)));
    short(&mut history, 0, 10_000);
    history.write();
    let pages = "PRAGMA page_count";
    let writer = history.writer.as_ref().unwrap();
    let before = writer.ask(pages);
    tick_at(&mut history, DAY_NS / 2);
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM connections"), 10_001);
    tick_at(&mut history, 2 * DAY_NS);
    // What is open stays, however old.
    assert_eq!(place.list("SELECT state AS a FROM connections"), ["open"]);
    assert_eq!(place.list("SELECT state AS a FROM listeners"), ["open"]);
    let after = history.writer.as_ref().unwrap().ask(pages);
    assert!(after * 4 < before, "{before} pages, then {after}");
    assert_eq!(settled(&mut history).taken, 30_002);
}

#[test]
fn a_file_that_is_too_large_loses_its_oldest() {
    let place = Place::new();
    let bytes = 1 << 20;
    let mut history = place.open_keeping(Keep { bytes, ..KEEP });
    history.take(Item::Header(&header()));
    short(&mut history, 0, 40_000);
    tick_at(&mut history, 40_000 * 10_000);
    assert_eq!(settled(&mut history).taken, 120_000);
    let first: i64 = place.ask("SELECT min(number) FROM connection_rows");
    let last: i64 = place.ask("SELECT max(number) FROM connection_rows");
    let count: i64 = place.ask("SELECT count(*) FROM connection_rows");
    assert_eq!((last, count), (39_999, 40_000 - first));
    assert!(first > 10_000 && count > 5_000, "{first} {count}");
    let writer = history.writer.as_ref().unwrap();
    writer.ask("PRAGMA wal_checkpoint(TRUNCATE)");
    let size = std::fs::metadata(place.path()).unwrap().len();
    assert!(size <= bytes, "{size}");
}

#[test]
fn names_of_what_is_gone_go_too() {
    let place = Place::new();
    let mut history = place.open_keeping(Keep { age: DAY, ..KEEP });
    history.take(Item::Header(&header()));
    // Each connection has an owner of its own: several epochs.
    for id in 0..40_000_u64 {
        let mut record = at(&closed(), id, id * 10_000);
        if let Some(owner) = &mut record.event.owner {
            owner.pid = u32::try_from(id).unwrap();
        }
        history.take(Item::Event(&record));
    }
    history.write();
    assert!(place.ask::<i64>("SELECT count(*) FROM epochs") > 2);
    assert!(place.ask::<i64>("SELECT count(*) FROM owners") >= 40_000);
    history.take(Item::Event(&at(&closed(), 1 << 40, 3 * DAY_NS)));
    tick_at(&mut history, 3 * DAY_NS);
    assert_eq!(place.list("SELECT process AS a FROM connections"), ["curl"]);
    let owners: i64 = place.ask("SELECT count(*) FROM owners");
    assert!(owners < 20_000, "{owners}");
}
