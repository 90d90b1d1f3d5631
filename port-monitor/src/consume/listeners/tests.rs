//! Whole audits, as a table and as JSON lines.

use std::net::Ipv4Addr;

use jiff::tz::TimeZone;
use port_monitor_common::{event::OwnerSource, policy::Verdict, tcp_state::TcpState};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    base::sanitize::is_hostile,
    consume::{
        lines::sample::{NOON_NS, accepted, comm, header, listening, port, summary},
        listeners::{uses::SocketFamily, *},
    },
    events::{
        decode::{Action, Direction},
        record::{Judgement, Loss, LossCause, Record},
    },
};

const SECOND_NS: i128 = 1_000_000_000;

/// The event of a listener at `ip`, `second` seconds after noon.
fn at(mut record: Record, id: u64, ip: &str, second: i128) -> Record {
    record.wall_ns = NOON_NS + second * SECOND_NS;
    record.event.ts_ns = u64::try_from(1_000 + second).unwrap() * 1_000_000_000;
    record.event.id = id;
    record.event.local_ip = ip.parse().unwrap();
    record
}

fn older(id: u64, ip: &str) -> Record {
    let mut record = at(listening(), id, ip, -1);
    record.event.action = Action::Preexisting {
        direction: Direction::Inbound,
        state: TcpState::LISTEN,
        duration_ns: None,
    };
    if let Some(owner) = &mut record.event.owner {
        owner.source = OwnerSource::Holder;
    }
    record
}

/// A client at `peer` was let in at 10.0.0.5, port 22.
fn client(peer: Ipv4Addr, second: i128) -> Record {
    let mut record = at(accepted(), 99, "10.0.0.5", second);
    record.event.remote_ip = peer.into();
    record
}

fn judged(mut record: Record, rule: Option<&str>) -> Record {
    let verdict = match rule {
        Some(_) => Verdict::AuditDeny,
        None => Verdict::Allow,
    };
    record.judgement = Some(Judgement::of(verdict, rule.map(Into::into)));
    record
}

fn listing(listed: Listed) -> Listing {
    Listing {
        selection: Selection::default(),
        listed,
        with_closed: false,
        watch: Some(Duration::from_mins(10)),
        violations: Tally::default(),
        forgotten: Tally::default(),
    }
}

/// Ten minutes: a listener used twice, one of another namespace opened meanwhile, a
/// forbidden one that nobody used, one that closed.
fn records() -> Vec<Record> {
    let mut elsewhere = at(listening(), 2, "127.0.0.1", 300);
    elsewhere.event.netns_ino += 1;
    elsewhere.event.owner = None;
    let mut telnet = older(3, "127.0.0.1");
    telnet.event.local_port = Some(23);
    telnet.ports.local = Some(port(23, Some("telnet"), false));
    let closed = at(listening(), 4, "192.168.0.1", 100);
    let mut closing = at(listening(), 4, "192.168.0.1", 103);
    closing.event.action = Action::Unlisten;
    vec![
        judged(older(1, "0.0.0.0"), None),
        judged(elsewhere, None),
        judged(telnet, Some("no-telnet")),
        judged(closed, None),
        closing,
        client([10, 0, 0, 7].into(), 10),
        client([10, 0, 0, 8].into(), 590),
    ]
}

/// What a sink writes of `records` in ten minutes.
fn written(mut sink: ListenerSink, records: &[Record]) -> String {
    let mut out = Lines::default();
    sink.write(&mut out, Item::Header(&header()));
    for record in records {
        sink.write(&mut out, Item::Event(record));
    }
    let summary = Summary {
        wall_ns: NOON_NS + 600 * SECOND_NS,
        duration: Duration::from_mins(10),
        ..summary()
    };
    sink.write(&mut out, Item::Summary(&summary));
    String::from_utf8(out.bytes).unwrap()
}

fn table(listing: Listing, records: &[Record]) -> String {
    table_of(80, listing, records)
}

fn table_of(width: usize, listing: Listing, records: &[Record]) -> String {
    let mut form = TableForm::new(Some(width), false, TimeZone::UTC);
    form.verbose = true;
    written(ListenerSink::new(listing, Form::Table(form)), records)
}

fn json_lines(listing: Listing, records: &[Record]) -> Vec<Value> {
    let text = written(ListenerSink::json(listing), records);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn clock_that_is_set_back_holds_no_use_back() {
    let mut sink = ListenerSink::json(listing(Listed::Used));
    let mut out = Lines::default();
    sink.write(&mut out, Item::Header(&header()));
    sink.write(&mut out, Item::Event(&older(1, "0.0.0.0")));
    assert!(!sink.listeners.is_settled());
    let mut visit = client([10, 0, 0, 7].into(), 10);
    visit.wall_ns -= 3_600 * SECOND_NS;
    sink.write(&mut out, Item::Event(&visit));
    assert!(sink.listeners.is_settled());
}

#[test]
fn every_listener_is_a_line_by_namespace_and_exposure() {
    let listing = listing(Listed::Used);
    let violations = listing.violations.clone();
    insta::assert_snapshot!(table(listing, &records()));
    assert_eq!(violations.get(), 1);
}

#[test]
fn unused_listeners_say_how_long_they_were_open() {
    insta::assert_snapshot!(table(listing(Listed::Unused), &records()));
}

#[test]
fn a_look_has_no_uses_to_tell() {
    let look = Listing {
        watch: None,
        ..listing(Listed::Used)
    };
    insta::assert_snapshot!(table(look.clone(), &[older(1, "::")]));
    let lines = json_lines(look, &[older(1, "::")]);
    assert_eq!(lines[1]["port_monitor"].get("uses"), None);
}

#[test]
fn lines_fit_40_columns_and_more_but_for_the_rule() {
    for (listed, width) in
        (40..120).flat_map(|width| [Listed::Used, Listed::Unused].map(|listed| (listed, width)))
    {
        for line in table_of(width, listing(listed), &records()).lines() {
            let line = line.strip_suffix("no-telnet").unwrap_or(line);
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn closed_listeners_are_listed_on_request_and_where_they_are_violations() {
    let mut records = records();
    let all = Listing {
        with_closed: true,
        ..listing(Listed::Used)
    };
    assert!(table(all, &records).contains("allow  closed\n"));
    records[3] = judged(records[3].clone(), Some("no-ssh"));
    let text = table(listing(Listed::Used), &records);
    assert!(text.contains("\n! private  192.168.0.1:22 "), "{text}");
    assert!(text.contains("no-ssh  closed\n"), "{text}");
    assert!(text.contains("\n# 2 violations\n"), "{text}");
}

#[test]
fn only_selected_listeners_are_listed_and_counted() {
    let ipv6 = Listing {
        selection: Selection {
            family: Some(SocketFamily::V6),
            ..Selection::default()
        },
        ..listing(Listed::Used)
    };
    let violations = ipv6.violations.clone();
    let text = table(ipv6, &records());
    assert!(text.contains("# 0 listeners: "), "{text}");
    assert_eq!(violations.get(), 0);
}

#[test]
fn a_listener_as_json_says_who_came_in() {
    let lines = json_lines(listing(Listed::Used), &records());
    let [start, visited, forbidden, elsewhere, summary] = &lines[..] else {
        panic!("{lines:#?}");
    };
    assert_eq!(start["event"]["action"], "start");
    assert_eq!(visited["event"]["kind"], "state");
    assert_eq!(visited["destination"], json!({"ip": "0.0.0.0", "port": 22}));
    assert_eq!(visited["port_monitor"]["scope"], "any");
    assert_eq!(visited["port_monitor"]["watched_ms"], 600_000);
    let uses = json!({
        "accepts": 2,
        "first_accept": "2026-11-22T12:00:11.000000000Z",
        "last_accept": "2026-11-22T12:09:51.000000000Z",
        "distinct_peers": 2,
        "distinct_peers_capped": false,
        "shared": false,
    });
    assert_eq!(visited["port_monitor"]["uses"], uses);
    assert_eq!(forbidden["event"]["kind"], "alert");
    assert_eq!(forbidden["rule"]["name"], "no-telnet");
    assert_eq!(forbidden["port_monitor"]["verdict"], "violation");
    let unused = json!({
        "accepts": 0,
        "distinct_peers": 0,
        "distinct_peers_capped": false,
        "shared": false,
    });
    assert_eq!(forbidden["port_monitor"]["uses"], unused);
    assert_eq!(
        elsewhere["port_monitor"]["opened"],
        "2026-11-22T12:05:01.000000000Z"
    );
    assert_eq!(
        elsewhere["port_monitor"]["missing"]["process.pid"],
        "no_owner"
    );
    assert_eq!(summary["port_monitor"]["violations"], 1);
    let audit = json!({
        "listed": 3,
        "open": {"any": 1, "public": 0, "private": 0, "loopback": 2},
        "closed": 1,
        "forgotten": 0,
        "unknown_use": 0,
        "stray_accepts": 0,
    });
    assert_eq!(summary["port_monitor"]["audit"], audit);
}

#[test]
fn what_the_counts_lack_is_said() {
    let mut shared = older(5, "0.0.0.0");
    if let Some(owner) = &mut shared.event.owner {
        owner.pid = 813;
    }
    let mut portless = older(6, "0.0.0.0");
    portless.event.local_port = None;
    portless.ports.local = None;
    let mut somebody = client([10, 0, 0, 7].into(), 10);
    if let Some(owner) = &mut somebody.event.owner {
        owner.source = OwnerSource::Listener;
    }
    let mut stray = client([10, 0, 0, 7].into(), 10);
    stray.event.local_port = Some(24);
    let records = [older(1, "0.0.0.0"), shared, portless, somebody, stray];
    let text = table(listing(Listed::Used), &records);
    for part in [
        " ~1      1     9m ",
        " ?       ?     ? ",
        "\n# ~ counts the accepts of all sockets",
        "\n# 1 listener without a known port",
        "\n# 1 accept at sockets that are not known",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let lines = json_lines(listing(Listed::Unused), &records);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_eq!(lines[1]["port_monitor"]["audit"]["unknown_use"], 1);
}

#[test]
fn lost_events_are_told_at_once_and_make_counts_lower_bounds() {
    let form = TableForm::new(Some(80), false, TimeZone::UTC);
    let mut sink = ListenerSink::new(listing(Listed::Used), Form::Table(form));
    let mut out = Lines::default();
    sink.write(&mut out, Item::Header(&header()));
    let loss = Loss {
        wall_ns: NOON_NS,
        lost: 17,
        total: 17,
        cause: LossCause::RingFull,
    };
    sink.write(&mut out, Item::Loss(&loss));
    let summary = Summary {
        undecodable: 17,
        ..summary()
    };
    sink.write(&mut out, Item::Summary(&summary));
    let text = String::from_utf8(out.bytes).unwrap();
    for part in [
        "# 12:00:01  17 events lost (ring full), 17 so far\n",
        "\n# 17 events lost: accept counts are lower bounds",
        "\n# the account does not add up",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

proptest! {
    #[test]
    fn nothing_hostile_leaves_an_audit(name in any::<[u8; 15]>(), text in any::<String>()) {
        let mut record = judged(older(1, "0.0.0.0"), Some(&text));
        if let Some(owner) = &mut record.event.owner {
            owner.comm = comm(&name);
        }
        let mut process = (*record.process).clone();
        process.container = None;
        process.unit = Some(text.as_str().into());
        record.process = Arc::new(process);
        for sink in [
            ListenerSink::json(listing(Listed::Used)),
            ListenerSink::table(listing(Listed::Used), Some(80), false, true),
            ListenerSink::table(listing(Listed::Unused), None, false, true),
        ] {
            let out = written(sink, std::slice::from_ref(&record));
            prop_assert!(!out.chars().any(|c| c != '\n' && is_hostile(c)), "{out:?}");
        }
    }
}

#[test]
fn closed_listeners_that_are_forgotten_are_counted_for_the_end() {
    let listing = listing(Listed::Used);
    let forgotten = listing.forgotten.clone();
    let mut sink = ListenerSink::new(listing, Form::Json(JsonForm::default()));
    let mut out = Lines::default();
    sink.write(&mut out, Item::Header(&header()));
    for id in 0..=uses::MAX_CLOSED as u64 {
        let opened = at(listening(), id, "127.0.0.1", 1);
        let mut closed = opened.clone();
        closed.event.action = Action::Unlisten;
        for record in [opened, closed] {
            sink.write(&mut out, Item::Event(&record));
        }
    }
    sink.write(&mut out, Item::Summary(&summary()));
    assert_eq!(forgotten.get(), 1);
}
