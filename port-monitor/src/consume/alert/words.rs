//! What is told of an event: as a line of JSON, and as an entry of the journal.

use jiff::tz::TimeZone;

use super::{Alert, Subject, gate::Told, journal::Entry};
use crate::{
    base::{sanitize::Escaped, time::LocalClock},
    consume::lines::{
        cell::Cell,
        errno,
        fields::{self, dir_text, how_it_went, service_port},
        json::{connection_of, line_of, loss_line},
    },
    events::{
        alert::AlertKind,
        decode::{Action, Direction},
        record::{Header, Judgement, Loss, Record},
        wire::{
            Host, Line, facts,
            words::{ConnectionAction, LossCause, Spelled as _},
        },
    },
};

/// What the journal finds the entries by.
const IDENTIFIER: &str = "port-monitor";

/// `MESSAGE_ID` of a kind: made once by chance, and never another one.
const fn message_id(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::Violation => "fa9f3a0dca1d46f890e8d7bf800ed94a",
        AlertKind::Denied => "b3a0d1e3685349d185f46e0be48c3569",
        AlertKind::Allowed => "32f35c787003483a83114173d7630c9e",
        AlertKind::Listener => "b6276c3496194ff6be8c221b0f487a39",
        AlertKind::FirstUse => "f74efc6b205647bfa5aafa2c13712638",
        AlertKind::Loss => "6e0fc040eeba4f6f8c49eae570847468",
    }
}

/// The words of one run.
#[derive(Debug, Default)]
pub(super) struct Words {
    host: String,
    policy: Option<String>,
}

impl Words {
    /// The run is this one.
    pub(super) fn begin(&mut self, header: &Header) {
        self.host.clone_from(&header.host);
        self.policy.clone_from(&header.policy);
    }

    /// The line of JSON, with its end.
    pub(super) fn line(&self, told: &Told) -> Vec<u8> {
        let Alert { kind, priority, .. } = told.alert;
        let alert = Some(facts::Alert {
            kind: kind.into(),
            priority: priority as u8,
            suppressed: told.suppressed,
        });
        match &told.alert.subject {
            Subject::Event(record) => {
                let mut line = connection_of(&self.host, self.policy.as_deref(), record);
                line.port_monitor.alert = alert;
                line_of(&Line::Connection(line))
            }
            Subject::Loss(loss) => {
                let host = Host {
                    name: self.host.as_str().into(),
                };
                let mut line = loss_line(loss, host);
                line.port_monitor.alert = alert;
                line_of(&Line::Loss(line))
            }
        }
    }

    /// The entry of the journal, of which that is the line.
    pub(super) fn entry(&self, told: &Told, line: &[u8]) -> Entry {
        let Alert { kind, priority, .. } = told.alert;
        let mut entry = Entry::default();
        entry.field("MESSAGE", message(told));
        entry.field("MESSAGE_ID", message_id(kind));
        entry.field("PRIORITY", (priority as u8).to_string());
        entry.field("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry.field("PORT_MONITOR_ALERT", kind.word());
        entry.field("PORT_MONITOR_SUPPRESSED", told.suppressed.to_string());
        match &told.alert.subject {
            Subject::Event(record) => {
                owner_fields(&mut entry, record);
                flow_fields(&mut entry, record);
                if let Some(judgement) = &record.judgement {
                    self.judgement_fields(&mut entry, judgement);
                }
            }
            Subject::Loss(loss) => {
                entry.field("PORT_MONITOR_CAUSE", LossCause::word(loss.cause));
                entry.field("PORT_MONITOR_LOST", loss.lost.to_string());
            }
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        entry.field("PORT_MONITOR_EVENT", line);
        entry
    }

    fn judgement_fields(&self, entry: &mut Entry, judgement: &Judgement) {
        entry.field_of("PORT_MONITOR_RULE", judgement.rule.as_deref());
        let ruleset = judgement.ruleset.as_deref();
        let file = ruleset.map(|ruleset| &*ruleset.file);
        entry.field_of("PORT_MONITOR_POLICY", file.or(self.policy.as_deref()));
        let version = ruleset.map(|ruleset| &*ruleset.version);
        entry.field_of("PORT_MONITOR_POLICY_VERSION", version);
    }
}

fn owner_fields(entry: &mut Entry, record: &Record) {
    if let Some(owner) = &record.event.owner {
        // By it the journal adds what it knows of the process.
        entry.field("OBJECT_PID", owner.pid.to_string());
        entry.field("PORT_MONITOR_PID", owner.pid.to_string());
        entry.field("PORT_MONITOR_PROCESS", owner.process_comm.as_bytes());
        entry.field("PORT_MONITOR_UID", owner.uid.to_string());
    }
    let process = &record.process;
    let exe = process.exe.known();
    let exe = exe.map(|exe| exe.as_os_str().as_encoded_bytes());
    entry.field_of("PORT_MONITOR_EXE", exe);
    entry.field_of("PORT_MONITOR_USER", process.user.as_deref());
    entry.field_of("PORT_MONITOR_UNIT", process.unit.as_deref());
}

fn flow_fields(entry: &mut Entry, record: &Record) {
    let event = &record.event;
    let action = ConnectionAction::from(event.action).word();
    entry.field("PORT_MONITOR_ACTION", action);
    if let Action::Failed { errno: Some(errno) } = event.action {
        entry.field_of("PORT_MONITOR_ERRNO", errno::name(errno));
    }
    let service = service_port(record).and_then(|port| port.service);
    entry.field_of("PORT_MONITOR_SERVICE", service.map(|(name, _)| name));
    entry.field("PORT_MONITOR_LOCAL_IP", event.local_ip.to_string());
    let port = event.local_port.map(|port| port.to_string());
    entry.field_of("PORT_MONITOR_LOCAL_PORT", port);
    if !event.action.is_listener() {
        let direction = match event.direction() {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        entry.field("PORT_MONITOR_DIRECTION", direction);
        entry.field("PORT_MONITOR_REMOTE_IP", event.remote_ip.to_string());
        entry.field("PORT_MONITOR_REMOTE_PORT", event.remote_port.to_string());
    }
}

/// What a person reads.
fn message(told: &Told) -> Vec<u8> {
    let mut text = format!("{}: ", told.alert.kind.word()).into_bytes();
    match &told.alert.subject {
        Subject::Event(record) => push_event(&mut text, record),
        Subject::Loss(Loss {
            lost, total, cause, ..
        }) => {
            let cause = cause.word().replace('_', " ");
            text.extend(format!("{lost} events lost ({cause}), {total} so far").bytes());
        }
    }
    match told.suppressed {
        0 => {}
        more => text.extend(format!("; {more} more held back before").bytes()),
    }
    text
}

/// The process and its id, what it did, how that went, and by which rule.
fn push_event(text: &mut Vec<u8>, record: &Record) {
    let mut clock = LocalClock::new(TimeZone::UTC);
    let mut cell = Cell::new(text, usize::MAX, &mut clock);
    fields::process(&mut cell, record);
    cell.put("[");
    fields::pid(&mut cell, record);
    cell.put("] ");
    if record.event.action.is_listener() {
        fields::local(&mut cell, record);
    } else {
        cell.put(dir_text(&record.event));
        cell.put(" ");
        if record.event.direction() == Direction::Inbound {
            fields::local(&mut cell, record);
            cell.put(" from ");
        }
        fields::remote(&mut cell, record);
    }
    cell.put(" ");
    how_it_went(&mut cell, record, "");
    match record.judgement.as_ref().map(|said| said.rule.as_deref()) {
        Some(Some(rule)) => text.extend(format!(", rule {}", Escaped(rule.as_bytes())).bytes()),
        Some(None) if record.is_violation() => text.extend(b", by the default"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::{AlertKind, message_id};

    const CATALOG: &str = include_str!("../../../../packaging/port-monitor.catalog");
    const PAGE: &str = include_str!("../../../../docs/alerts.md");

    #[test]
    fn each_kind_has_an_entry_in_the_catalog_of_fields_that_there_are() {
        let mut ids: Vec<&str> = CATALOG
            .lines()
            .filter_map(|line| line.strip_prefix("-- "))
            .collect();
        let mut kinds: Vec<&str> = AlertKind::value_variants()
            .iter()
            .map(|kind| message_id(*kind))
            .collect();
        ids.sort_unstable();
        kinds.sort_unstable();
        assert_eq!(ids, kinds);
        let fields: Vec<&str> = CATALOG.split('@').skip(1).step_by(2).collect();
        assert!(fields.len() > 5, "{fields:?}");
        for field in fields {
            assert!(PAGE.contains(&format!("`{field}`")), "{field}");
        }
    }
}
