//! What is held back, for how long, and how it is counted.

use std::str;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use unicode_width::UnicodeWidthStr as _;

use crate::{
    consume::{
        Lines, Sink as _,
        lines::{
            fields::FIELDS,
            sample::{NOON_NS, accepted, closed, connected, ownerless, violation},
            table::{Options, Table, repeats::*},
        },
    },
    events::record::{Item, Judgement},
};

const SECOND_NS: i128 = NS_PER_SECOND;

fn table(width: Option<usize>, fields: &[&str]) -> Table {
    let named = |name: &&str| FIELDS.iter().find(|field| field.name == *name).unwrap();
    Table::new(Options {
        width,
        color: false,
        verbose: true,
        aggregate: true,
        fields: fields.iter().map(named).collect(),
        zone: TimeZone::UTC,
    })
}

/// `record` again, `ns` after noon, from the client's port `port`.
fn again(record: &Record, ns: i128, port: u16) -> Record {
    let mut record = record.clone();
    record.wall_ns = NOON_NS + ns;
    record.event.id = port.into();
    match record.event.direction() {
        Direction::Inbound => record.event.remote_port = port,
        Direction::Outbound => record.event.local_port = Some(port),
    }
    record
}

/// What is written of `records`, and of what is held back in the end.
fn written(table: &mut Table, records: &[Record]) -> Lines {
    let mut lines = Lines::default();
    for record in records {
        table.write(&mut lines, Item::Event(record));
    }
    table.release(&mut lines, Due::Now);
    lines
}

fn text(lines: &Lines) -> &str {
    str::from_utf8(lines.as_bytes()).unwrap()
}

/// How many events the line says it stands for.
fn count(line: &str) -> u64 {
    let count = line.rsplit_once("  x ").map(|(_, count)| count.parse());
    // What the mark of an end comes before is no number.
    count.and_then(Result::ok).unwrap_or(1)
}

/// So many rows of noon that are shown at once, and `held` behind them.
fn crowd(first: &Record, held: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let shown = (0..READABLE).map(|_| again(first, 0, 40_000));
    shown.chain(held).collect()
}

/// The lines of `held`, with more rows before them than a person reads.
fn held_lines(mut table: Table, held: impl IntoIterator<Item = Record>) -> Vec<String> {
    let lines = written(&mut table, &crowd(&ownerless(), held));
    let lines = text(&lines).lines().skip(READABLE);
    lines.map(str::to_owned).collect()
}

#[test]
fn a_readable_rate_shows_every_row_at_once() {
    let mut table = table(Some(100), &[]);
    let mut lines = Lines::default();
    for row in 0..3 * READABLE {
        let ns = row as i128 * SECOND_NS / READABLE as i128;
        table.write(&mut lines, Item::Event(&again(&connected(), ns, 40_000)));
        assert_eq!(text(&lines).lines().count(), row + 1);
    }
    assert!(text(&lines).lines().all(|line| count(line) == 1));
}

#[test]
fn a_burst_is_a_line_for_each_kind_of_row_with_its_count() {
    let mut held = Vec::new();
    for port in 0..412 {
        for record in [connected(), accepted(), closed()] {
            held.push(again(&record, 7, 50_000 + port));
        }
    }
    held.push(again(&violation(), 7, 40_310));
    let expected = [
        "  12:00:01  ->  1469   curl      10.0.0.5:*         93.184.216.34:443 https   ok <=12ms  x 412",
        "  12:00:01  <-  812    sshd      10.0.0.5:22 ssh    10.0.0.7:*                ok  x 412",
        "  12:00:01  x   1469   curl      10.0.0.5:*         93.184.216.34:443 https   <=8.1s 496K out 33M in  x 412",
        "! 12:00:01  ->  2211   nc        10.0.0.5:40310     10.0.0.9:23 telnet        refused  no-telnet",
    ];
    assert_eq!(held_lines(table(None, &[]), held), expected);
}

#[test]
fn a_row_alone_in_its_group_is_the_row() {
    for record in [connected(), accepted(), violation(), closed()] {
        let record = again(&record, SECOND_NS, 49_152);
        let expected = written(&mut table(Some(80), &[]), std::slice::from_ref(&record));
        // In the second before it there are more rows than a person reads.
        let crowd = crowd(&ownerless(), [again(&ownerless(), 0, 1), record]);
        let lines = written(&mut table(Some(80), &[]), &crowd);
        let last = text(&lines).lines().last();
        assert_eq!(last, Some(text(&expected).trim_end()));
        assert!(last.is_some_and(|last| last.contains(":49152")));
    }
}

#[test]
fn violations_count_by_the_rule_they_break() {
    let rule = |rule: Option<&str>| {
        let mut record = again(&violation(), 0, 40_310);
        record.judgement = record.judgement.map(|judgement| Judgement {
            rule: rule.map(Into::into),
            ..judgement
        });
        record
    };
    let mut allowed = rule(None);
    allowed.judgement = None;
    let (one, other, default) = (rule(Some("one")), rule(Some("other")), rule(None));
    let held = [
        &one, &allowed, &other, &one, &allowed, &default, &other, &one, &default,
    ];
    let lines = held_lines(table(None, &["process"]), held.map(Clone::clone));
    assert_eq!(lines, ["! nc  x 3", "  nc  x 2", "! nc  x 2", "! nc  x 2"]);
}

#[test]
fn after_a_crowded_second_all_is_held_back_until_one_is_readable() {
    let mut table = table(None, &["result"]);
    let mut lines = Lines::default();
    let mut rows = |second: i128, rows: usize| {
        for _ in 0..rows {
            let record = again(&connected(), second * SECOND_NS, 40_000);
            table.write(&mut lines, Item::Event(&record));
        }
        text(&lines).lines().map(count).collect::<Vec<_>>()
    };
    let mut expected = vec![1; READABLE];
    assert_eq!(rows(0, READABLE + 5), expected);
    expected.push(5);
    assert_eq!(rows(1, READABLE), expected);
    expected.push(READABLE as u64);
    // That one was readable.
    expected.push(1);
    assert_eq!(rows(2, 1), expected);
}

#[test]
fn what_is_held_back_is_due_when_its_second_is_over() {
    let mut table = table(None, &["result"]);
    let mut lines = Lines::default();
    for record in crowd(&connected(), [again(&connected(), 5, 40_000)]) {
        table.write(&mut lines, Item::Event(&record));
    }
    let shown = lines.events();
    table.release(&mut lines, Due::By(NOON_NS + SECOND_NS - 1));
    assert_eq!(lines.events(), shown);
    table.release(&mut lines, Due::By(NOON_NS + SECOND_NS));
    assert_eq!(lines.events(), shown + 1);
    table.release(&mut lines, Due::Now);
    assert_eq!(lines.events(), shown + 1);
}

#[test]
fn a_straggler_of_the_second_before_is_no_new_second() {
    let mut repeats = Repeats::default();
    let begins =
        [0, 1, 0, 1, 2, 5, 3].map(|second| repeats.begins_second(NOON_NS + second * SECOND_NS));
    assert_eq!(begins, [true, true, false, false, true, true, true]);
}

#[test]
fn groups_are_bounded() {
    let rows = (0..3 * 64_u16).map(|port| {
        let mut record = again(&connected(), 0, 40_000);
        record.event.remote_port = port;
        record
    });
    let mut table = table(None, &[]);
    let mut lines = Lines::default();
    for (row, record) in crowd(&connected(), rows).iter().enumerate() {
        table.write(&mut lines, Item::Event(record));
        let held = row as u64 + 1 - lines.events();
        assert!(held <= MAX_GROUPS as u64, "{held}");
        assert!(table.repeats.as_ref().unwrap().groups.len() <= MAX_GROUPS);
    }
}

#[test]
fn columns_that_differ_show_a_star_a_sum_or_the_longest() {
    let fields = [
        "id",
        "cpu",
        "local_port",
        "remote_port",
        "bytes_in",
        "bytes_out",
        "retransmits",
        "duration",
        "rtt",
        "handshake",
        "closed_by",
    ];
    let mut longer = again(&closed(), 0, 50_000);
    longer.event.cpu = 7;
    if let Action::Close(close) = &mut longer.event.action {
        close.duration_ns = Some(9_000_000_000);
        close.rtt_us = None;
    }
    let held = [again(&closed(), 0, 40_000), longer];
    let lines = held_lines(table(None, &fields), held);
    let cells: Vec<_> = lines[0].split_whitespace().collect();
    let expected = [
        "*",
        "*",
        "*",
        "443",
        "172032",
        "2468",
        "4",
        "<=9000000",
        "<=11900",
        "-",
        "local",
        "x",
        "2",
    ];
    assert_eq!(cells, expected);
    let lines = held_lines(table(None, &["handshake"]), [connected(), connected()]);
    assert_eq!(lines, ["  <=12345  x 2"]);
}

#[test]
fn ends_of_unknown_duration_count_apart() {
    let mut unknown = again(&closed(), 0, 40_000);
    if let Action::Close(close) = &mut unknown.event.action {
        close.duration_ns = None;
    }
    let known = again(&closed(), 0, 40_000);
    let held = [unknown.clone(), known.clone(), known, unknown];
    let lines = held_lines(table(None, &["result"]), held);
    let expected = [
        "  ? 2.4K out 168K in  x 2",
        "  <=8.1s 2.4K out 168K in  x 2",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn columns_choose_what_is_the_same() {
    let mut other = again(&connected(), 0, 40_000);
    if let Some(owner) = &mut other.event.owner {
        owner.pid += 1;
        owner.tid += 1;
    }
    let held = [again(&connected(), 0, 40_000), other];
    let by_pid = held_lines(table(None, &["pid", "result"]), held.clone());
    assert_eq!(by_pid.len(), 2, "{by_pid:?}");
    let lines = held_lines(table(None, &["process", "result"]), held);
    assert_eq!(lines, ["  curl      ok <=12ms  x 2"]);
}

#[test]
fn the_narrowest_table_has_room_for_the_outcome_and_the_count() {
    let mut refused = again(&violation(), 0, 40_310);
    refused.judgement = None;
    let held = [connected(), refused, closed()]
        .into_iter()
        .flat_map(|record| (0..123).map(move |port| again(&record, 0, port)));
    let lines = held_lines(table(Some(80), &[]), held);
    let expected = [
        "  12:00:01 ->  1469   curl     10.0.0.5:*      93.184.216.34:443 https ok  x 123",
        "  12:00:01 ->  2211   nc       10.0.0.5:*      10.0.0.9:23 telnet refused  x 123",
        "  12:00:01 x   1469   curl     10.0.0.5:*      93.184.216.34:443 https <…  x 123",
    ];
    assert_eq!(lines, expected);
    assert!(lines.iter().all(|line| line.width() <= 80));
}

/// Records of few kinds, so that many are the same.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let row = (
        0..5_usize,
        0..3_u16,
        0..2_u32,
        0..40_000_000_i128,
        any::<u32>(),
    );
    prop::collection::vec(row, 1..600).prop_map(|rows| {
        let bases = [connected(), accepted(), violation(), closed(), ownerless()];
        let mut ns = 0;
        let record = |(base, port, pid, step, figure): (usize, u16, u32, i128, u32)| {
            ns += step;
            let mut record = again(&bases[base], ns, 40_000 + port);
            record.event.cpu = port;
            if let Some(owner) = &mut record.event.owner {
                owner.pid += pid;
            }
            if let Action::Close(close) = &mut record.event.action {
                close.bytes_sent = figure.into();
                close.duration_ns = (figure % 3 > 0).then_some(figure.into());
            }
            record
        };
        rows.into_iter().map(record).collect()
    })
}

proptest! {
    #[test]
    fn counts_add_up_to_the_events(records in records()) {
        let mut lines = Lines::default();
        let mut table = table(None, &[]);
        for (number, record) in records.iter().enumerate() {
            table.write(&mut lines, Item::Event(record));
            if number % 100 == 99 {
                table.release(&mut lines, Due::By(record.wall_ns));
            }
        }
        table.release(&mut lines, Due::Now);
        let sum: u64 = text(&lines).lines().map(count).sum();
        prop_assert_eq!(sum, records.len() as u64);
        prop_assert_eq!(lines.events(), sum);
        prop_assert_eq!(lines.events_within(lines.as_bytes().len()), sum);
    }

    #[test]
    fn rows_with_the_same_facts_look_the_same(records in records()) {
        let mut table = table(None, &[]);
        table.columns.clear();
        table.columns.extend(FIELDS.iter().map(|field| super::super::Column { field, end: 0 }));
        for pair in records.windows(2) {
            let [one, other] = pair else { unreachable!() };
            let keys = [one, other].map(|record| table.key(record));
            let mut repeats = Repeats::default();
            repeats.add(one, keys[0].clone());
            if repeats.add_same(other) {
                prop_assert_eq!(&keys[0], &keys[1]);
            }
        }
    }
}
