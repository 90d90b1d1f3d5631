//! Groups of connections, and what they add up to.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::csv;
use crate::{
    base::time::{LocalClock, Rfc3339, local},
    consume::{
        history::read::{By, Key, Sums},
        lines::cell::Cell,
    },
    ports::services,
};

/// Names of the sums, in the order of all forms.
pub const SUMS: [&str; 7] = [
    "connections",
    "failed",
    "violations",
    "bytes_sent",
    "bytes_received",
    "first",
    "last",
];

/// Headings of the sums in a table.
pub const HEADINGS: [&str; 7] = [
    "count",
    "failed",
    "violations",
    "out",
    "in",
    "first",
    "last",
];

/// What connections may have in common, by the word of `--by`.
pub const fn word(by: By) -> &'static str {
    match by {
        By::Process => "process",
        By::Exe => "exe",
        By::User => "user",
        By::Unit => "unit",
        By::Container => "container",
        By::Service => "service",
        By::Remote => "remote",
        By::Rule => "rule",
    }
}

/// What a group has in common, as text; `None` where there is nothing.
pub fn key(key: &Key) -> Option<String> {
    Some(match key {
        Key::Nothing => return None,
        Key::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Key::Uid(uid) => uid.to_string(),
        Key::Port(port) => match services::lookup(*port).0 {
            Some((name, _)) => format!("{port} {name}"),
            None => port.to_string(),
        },
        Key::Ip(ip) => ip.to_string(),
        Key::Default => "(default)".to_owned(),
    })
}

/// The cells of a table for sums.
pub fn cells(sums: &Sums, zone: &TimeZone) -> [String; 7] {
    let Sums {
        count,
        failed,
        violations,
        sent,
        received,
        first_ns,
        last_ns,
    } = *sums;
    [
        count.to_string(),
        failed.to_string(),
        violations.to_string(),
        size(sent),
        size(received),
        local(first_ns, zone),
        local(last_ns, zone),
    ]
}

/// Sums as JSON, below names of what they are of.
pub fn json_line(out: &mut Vec<u8>, of: &[(&str, Option<String>)], sums: &Sums) {
    let of = of.iter().map(|(name, text)| (*name, json!(text)));
    let all = of.chain(SUMS.into_iter().zip(values(sums)));
    for (number, (name, value)) in all.enumerate() {
        out.push(if number == 0 { b'{' } else { b',' });
        out.extend_from_slice(format!("\"{name}\":{value}").as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

/// Sums as a line of CSV, behind texts of what they are of.
pub fn csv_line(out: &mut Vec<u8>, of: &[Option<String>], sums: &Sums) {
    let texts = of.iter().map(|text| text.clone().unwrap_or_default());
    let sums = values(sums).map(|value| match value {
        Value::String(text) => text,
        number => number.to_string(),
    });
    let line: Vec<String> = texts.chain(sums).collect();
    csv::line(out, line.iter().map(String::as_bytes));
}

fn values(sums: &Sums) -> [Value; 7] {
    [
        json!(sums.count),
        json!(sums.failed),
        json!(sums.violations),
        json!(sums.sent),
        json!(sums.received),
        json!(Rfc3339(sums.first_ns)),
        json!(Rfc3339(sums.last_ns)),
    ]
}

/// A number of bytes, as the table of a run has it.
fn size(bytes: u64) -> String {
    let mut text = Vec::new();
    let mut clock = LocalClock::new(TimeZone::UTC);
    Cell::new(&mut text, usize::MAX, &mut clock).size(bytes);
    String::from_utf8_lossy(&text).into_owned()
}
