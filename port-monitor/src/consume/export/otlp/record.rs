//! A connection that has ended as a log record of OpenTelemetry. Attributes have the names of
//! its semantic conventions where there are any, and begin with `port_monitor.` elsewhere.

use std::net::{IpAddr, SocketAddr};

use super::protobuf::Message;
use crate::consume::{history::outbox::Ended, lines::errno};

/// What kind of event each of them is.
pub(super) const EVENT: &str = "port_monitor.connection";

/// Fields of `LogRecord`.
const TIME: u64 = 1;
const SEVERITY: u64 = 2;
const SEVERITY_TEXT: u64 = 3;
const BODY: u64 = 5;
const ATTRIBUTES: u64 = 6;
const OBSERVED_TIME: u64 = 11;
const EVENT_NAME: u64 = 12;

/// `INFO` and `WARN`.
const INFO: (u64, &str) = (9, "INFO");
const WARN: (u64, &str) = (13, "WARN");

/// The record of a row.
pub(super) fn record(row: &Ended) -> Message {
    let mut record = Message::default();
    record.fixed64(TIME, row.time_ns.unsigned_abs());
    record.fixed64(OBSERVED_TIME, ended_ns(row));
    let (number, text) = match row.verdict {
        Some("denied" | "violation") => WARN,
        _ => INFO,
    };
    record.number(SEVERITY, number);
    record.text(SEVERITY_TEXT, text);
    record.text(EVENT_NAME, EVENT);
    record.message(BODY, &Any::Text(&body(row)).message());
    each_attribute(row, &mut |name, value| {
        record.message(ATTRIBUTES, &attribute(name, &value));
    });
    record
}

/// An attribute, of whatever has some.
pub(super) fn attribute(name: &str, value: &Any<'_>) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.message(2, &value.message());
    attribute
}

/// A value of any type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Any<'v> {
    Text(&'v str),
    Number(u64),
    Fraction(f64),
}

impl Any<'_> {
    fn message(&self) -> Message {
        let mut value = Message::default();
        match *self {
            Self::Text(text) => value.text(1, text),
            // There are signed numbers only.
            Self::Number(number) if number > i64::MAX.unsigned_abs() => {
                value.text(1, &number.to_string());
            }
            Self::Number(number) => value.number(3, number),
            Self::Fraction(number) => value.fixed64(4, number.to_bits()),
        }
        value
    }
}

/// When it has ended, as far as that is known.
fn ended_ns(row: &Ended) -> u64 {
    let duration = row.duration.unwrap_or_default().max(0.0);
    let duration = std::time::Duration::try_from_secs_f64(duration).unwrap_or_default();
    let duration = u64::try_from(duration.as_nanos()).unwrap_or_default();
    row.time_ns.unsigned_abs().saturating_add(duration)
}

/// What people read.
fn body(row: &Ended) -> String {
    let process = row.process.as_deref().unwrap_or("?");
    let arrow = if row.direction == "in" { "<-" } else { "->" };
    let remote = match row.remote.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, row.remote_port).to_string(),
        Err(_) => format!("{}:{}", row.remote, row.remote_port),
    };
    let state = row.state;
    match row.errno.and_then(errno::name) {
        Some(errno) => format!("{process} {arrow} {remote} {state} {errno}"),
        None => format!("{process} {arrow} {remote} {state}"),
    }
}

/// The attributes of a row. What is unknown has none.
fn each_attribute(row: &Ended, add: &mut impl FnMut(&str, Any<'_>)) {
    let uid = format!(
        "{}-{}-{}-{}",
        row.boot_id, row.connection_id, row.time_ns, row.version
    );
    add("log.record.uid", Any::Text(&uid));
    ends(row, add);
    let number = |value: Option<u32>| value.map(|value| Any::Number(value.into()));
    let count = |value: Option<u64>| value.map(Any::Number);
    let exe_name = row.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
    let errno_name = row.errno.and_then(errno::name);
    let known = [
        ("process.pid", number(row.pid)),
        ("process.executable.path", text(row.exe.as_deref())),
        ("process.executable.name", text(exe_name)),
        ("process.owner", text(row.user.as_deref())),
        ("error.type", text(errno_name)),
        ("security_rule.name", text(row.rule.as_deref())),
        ("container.id", text(row.container.as_deref())),
        ("port_monitor.process", text(row.process.as_deref())),
        ("port_monitor.unit", text(row.unit.as_deref())),
        ("port_monitor.direction", Some(Any::Text(row.direction))),
        ("port_monitor.port", count(row.port.map(u64::from))),
        ("port_monitor.service", text(row.service.as_deref())),
        ("port_monitor.state", Some(Any::Text(row.state))),
        ("port_monitor.verdict", text(row.verdict)),
        ("port_monitor.duration", row.duration.map(Any::Fraction)),
        ("port_monitor.bytes_sent", count(row.bytes_sent)),
        ("port_monitor.bytes_received", count(row.bytes_received)),
        ("port_monitor.handshake_us", number(row.handshake_us)),
        ("port_monitor.rtt_us", number(row.rtt_us)),
        ("port_monitor.retransmits", number(row.retransmits)),
        (
            "port_monitor.errno",
            number(row.errno.map(i32::unsigned_abs)),
        ),
        ("port_monitor.boot_id", Some(Any::Text(&row.boot_id))),
        (
            "port_monitor.connection_id",
            Some(Any::Number(row.connection_id)),
        ),
        (
            "port_monitor.version",
            Some(Any::Number(row.version.unsigned_abs())),
        ),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            add(name, value);
        }
    }
}

fn text(text: Option<&str>) -> Option<Any<'_>> {
    text.map(Any::Text)
}

/// Both ends. The source is the one that began.
fn ends(row: &Ended, add: &mut impl FnMut(&str, Any<'_>)) {
    let local = (&*row.local, row.local_port);
    let remote = (&*row.remote, Some(row.remote_port));
    let (source, destination) = if row.direction == "in" {
        (remote, local)
    } else {
        (local, remote)
    };
    for (address, port, (ip, number)) in [
        ("source.address", "source.port", source),
        ("destination.address", "destination.port", destination),
        ("network.local.address", "network.local.port", local),
        ("network.peer.address", "network.peer.port", remote),
    ] {
        add(address, Any::Text(ip));
        if let Some(number) = number {
            add(port, Any::Number(number.into()));
        }
    }
    add("network.transport", Any::Text("tcp"));
    let is_ipv6 = row.remote.contains(':');
    add(
        "network.type",
        Any::Text(if is_ipv6 { "ipv6" } else { "ipv4" }),
    );
}
