//! What comes is counted, and what is told can be read by a strict scraper.

#![expect(
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "counts are small, and exact as what a scraper reads"
)]

mod parser;

use std::{fs, sync::Arc, time::Duration};

use parser::Exposition;
use port_monitor_common::tcp_state::TcpState;

use crate::{
    consume::{
        FanOut, Shown,
        consumer::{Room, Standing},
        enforced, export,
        history::outbox::Progress,
        lines::{
            json::Json,
            sample::{accepted, closed, connected, header, listening, summary, violation},
        },
        metrics::{series::ALL, *},
        output::writer::Output,
    },
    events::{
        decode::{Action, Direction},
        record::{Dropped, Header, Judgement, Record},
    },
};

const PATIENCE: Duration = Duration::from_mins(1);

fn metrics() -> Metrics {
    Metrics::new(Kinds::ALL)
}

/// Both formats, which say the same.
fn told(metrics: &Metrics) -> Exposition {
    let open = metrics.shared.text(Format::OpenMetrics).unwrap();
    let text = metrics.shared.text(Format::Text).unwrap();
    let (open, text) = (Exposition::open_metrics(&open), Exposition::text(&text));
    assert_eq!(open.samples, text.samples);
    open
}

/// How a run stands that has these consumers.
fn overview<const N: usize>(consumers: [(&'static str, Room); N]) -> Overview {
    let standing = |(name, waiting)| Standing {
        name,
        account: Account::default(),
        waiting,
    };
    Overview {
        standings: consumers.map(standing).into(),
        ..Overview::default()
    }
}

fn take(metrics: &mut Metrics, records: &[Record]) {
    for record in records {
        metrics.take(Item::Event(record));
    }
}

fn failed(errno: Option<i32>) -> Record {
    let mut record = violation();
    record.judgement = None;
    record.event.action = Action::Failed { errno };
    record
}

fn with_id(mut record: Record, id: u64) -> Record {
    record.event.id = id;
    record
}

/// An export, halfway.
fn exporting() -> Arc<Board> {
    let board = Arc::<Board>::default();
    let progress = Progress {
        recorded: 12,
        sent: 6,
        expired: 1,
        rejected: 2,
    };
    let standing = export::Standing {
        progress,
        is_failing: true,
    };
    board.note("central", standing);
    board
}

/// A policy that was refused, so that the one before is in force.
fn enforcing() -> Arc<enforced::Board> {
    let board = Arc::<enforced::Board>::default();
    board.note(enforced::Standing {
        enforces: true,
        is_in_force: true,
        is_refused: true,
        denied: [("no-telnet".to_owned(), 7)].into(),
    });
    board
}

#[test]
fn the_policy_that_is_enforced_is_told_as_it_stands_and_nothing_is_where_there_is_none() {
    let alone = told(&metrics().with_boards(Arc::default(), Arc::default()));
    let told = told(&metrics().with_boards(Arc::default(), enforcing()));
    for (name, labels, value) in [
        ("policy_in_force", &[][..], 1.0),
        ("policy_refused", &[], 1.0),
        ("denials_total", &[("rule", "no-telnet")], 7.0),
    ] {
        let name = format!("port_monitor_enforced_{name}");
        assert_eq!(alone.all(&name).count(), 0, "{name}");
        assert_eq!(told.value(&name, labels), value, "{name}");
    }
}

#[test]
fn exports_are_told_as_they_stand_and_nothing_is_where_there_is_none() {
    let told_alone = told(&metrics());
    assert_eq!(told_alone.all("port_monitor_export_failing").count(), 0);
    let told = told(&metrics().with_boards(exporting(), Arc::default()));
    for (name, value) in [
        ("rows_recorded_total", 12.0),
        ("rows_rejected_total", 2.0),
        ("rows_sent_total", 6.0),
        ("rows_waiting", 3.0),
        ("rows_expired_total", 1.0),
        ("failing", 1.0),
    ] {
        let name = format!("port_monitor_export_{name}");
        assert_eq!(told.value(&name, &[("export", "central")]), value, "{name}");
    }
}

#[test]
fn every_series_is_told_with_its_labels_and_no_others() {
    let mut metrics = metrics().with_boards(exporting(), enforcing());
    metrics.take(Item::Header(&header()));
    take(
        &mut metrics,
        &[
            connected(),
            accepted(),
            violation(),
            failed(Some(111)),
            closed(),
        ],
    );
    let mut denied = violation();
    denied.event.action = Action::Failed { errno: Some(1) };
    take(&mut metrics, &[denied]);
    metrics.hear(&overview([
        ("output", Room::Lines(1)),
        ("metrics", Room::Queue(1, 2)),
    ]));
    let told = told(&metrics);
    let mut families = told.families.clone();
    for series in ALL {
        let name = series.full_name();
        let family = name.trim_end_matches("_total").trim_end_matches("_info");
        assert_eq!(
            families.remove(family).as_deref(),
            Some(series.kind.as_str()),
            "{name}"
        );
        let name = match series.kind.as_str() {
            "histogram" => format!("{name}_count"),
            _ => name,
        };
        assert!(told.all(&name).count() > 0, "{name}");
        for (labels, _) in told.all(&name) {
            let labels: Vec<&str> = labels.keys().map(String::as_str).collect();
            let mut expected = series.labels.to_vec();
            expected.sort_unstable();
            assert_eq!(labels, expected, "{name}");
        }
    }
    assert!(families.is_empty(), "{families:?}");
}

#[test]
fn connections_are_counted_by_their_service_and_open_until_they_end() {
    let mut metrics = metrics();
    let (one, other) = (connected(), with_id(connected(), 77));
    take(&mut metrics, &[one.clone(), other, with_id(accepted(), 78)]);
    let open = |metrics: &Metrics, direction| {
        told(metrics).value("port_monitor_open_connections", &[("direction", direction)])
    };
    assert_eq!(
        (open(&metrics, "outbound"), open(&metrics, "inbound")),
        (2.0, 1.0)
    );
    let end = with_id(closed(), one.event.id);
    // The second end is nobody's: its beginning was not told.
    take(&mut metrics, &[end.clone(), end.clone()]);
    assert_eq!(
        (open(&metrics, "outbound"), open(&metrics, "inbound")),
        (1.0, 1.0)
    );
    let all = told(&metrics);
    let service = one.ports.remote.and_then(|port| port.service).unwrap().0;
    let labels = [("direction", "outbound"), ("service", service)];
    assert_eq!(all.value("port_monitor_connections_total", &labels), 2.0);
    assert_eq!(all.sum("port_monitor_connections_total"), 3.0);
    let close = *end.event.action.close().unwrap();
    let carried = |flow| {
        let labels = [("direction", "outbound"), ("flow", flow)];
        all.value("port_monitor_transferred_bytes_total", &labels)
    };
    assert_eq!(carried("received"), 2.0 * close.bytes_received as f64);
    assert_eq!(carried("sent"), 2.0 * close.bytes_sent as f64);
    let took = Duration::from_nanos(close.duration_ns.unwrap()).as_secs_f64();
    let labels = [("direction", "outbound")];
    assert_eq!(
        all.value("port_monitor_connection_duration_seconds_sum", &labels),
        2.0 * took
    );
    assert_eq!(
        all.value("port_monitor_handshake_duration_seconds_count", &[]),
        2.0
    );
    assert_eq!(all.sum("port_monitor_events_total"), 5.0);
}

#[test]
fn what_was_there_before_is_open_unless_it_listens_or_is_an_attempt() {
    let mut metrics = metrics();
    let found = |state, id| {
        let mut record = with_id(accepted(), id);
        let direction = Direction::Inbound;
        record.event.action = Action::Preexisting {
            direction,
            state,
            duration_ns: None,
        };
        record
    };
    let states = [
        TcpState::ESTABLISHED,
        TcpState::LISTEN,
        TcpState::SYN_SENT,
        TcpState::CLOSE_WAIT,
    ];
    for (state, id) in states.into_iter().zip(1..) {
        take(&mut metrics, &[found(state, id)]);
    }
    // It was over before it was accepted, and its end was told before.
    let mut over = with_id(accepted(), 9);
    over.event.ended = true;
    take(&mut metrics, &[over]);
    let all = told(&metrics);
    let labels = [("direction", "inbound")];
    assert_eq!(all.value("port_monitor_open_connections", &labels), 2.0);
    assert_eq!(all.sum("port_monitor_connections_total"), 1.0);
}

#[test]
fn failures_are_counted_by_errno() {
    let mut metrics = metrics();
    for errno in [Some(111), Some(111), None, Some(4_000)] {
        take(&mut metrics, &[failed(errno)]);
    }
    let all = told(&metrics);
    for (errno, count) in [("ECONNREFUSED", 2.0), ("none", 1.0), ("other", 1.0)] {
        let labels = [("errno", errno)];
        assert_eq!(all.value("port_monitor_failures_total", &labels), count);
    }
}

#[test]
fn violations_are_counted_by_rule_as_the_account_counts_them() {
    let mut metrics = metrics();
    let mut by_default = listening();
    by_default.judgement = violation().judgement.map(|judgement| Judgement {
        rule: None,
        ..judgement
    });
    let mut end = closed();
    end.judgement = violation().judgement;
    let mut denied = violation();
    denied.event.action = Action::Failed { errno: Some(1) };
    // The end of a connection is not another one.
    take(&mut metrics, &[violation(), by_default, end, denied]);
    let all = told(&metrics);
    let of = |direction, rule| {
        let labels = [("direction", direction), ("rule", rule)];
        all.value("port_monitor_violations_total", &labels)
    };
    assert_eq!(
        (of("outbound", "no-telnet"), of("inbound", "(default)")),
        (2.0, 1.0)
    );
    assert_eq!(
        all.value("port_monitor_denials_total", &[("rule", "no-telnet")]),
        1.0
    );
    assert_eq!(all.sum("port_monitor_denials_total"), 1.0);
}

/// A header of this policy, by its number and the rules that deny.
fn judged_by(number: u16, denying: Vec<Arc<str>>) -> Header {
    let mut header = header();
    if let Some(loaded) = &mut header.policy_loaded {
        loaded.number = number;
        loaded.denying = denying.into();
    }
    header
}

#[test]
fn rules_of_policies_before_stay_while_they_have_counted_anything() {
    let mut metrics = metrics();
    take(&mut metrics, &[violation()]);
    metrics.take(Item::Policy(&judged_by(2, vec!["never".into()])));
    metrics.take(Item::Policy(&judged_by(3, vec!["next".into()])));
    let all = told(&metrics);
    let of = |rule| {
        let mut series = all.all("port_monitor_violations_total");
        let is_it =
            |labels: &parser::Labels| labels["rule"] == rule && labels["direction"] == "outbound";
        let found = series.find(|(labels, _)| is_it(labels));
        found.map(|(_, value)| value)
    };
    assert_eq!(of("no-telnet"), Some(1.0));
    assert_eq!(of("never"), None);
    assert_eq!(of("next"), Some(0.0));
    assert_eq!(all.value("port_monitor_policy_changes_total", &[]), 2.0);
}

#[test]
fn rules_of_very_many_policies_are_counted_together() {
    let mut metrics = metrics();
    let rule = |number: u16| Arc::<str>::from(format!("rule-{number}"));
    let many = 3_000;
    for number in 1..=many {
        metrics.take(Item::Policy(&judged_by(number, vec![rule(number)])));
        let mut record = violation();
        record.judgement = record.judgement.map(|judgement| Judgement {
            rule: Some(rule(number)),
            ..judgement
        });
        take(&mut metrics, &[record]);
    }
    let all = told(&metrics);
    let series = all.all("port_monitor_violations_total").count();
    assert!(series <= 2 * 2_050, "{series}");
    assert_eq!(all.sum("port_monitor_violations_total"), f64::from(many));
    let labels = [("direction", "outbound"), ("rule", "other")];
    assert!(all.value("port_monitor_violations_total", &labels) > 0.0);
}

#[test]
fn names_from_outside_are_escaped_in_labels() {
    let mut metrics = metrics();
    let hostile = "a\"b\\c\nd{e=\"f\"} 1\n# EOF";
    let mut header = header();
    header.policy = Some(hostile.into());
    header.kernel = hostile.into();
    metrics.take(Item::Header(&header));
    let mut record = violation();
    record.judgement = record.judgement.map(|judgement| Judgement {
        rule: Some(hostile.into()),
        ..judgement
    });
    take(&mut metrics, &[record]);
    let all = told(&metrics);
    let labels = [("direction", "outbound"), ("rule", hostile)];
    assert_eq!(all.value("port_monitor_violations_total", &labels), 1.0);
    let policy = all.all("port_monitor_policy_info").next().unwrap().0["file"].clone();
    assert_eq!(policy, hostile);
}

/// Whatever comes, as many series as before.
#[test]
fn there_are_no_more_series_however_many_peers_processes_and_ports_come() {
    let mut metrics = metrics();
    for id in 0..70_000_u32 {
        let mut record = with_id(connected(), id.into());
        record.event.remote_ip = std::net::Ipv4Addr::from(id).into();
        let port = u16::try_from(id % 65_536).unwrap();
        record.event.remote_port = port;
        if let Some(remote) = &mut record.ports.remote {
            (remote.port, remote.service) = (port, None);
        }
        if let Some(owner) = &mut record.event.owner {
            owner.pid = id + 1;
        }
        take(
            &mut metrics,
            &[record, failed(i32::try_from(id % 5_000).ok())],
        );
    }
    let all = told(&metrics);
    assert_eq!(all.sum("port_monitor_connections_total"), 70_000.0);
    assert_eq!(all.sum("port_monitor_failures_total"), 70_000.0);
    let count = all.samples.len();
    assert!((200..450).contains(&count), "{count}");
}

#[test]
fn the_end_tells_what_the_account_says() {
    let mut metrics = metrics();
    metrics.hear(&overview([("output", Room::Lines(7))]));
    let mut summary = summary();
    summary.consumers[0].1.dropped = Dropped {
        queue_full: 3,
        failed: 2,
        unfinished: 1,
    };
    (summary.undecodable, summary.unowned) = (5, 6);
    summary.hooks[0].1.reserve_failed = 7;
    summary.hooks[1].1.skipped = 8;
    metrics.take(Item::Summary(&summary));
    let all = told(&metrics);
    let count =
        |name, labels: &[(&str, &str)]| all.value(&format!("port_monitor_{name}_total"), labels);
    assert_eq!(count("events_seen", &[]), summary.seen() as f64);
    assert_eq!(count("events_filtered", &[]), 10.0);
    for (cause, lost) in [
        ("ring_full", 7.0),
        ("program_skipped", 8.0),
        ("undecodable", 5.0),
        ("owner_late", 6.0),
    ] {
        assert_eq!(count("events_lost", &[("cause", cause)]), lost, "{cause}");
    }
    let output = ("consumer", "output");
    assert_eq!(count("consumer_events_delivered", &[output]), 402.0);
    assert_eq!(count("consumer_events_taken", &[output]), 400.0);
    assert_eq!(count("consumer_events_hidden", &[output]), 2.0);
    for (cause, dropped) in [("queue_full", 3.0), ("failed", 2.0), ("unfinished", 1.0)] {
        let labels = [output, ("cause", cause)];
        assert_eq!(
            count("consumer_events_dropped", &labels),
            dropped,
            "{cause}"
        );
    }
    assert_eq!(
        all.value("port_monitor_consumer_queue_length", &[output]),
        0.0
    );
}

/// The metrics beside what is shown: each knows how the other one stands.
#[test]
fn consumers_are_told_of_as_they_stand() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = Output::start("test".into(), file.reopen().unwrap()).unwrap();
    let mut all = FanOut::new(Shown::new(Box::new(Json::new()), output));
    let metrics = metrics();
    let shared = Arc::clone(&metrics.shared);
    all.add(Box::new(metrics)).unwrap();
    all.begin(&header());
    for _ in 0..10 {
        all.take(&connected());
    }
    all.flush();
    assert!(all.are_idle_within(PATIENCE));
    all.tick(&Stats {
        seen: 12,
        filtered: 2,
        ..Stats::default()
    });
    assert!(all.are_idle_within(PATIENCE));
    let told = Exposition::open_metrics(&shared.text(Format::OpenMetrics).unwrap());
    for consumer in ["output", "metrics"] {
        let of = |part| {
            let name = format!("port_monitor_consumer_events_{part}_total");
            told.value(&name, &[("consumer", consumer)])
        };
        assert_eq!(
            (of("delivered"), of("taken"), of("hidden")),
            (10.0, 10.0, 0.0),
            "{consumer}"
        );
        let labels = [("consumer", consumer)];
        assert_eq!(told.value("port_monitor_consumer_failing", &labels), 0.0);
    }
    assert_eq!(told.value("port_monitor_events_seen_total", &[]), 12.0);
    assert_eq!(told.value("port_monitor_events_filtered_total", &[]), 2.0);
    let accounts = all.accounts(PATIENCE);
    assert!(
        accounts
            .iter()
            .all(|(_, account)| account.adds_up() && account.taken == 10)
    );
    all.end(&summary()).unwrap();
}

#[test]
fn an_output_that_has_failed_is_told_of() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Output::start("test".into(), full).unwrap();
    let mut all = FanOut::new(Shown::new(Box::new(Json::new()), output));
    let metrics = metrics();
    let shared = Arc::clone(&metrics.shared);
    all.add(Box::new(metrics)).unwrap();
    all.begin(&header());
    all.take(&connected());
    all.flush();
    assert!(all.are_idle_within(PATIENCE));
    // Refused at once, where the one before was lost on its way.
    all.take(&connected());
    all.flush();
    all.tick(&Stats::default());
    assert!(all.are_idle_within(PATIENCE));
    let told = Exposition::open_metrics(&shared.text(Format::OpenMetrics).unwrap());
    let output = ("consumer", "output");
    assert_eq!(told.value("port_monitor_consumer_failing", &[output]), 1.0);
    let labels = [output, ("cause", "failed")];
    let dropped = told.value("port_monitor_consumer_events_dropped_total", &labels);
    assert_eq!(dropped, 2.0);
    assert!(all.end(&summary()).is_err());
}

#[test]
fn the_file_is_whole_from_the_start_and_exact_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.prom");
    let read = || Exposition::text(&fs::read_to_string(&path).unwrap());
    // One is left of a run that was killed.
    fs::write(dir.path().join(".a.prom.new"), "half").unwrap();
    let mut metrics = metrics().write_to(&path).unwrap();
    assert_eq!(read().sum("port_monitor_events_total"), 0.0);
    take(&mut metrics, &[connected()]);
    metrics.settle();
    assert_eq!(read().sum("port_monitor_events_total"), 1.0);
    metrics.take(Item::Summary(&summary()));
    assert_eq!(
        read().value("port_monitor_events_seen_total", &[]),
        summary().seen() as f64
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let account = metrics.account();
    assert_eq!((account.taken, account.error), (1, None));
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_counts_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d/a.prom");
    assert!(metrics().write_to(&path).is_err());
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mut metrics = metrics().write_to(&path).unwrap();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    take(&mut metrics, &[connected()]);
    metrics.settle();
    let account = metrics.account();
    assert!(account.adds_up() && account.taken == 1);
    assert!(
        account
            .error
            .unwrap()
            .contains("a.prom: No such file or directory")
    );
    // It is there again.
    fs::create_dir(path.parent().unwrap()).unwrap();
    metrics.settle();
    assert_eq!(metrics.account().error, None);
}

#[test]
fn the_page_has_every_series() {
    let page = include_str!("../../../../../docs/metrics.md");
    let table = series::page();
    assert!(
        page.contains(&table),
        "docs/metrics.md is to have this table:\n{table}"
    );
}
