//! Log records by what the types of OpenTelemetry read of them.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
};
use prost::Message as _;

use super::*;

/// What is sent of these rows.
fn sent(rows: &[Ended]) -> ExportLogsServiceRequest {
    let mut batch = Batch::default();
    assert!(rows.iter().all(|row| batch.add(row)));
    ExportLogsServiceRequest::decode(&*batch.into_message()).unwrap()
}

fn one(row: Ended) -> LogRecord {
    let request = sent(&[row]);
    request.resource_logs[0].scope_logs[0].log_records[0].clone()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => format!("{number}s"),
        other => panic!("{other:?}"),
    }
}

/// Attributes by their names. None is there twice.
fn attributes(of: &[KeyValue]) -> BTreeMap<&str, String> {
    let pairs = of.iter().map(|it| (&*it.key, text(it.value.as_ref())));
    let map: BTreeMap<_, _> = pairs.collect();
    assert_eq!(map.len(), of.len(), "{of:?}");
    map
}

/// A row that knows everything.
fn full() -> Ended {
    Ended {
        time: 1_795_348_801,
        host: "web-1".to_owned(),
        process: Some("nc".into()),
        pid: Some(2211),
        exe: Some("/usr/bin/nc.openbsd".into()),
        user: Some("ann".into()),
        unit: Some("a.service".into()),
        container: Some("0123456789ab".into()),
        direction: "out",
        local: "10.0.0.5".to_owned(),
        local_port: Some(40310),
        remote: "10.0.0.9".to_owned(),
        remote_port: 23,
        port: Some(23),
        service: Some("telnet".into()),
        state: "failed",
        verdict: Some("violation"),
        rule: Some("no-telnet".into()),
        duration: Some(1.5),
        bytes_sent: Some(1 << 40),
        bytes_received: Some(0),
        bytes: Some(1 << 40),
        handshake_us: Some(1),
        rtt_us: Some(2),
        retransmits: Some(3),
        errno: Some(111),
        time_ns: 1_795_348_801_000_000_417,
        boot_id: "b".to_owned(),
        connection_id: 7,
        version: 9,
    }
}

#[test]
fn a_row_is_a_record_with_all_that_is_known() {
    let record = one(full());
    assert_eq!(record.time_unix_nano, 1_795_348_801_000_000_417);
    assert_eq!(record.observed_time_unix_nano, 1_795_348_802_500_000_417);
    assert_eq!(
        (record.severity_number, &*record.severity_text),
        (13, "WARN")
    );
    assert_eq!(record.event_name, "port_monitor.connection");
    assert_eq!(
        text(record.body.as_ref()),
        "nc -> 10.0.0.9:23 failed ECONNREFUSED"
    );
    let expected = [
        ("container.id", "0123456789ab"),
        ("destination.address", "10.0.0.9"),
        ("destination.port", "23"),
        ("error.type", "ECONNREFUSED"),
        ("log.record.uid", "b-7-1795348801000000417-9"),
        ("network.local.address", "10.0.0.5"),
        ("network.local.port", "40310"),
        ("network.peer.address", "10.0.0.9"),
        ("network.peer.port", "23"),
        ("network.transport", "tcp"),
        ("network.type", "ipv4"),
        ("port_monitor.boot_id", "b"),
        ("port_monitor.bytes_received", "0"),
        ("port_monitor.bytes_sent", "1099511627776"),
        ("port_monitor.connection_id", "7"),
        ("port_monitor.direction", "out"),
        ("port_monitor.duration", "1.5s"),
        ("port_monitor.errno", "111"),
        ("port_monitor.handshake_us", "1"),
        ("port_monitor.port", "23"),
        ("port_monitor.process", "nc"),
        ("port_monitor.retransmits", "3"),
        ("port_monitor.rtt_us", "2"),
        ("port_monitor.service", "telnet"),
        ("port_monitor.state", "failed"),
        ("port_monitor.unit", "a.service"),
        ("port_monitor.verdict", "violation"),
        ("port_monitor.version", "9"),
        ("process.executable.name", "nc.openbsd"),
        ("process.executable.path", "/usr/bin/nc.openbsd"),
        ("process.owner", "ann"),
        ("process.pid", "2211"),
        ("security_rule.name", "no-telnet"),
        ("source.address", "10.0.0.5"),
        ("source.port", "40310"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(key, value)| (key, value.to_owned())).into();
    assert_eq!(attributes(&record.attributes), expected);
}

/// The source is who began.
#[test]
fn what_is_unknown_is_not_there_and_an_inbound_one_comes_from_its_peer() {
    let record = one(Ended {
        direction: "in",
        local: "::1".to_owned(),
        local_port: Some(22),
        remote: "2001:db8::7".to_owned(),
        remote_port: 53122,
        state: "closed",
        connection_id: u64::MAX,
        ..Ended::default()
    });
    assert_eq!(
        (record.severity_number, &*record.severity_text),
        (9, "INFO")
    );
    assert_eq!(
        text(record.body.as_ref()),
        "? <- [2001:db8::7]:53122 closed"
    );
    let attributes = attributes(&record.attributes);
    let of = |name| attributes.get(name).map(|text: &String| &**text);
    assert_eq!(of("source.address"), Some("2001:db8::7"));
    assert_eq!(of("source.port"), Some("53122"));
    assert_eq!(of("destination.address"), Some("::1"));
    assert_eq!(of("destination.port"), Some("22"));
    assert_eq!(of("network.type"), Some("ipv6"));
    assert_eq!(
        of("port_monitor.connection_id"),
        Some("18446744073709551615")
    );
    for name in [
        "process.pid",
        "error.type",
        "port_monitor.bytes_sent",
        "port_monitor.verdict",
    ] {
        assert_eq!(of(name), None);
    }
}

/// A host that is called something else by now is another resource.
#[test]
fn rows_are_under_the_resource_of_their_host() {
    let named = |host: &str| Ended {
        host: host.to_owned(),
        ..Ended::default()
    };
    let request = sent(&[named("a"), named("a"), named("b"), named("a")]);
    let told: Vec<(String, usize)> = request
        .resource_logs
        .iter()
        .map(|logs| {
            let resource = attributes(&logs.resource.as_ref().unwrap().attributes);
            assert_eq!(resource["service.name"], "port-monitor");
            assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
            let [scope] = &*logs.scope_logs else {
                panic!("{logs:?}");
            };
            assert_eq!(scope.scope.as_ref().unwrap().name, "port-monitor");
            (resource["host.name"].clone(), scope.log_records.len())
        })
        .collect();
    let named = |host: &str, count| (host.to_owned(), count);
    assert_eq!(told, [named("a", 2), named("b", 1), named("a", 1)]);
}

#[test]
fn a_message_has_four_mebibytes_at_most_and_one_row_at_least() {
    let mut batch = Batch::default();
    let mut rows = 0;
    while batch.add(&full()) {
        rows += 1;
    }
    assert!(rows > 3_000, "{rows}");
    let bytes = batch.into_message().len();
    assert!(bytes <= 4 << 20 && bytes > (4 << 20) * 9 / 10, "{bytes}");
    let mut batch = Batch::default();
    let large = Ended {
        exe: Some("x".repeat(5 << 20)),
        ..full()
    };
    assert!(batch.add(&large) && !batch.add(&full()));
    assert!(ExportLogsServiceRequest::decode(&*batch.into_message()).is_ok());
}

#[test]
fn no_row_is_a_message_too() {
    assert_eq!(sent(&[]), ExportLogsServiceRequest::default());
}
