//! Alerts by what a journal and a command get of them.

mod command;
mod often;
mod what;

use std::{collections::BTreeMap, os::unix::net::UnixDatagram, sync::Arc};

use tempfile::TempDir;

use crate::consume::alert::*;
use crate::{
    consume::lines::sample::{header, violation},
    events::{alert::Alert as Level, record::Judgement},
};

const EVERY: [AlertKind; 6] = [
    AlertKind::Violation,
    AlertKind::Denied,
    AlertKind::Allowed,
    AlertKind::Listener,
    AlertKind::FirstUse,
    AlertKind::Loss,
];

/// An entry of the journal.
type Fields = BTreeMap<String, Vec<u8>>;

/// What a test has in place of a journal: it takes what comes, and reads it later.
struct Inbox {
    dir: TempDir,
    socket: UnixDatagram,
}

impl Inbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("socket")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { dir, socket }
    }

    fn alerts(&self, on: &[AlertKind], rate: &str) -> Alerts {
        let mut alerts = Alerts::new(on, rate.parse().unwrap());
        alerts.journal = Some(Journal::at(self.dir.path().join("socket")));
        alerts.take(Item::Header(&header()));
        alerts
    }

    /// What has come since the last time.
    fn entries(&self) -> Vec<Fields> {
        let mut entries = Vec::new();
        let mut bytes = vec![0; 1 << 18];
        while let Ok(count) = self.socket.recv(&mut bytes) {
            entries.push(fields(&bytes[..count]));
        }
        entries
    }

    /// One field of each of them.
    fn each(&self, name: &str) -> Vec<String> {
        let entries = self.entries().into_iter();
        let each = entries.map(|mut entry| entry.remove(name).unwrap_or_default());
        each.map(|value| String::from_utf8(value).unwrap())
            .collect()
    }
}

/// The fields of an entry, as `Native Journal Protocol` of systemd has them.
fn fields(mut bytes: &[u8]) -> Fields {
    let mut fields = Fields::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| b"=\n".contains(byte)).unwrap();
        let name = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let is_text = bytes[end] == b'=';
        bytes = &bytes[end + 1..];
        let length = if is_text {
            bytes.iter().position(|byte| *byte == b'\n').unwrap()
        } else {
            let (length, rest) = bytes.split_first_chunk().unwrap();
            bytes = rest;
            usize::try_from(u64::from_le_bytes(*length)).unwrap()
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest.strip_prefix(b"\n").unwrap();
        assert_eq!(fields.insert(name, value.to_vec()), None);
    }
    fields
}

/// That of this rule, which has the level of its name.
fn by(rule: &str, mut record: Record) -> Record {
    let judgement = record.judgement.as_mut().unwrap();
    judgement.rule = Some(rule.into());
    let levels = [Level::None, Level::Low, Level::High];
    judgement.alert = levels.into_iter().find(|level| level.name() == rule);
    record
}

/// Allowed by this rule.
fn allowed(rule: &str, mut record: Record) -> Record {
    let verdict = port_monitor_common::policy::Verdict::Allow;
    record.judgement = Some(Judgement::of(verdict, None));
    by(rule, record)
}

/// A violation to this port.
fn to(port: u16) -> Record {
    let mut record = violation();
    record.event.remote_port = port;
    record.ports.remote.as_mut().unwrap().port = port;
    record
}
