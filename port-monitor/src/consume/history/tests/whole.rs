//! What was told is in the history, and people can read it.

use proptest::prelude::*;

use super::*;
use crate::{
    consume::lines::{
        json::any::records,
        sample::{ownerless, violation},
    },
    events::record::LossCause,
};

#[test]
fn a_connection_is_one_row_that_people_can_read() {
    let place = Place::new();
    let mut history = place.begin();
    history.take(Item::Event(&attempt(7, 0)));
    history.take(Item::Event(&at(&connected(), 7, 12_345_000)));
    history.take(Item::Event(&at(&closed(), 7, 8_123_456_789)));
    let account = settled(&mut history);
    assert_eq!((account.delivered, account.taken), (3, 3));
    end(history, 9_000_000_000);
    let row = place.list(
        "SELECT time || ' ' || host || ' ' || process || ' ' || pid || ' ' || exe || ' ' || user
        || ' ' || unit || ' ' || direction || ' ' || local || ' ' || local_port || ' ' || remote
        || ' ' || remote_port || ' ' || port || ' ' || service || ' ' || state || ' '
        || duration || ' ' || bytes_sent || ' ' || bytes_received || ' ' || bytes || ' '
        || handshake_us || ' ' || rtt_us || ' ' || retransmits AS a FROM connections",
    );
    let host = header().host;
    assert_eq!(
        row,
        [format!(
            "2026-11-22T12:00:01.000000Z {host} curl 1469 /usr/bin/curl ann session-2.scope out \
             10.0.0.5 49152 93.184.216.34 443 443 https closed 8.123456789 1234 86016 87250 \
             12345 11900 2"
        )]
    );
    assert_eq!(
        place.ask::<i64>("SELECT count(*) FROM runs WHERE state = 1"),
        1
    );
}

#[test]
fn an_open_connection_is_there_and_its_row_is_completed() {
    let place = Place::new();
    let mut history = place.begin();
    history.take(Item::Event(&attempt(7, 0)));
    history.write();
    let state = "SELECT state AS a FROM connections";
    assert_eq!(place.list(state), ["attempted"]);
    history.take(Item::Event(&at(&connected(), 7, 100)));
    history.write();
    assert_eq!(place.list(state), ["open"]);
    history.take(Item::Event(&at(&closed(), 7, 200)));
    history.write();
    assert_eq!(place.list(state), ["closed"]);
    assert_eq!(settled(&mut history).taken, 3);
    assert_eq!(place.list(state), ["closed"]);
}

#[test]
fn what_is_open_at_the_end_is_cut_off() {
    let place = Place::new();
    let mut history = place.begin();
    history.take(Item::Event(&at(&accepted(), 7, 0)));
    history.take(Item::Event(&at(&listening(), 8, 0)));
    settled(&mut history);
    end(history, 5);
    for view in ["connections", "listeners"] {
        let states = place.list(&format!("SELECT state AS a FROM {view}"));
        assert_eq!(states, ["cut off"], "{view}");
    }
}

#[test]
fn after_a_crash_nothing_is_open_and_the_gap_is_told() {
    let place = Place::new();
    let mut history = place.begin();
    history.take(Item::Event(&at(&accepted(), 7, 1_000_000_000)));
    history.write();
    // As if it was killed: no end was written.
    drop(history);
    assert_eq!(place.list("SELECT state AS a FROM connections"), ["open"]);
    let mut next = place.open();
    let mut header = header();
    header.wall_ns = NOON_NS + 61_000_000_000;
    next.take(Item::Header(&header));
    assert_eq!(
        place.list("SELECT state AS a FROM connections"),
        ["cut off"]
    );
    let gaps = "SELECT cause || ' ' || seconds AS a FROM gaps";
    assert_eq!(place.list(gaps), ["cut off 60.0"]);
    settled(&mut next);
    end(next, 62_000_000_000);
    let mut last = place.open();
    header.wall_ns = NOON_NS + 70_000_000_000;
    last.take(Item::Header(&header));
    assert_eq!(place.list(gaps), ["cut off 60.0", "not running 8.0"]);
    let states = place.list("SELECT state AS a FROM runs ORDER BY id");
    assert_eq!(states, ["2", "1", "0"]);
}

#[test]
fn listeners_losses_and_denials_have_rows() {
    let place = Place::new();
    let mut history = place.begin();
    history.take(Item::Event(&at(&listening(), 7, 0)));
    let mut unlisten = at(&listening(), 7, 2_000_000_000);
    unlisten.event.action = Action::Unlisten;
    history.take(Item::Event(&unlisten));
    let mut denied = at(&violation(), 8, 5);
    if let Some(judgement) = &mut denied.judgement {
        judgement.verdict = port_monitor_common::policy::Verdict::Deny;
    }
    history.take(Item::Event(&denied));
    history.take(Item::Event(&at(&violation(), 9, 6)));
    let stats = Stats {
        wall_ns: NOON_NS,
        ring_full: 3,
        queue_full: 4,
        ..Stats::default()
    };
    history.tick(&stats);
    history.tick(&stats);
    assert_eq!(settled(&mut history).taken, 4);
    assert_eq!(
        place.list("SELECT time || ' ' || until || ' ' || port AS a FROM listeners"),
        ["2026-11-22T12:00:01.000000Z 2026-11-22T12:00:03.000000Z 22"]
    );
    let rules = |view| place.list(&format!("SELECT verdict || ' ' || rule AS a FROM {view}"));
    assert_eq!(rules("denials"), ["denied no-telnet"]);
    assert_eq!(
        rules("connections"),
        ["denied no-telnet", "violation no-telnet"]
    );
    let losses = place.list("SELECT cause || ' ' || lost AS a FROM losses");
    let words = [LossCause::RingFull.word(), LossCause::OutputSlow.word()];
    assert_eq!(
        losses,
        [format!("{} 3", words[0]), format!("{} 4", words[1])]
    );
}

#[test]
fn connections_of_one_moment_and_of_nobody_are_rows_of_their_own() {
    let place = Place::new();
    let mut history = place.begin();
    for id in 1..=3 {
        let mut record = at(&ownerless(), id, 0);
        record.event.remote_ip = "2001:db8::7".parse().unwrap();
        history.take(Item::Event(&record));
    }
    assert_eq!(settled(&mut history).taken, 3);
    let rows = place.list("SELECT remote || ' ' || coalesce(process, '-') AS a FROM connections");
    assert_eq!(rows, ["2001:0db8:0000:0000:0000:0000:0000:0007 -"; 3]);
    // What began at one moment is told one ns apart.
    let apart = "SELECT max(time_ns) - min(time_ns) FROM connections";
    assert_eq!(place.ask::<i64>(apart), 2);
}

#[test]
fn owners_and_names_are_written_once() {
    let place = Place::new();
    let mut history = place.begin();
    short(&mut history, 0, 3_000);
    assert_eq!(settled(&mut history).taken, 9_000);
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM connections"), 3_000);
    assert_eq!(place.ask::<i64>("SELECT count(*) FROM owners"), 1);
    let texts = "SELECT count(*) - count(DISTINCT text) FROM texts";
    assert_eq!(place.ask::<i64>(texts), 0);
}

/// What a row must say of a connection.
fn expected(connection: &Connection<()>) -> Vec<String> {
    let event = &connection.record.event;
    let carried = event.action.carried();
    let judgement = connection.record.judgement.as_ref();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let process = &connection.record.process;
    vec![
        format!("{:?}", event.local_ip),
        format!("{:?}", event.remote_ip),
        format!("{:?}", event.local_port),
        event.remote_port.to_string(),
        format!(
            "{:?}",
            event.owner.map(|owner| text(owner.process_comm.as_bytes()))
        ),
        format!("{:?}", event.owner.map(|owner| owner.pid)),
        format!(
            "{:?}",
            process
                .exe
                .known()
                .map(|exe| text(exe.as_os_str().as_encoded_bytes()))
        ),
        format!("{:?}", process.unit.as_deref()),
        format!("{:?}", carried.map(|carried| carried.bytes_sent)),
        format!("{:?}", carried.and_then(|carried| carried.duration_ns)),
        format!("{:?}", carried.map(|carried| carried.closed_by as u8)),
        format!(
            "{:?}",
            judgement.and_then(|judgement| judgement.rule.as_deref())
        ),
        rows::state(connection.state).to_string(),
    ]
}

/// What the rows say.
fn told(path: &Path) -> Vec<(i64, Vec<String>)> {
    fn text(row: &rusqlite::Row<'_>, at: usize) -> Option<String> {
        match row.get_ref(at).unwrap() {
            rusqlite::types::ValueRef::Null => None,
            value => Some(String::from_utf8_lossy(value.as_bytes().unwrap()).into_owned()),
        }
    }
    fn ip(row: &rusqlite::Row<'_>, at: usize) -> std::net::IpAddr {
        let bytes: Vec<u8> = row.get(at).unwrap();
        match <[u8; 4]>::try_from(&bytes[..]) {
            Ok(bytes) => bytes.into(),
            Err(_) => <[u8; 16]>::try_from(&bytes[..]).unwrap().into(),
        }
    }
    let db = Db::open(path).unwrap();
    let sql = "SELECT c.number, local_ip, remote_ip, local_port, remote_port, process.text, o.pid,
        exe.text, unit.text, sent, duration_ns, closed_by, rule.text, state FROM connection_rows c
        JOIN owners o ON o.id = owner LEFT JOIN texts process ON process.id = o.process
        LEFT JOIN texts exe ON exe.id = o.exe LEFT JOIN texts unit ON unit.id = o.unit
        LEFT JOIN texts rule ON rule.id = c.rule";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        let number = |at| {
            row.get::<_, Option<i64>>(at)
                .map(|it| it.map(i64::cast_unsigned))
        };
        let values = vec![
            format!("{:?}", ip(row, 1)),
            format!("{:?}", ip(row, 2)),
            format!("{:?}", number(3)?),
            row.get::<_, i64>(4)?.to_string(),
            format!("{:?}", text(row, 5)),
            format!("{:?}", number(6)?),
            format!("{:?}", text(row, 7)),
            format!("{:?}", text(row, 8)),
            format!("{:?}", number(9)?),
            format!("{:?}", number(10)?),
            format!("{:?}", number(11)?),
            format!("{:?}", text(row, 12)),
            row.get::<_, i64>(13)?.to_string(),
        ];
        Ok((row.get(0)?, values))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_are_what_was_told(records in records(), pauses in any::<u32>()) {
        let place = Place::new();
        // Whatever its time, nothing is too old.
        let age = Duration::MAX;
        let mut history = place.open_keeping(Keep { age, ..KEEP });
        history.take(Item::Header(&header()));
        let mut join = Join::<()>::default();
        let mut done = Vec::new();
        for (number, record) in records.iter().enumerate() {
            history.take(Item::Event(record));
            join.take(record, &mut done);
            if pauses & (1 << number) != 0 {
                history.write();
            }
        }
        join.end(&mut done);
        let account = settled(&mut history);
        prop_assert_eq!(account.taken, records.len() as u64);
        let connections = done.iter().filter(|connection| !connection.is_listener());
        let mut fed: Vec<_> = connections
            .map(|connection| (connection.id().cast_signed(), expected(connection)))
            .collect();
        let mut told = told(&place.path());
        fed.sort();
        told.sort();
        prop_assert_eq!(fed, told);
    }
}
