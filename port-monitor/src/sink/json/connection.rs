//! The line of an event, written by hand: there are many of them, and most of
//! each is fixed text. Its shape is [`schema::Connection`], and a test holds it
//! to every byte that serializing that shape gives.
//!
//! [`schema::Connection`]: crate::sink::schema::Connection

use std::net::IpAddr;

use port_monitor_common::{event::OwnerSource, policy::Verdict};

use super::{
    line::Line,
    owner::{OwnerText, Owners},
};
use crate::{
    event::{Action, Direction, Event},
    record::{Judgement, PortInfo, Ports, Record},
    sink::{
        community_id::CommunityId,
        errno,
        fields::{CLOSED, class_name, owner_source_name, service_port},
        time::UtcClock,
    },
};

/// Writes the lines of events.
#[derive(Debug)]
pub(super) struct Connections {
    owners: Owners,
    clock: UtcClock,
    /// `"ruleset":…`, which every judged event names; empty without a policy.
    ruleset: Vec<u8>,
}

impl Connections {
    /// Of a stream from this host under this policy file.
    pub(super) fn new(host: &str, policy: Option<&str>) -> Self {
        let mut ruleset = Vec::new();
        if let Some(policy) = policy {
            let mut line = Line(&mut ruleset);
            line.raw(r#""ruleset":"#);
            line.string(policy);
        }
        Self {
            owners: Owners::new(host),
            clock: UtcClock::default(),
            ruleset,
        }
    }

    /// Appends the line of `record`, without its end.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, record: &Record) {
        let Record {
            event,
            wall_ns,
            process: _,
            ports: _,
            judgement,
        } = record;
        let mut line = Line(out);
        line.raw(r#"{"@timestamp":""#);
        line.time(&mut self.clock, *wall_ns);
        push_event(&mut line, event.action, judgement.as_ref());
        push_flow(&mut line, event);
        let owner_text = self.owners.text(record);
        if let Some(owner) = &event.owner {
            line.rendered(&owner_text.before_thread);
            line.number(owner.tid);
            line.raw(r#"},"name":"#);
            line.string(owner.comm.as_bytes());
        }
        line.rendered(&owner_text.after_name);
        if let Some(judgement) = judgement {
            push_rule(&mut line, judgement, &self.ruleset);
        }
        if let Action::Failed { errno } = event.action {
            push_error(&mut line, errno);
        }
        push_facts(&mut line, record, owner_text);
        line.raw("}}");
    }
}

/// From the end of the time to the beginning of `network.type`.
fn push_event(line: &mut Line<'_>, action: Action, judgement: Option<&Judgement>) {
    line.raw(if judgement.is_some_and(Judgement::is_violation) {
        r#"","ecs":{"version":"9.4.0"},"event":{"kind":"alert","category":["network"],"type":["connection",""#
    } else {
        r#"","ecs":{"version":"9.4.0"},"event":{"kind":"event","category":["network"],"type":["connection",""#
    });
    line.raw(match action {
        Action::Connect => r#"start"],"action":"connect","outcome":"unknown","#,
        Action::Connected { .. } => r#"info"],"action":"connected","outcome":"success","#,
        Action::Failed { .. } => r#"end"],"action":"failed","outcome":"failure","#,
        Action::Accept => r#"start"],"action":"accept","outcome":"success","#,
    });
    line.raw(r#""dataset":"port_monitor.connection"},"network":{"transport":"tcp","type":""#);
}

/// The rest of `network`, and both ends: the initiator is the source, whoever we
/// are.
fn push_flow(line: &mut Line<'_>, event: &Event) {
    line.raw(if event.local_ip.is_ipv4() {
        "ipv4"
    } else {
        "ipv6"
    });
    let local = (event.local_ip, event.local_port);
    let remote = (event.remote_ip, Some(event.remote_port));
    let (source, destination) = match event.direction() {
        Direction::Outbound => {
            line.raw(r#"","direction":"egress""#);
            (local, remote)
        }
        Direction::Inbound => {
            line.raw(r#"","direction":"ingress""#);
            (remote, local)
        }
    };
    if let ((source_ip, Some(source_port)), (destination_ip, Some(destination_port))) =
        (source, destination)
    {
        let id = CommunityId::of((source_ip, source_port), (destination_ip, destination_port));
        line.raw(r#","community_id":""#);
        line.rendered(&id.text());
        line.raw("\"");
    }
    line.raw(r#"},"source":{"ip":""#);
    push_end(line, source);
    line.raw(r#","destination":{"ip":""#);
    push_end(line, destination);
}

fn push_end(line: &mut Line<'_>, (ip, port): (IpAddr, Option<u16>)) {
    line.ip(ip);
    match port {
        Some(port) => {
            line.raw(r#"","port":"#);
            line.number(port);
            line.raw("}");
        }
        None => line.raw(r#""}"#),
    }
}

fn push_rule(line: &mut Line<'_>, judgement: &Judgement, ruleset: &[u8]) {
    line.raw(r#","rule":{"#);
    if let Some(rule) = &judgement.rule {
        line.raw(r#""name":"#);
        line.string(&**rule);
        if !ruleset.is_empty() {
            line.raw(",");
        }
    }
    line.rendered(ruleset);
    line.raw("}");
}

fn push_error(line: &mut Line<'_>, errno: Option<i32>) {
    line.raw(r#","error":{"#);
    let message = match errno {
        None => CLOSED,
        Some(errno) => {
            line.raw(r#""code":""#);
            match errno::name(errno) {
                Some(name) => line.raw(name),
                None => line.number(errno),
            }
            line.raw(r#"","#);
            errno::word(errno).unwrap_or(errno::UNKNOWN)
        }
    };
    line.raw(r#""message":""#);
    line.raw(message);
    line.raw(r#""}"#);
}

/// `port_monitor`, but for its end.
fn push_facts(line: &mut Line<'_>, record: &Record, owner_text: &OwnerText) {
    let Record {
        event, judgement, ..
    } = record;
    line.raw(r#","port_monitor":{"schema":1,"id":""#);
    line.hex(event.id);
    line.raw(r#"","boottime_ns":""#);
    line.number(event.ts_ns);
    line.raw(r#"","cpu":"#);
    line.number(event.cpu);
    line.raw(r#","netns":"#);
    line.number(event.netns_ino);
    if let Some(ifindex) = event.ifindex {
        line.raw(r#","ifindex":"#);
        line.number(ifindex);
    }
    line.raw(r#","owner_source":""#);
    let owner = event.owner.as_ref();
    line.raw(owner_source_name(
        owner.map_or(OwnerSource::Unknown, |owner| owner.source),
    ));
    line.raw("\"");
    line.rendered(&owner_text.facts);
    push_ports(line, &record.ports, service_port(record));
    line.raw(if event.v4_mapped {
        r#","v4_mapped":true"#
    } else {
        r#","v4_mapped":false"#
    });
    if let Action::Connected { handshake_us } = event.action {
        line.raw(r#","handshake_us":"#);
        line.number(handshake_us);
    }
    if let Some(judgement) = judgement {
        line.raw(match judgement.verdict {
            Verdict::Allow => r#","verdict":"allow""#,
            Verdict::AuditDeny => r#","verdict":"violation","enforcement":"observe""#,
            Verdict::Deny => r#","verdict":"violation","enforcement":"enforce""#,
        });
    }
    line.raw(if event.preattach {
        r#","preattach":true"#
    } else {
        r#","preattach":false"#
    });
    push_missing(line, record);
    push_raw(line, event, &owner_text.raw_executable);
}

fn push_ports(line: &mut Line<'_>, ports: &Ports, service_port: Option<&PortInfo>) {
    if let Some(local) = &ports.local {
        line.raw(r#","local":{"#);
        push_port(line, local);
    }
    line.raw(r#","remote":{"#);
    push_port(line, &ports.remote);
    if let Some(port) = service_port {
        line.raw(",");
        push_service(line, port);
        line.raw(r#","port_class":""#);
        line.raw(class_name(port.class));
        line.raw("\"");
    }
}

fn push_port(line: &mut Line<'_>, port: &PortInfo) {
    line.raw(r#""port_class":""#);
    line.raw(class_name(port.class));
    line.raw(r#"","#);
    push_service(line, port);
    line.raw(if port.ephemeral {
        r#","ephemeral":true}"#
    } else {
        r#","ephemeral":false}"#
    });
}

fn push_service(line: &mut Line<'_>, port: &PortInfo) {
    line.raw(r#""service":{"#);
    if let Some((name, origin)) = port.service {
        line.raw(r#""name":"#);
        line.string(name);
        line.raw(r#","origin":""#);
        line.raw(origin.name());
        line.raw(r#"","#);
    }
    line.raw(r#""status":""#);
    line.raw(port.status.name());
    line.raw(r#""}"#);
}

/// Fields that have a value nobody could find out, and why.
fn push_missing(line: &mut Line<'_>, record: &Record) {
    let Record { event, process, .. } = record;
    let has_owner = event.owner.is_some();
    let exe = process.exe.missing().map(|reason| reason.name());
    let absent = |is_absent: bool, reason| is_absent.then_some(reason);
    let is_unchosen = event.local_port.is_none();
    let is_outbound = event.direction() == Direction::Outbound;
    let reasons = [
        (r#""process":""#, absent(!has_owner, "no_owner")),
        (r#""process.executable":""#, exe.filter(|_| has_owner)),
        (
            r#""user.name":""#,
            absent(has_owner && process.user.is_none(), "unknown_user"),
        ),
        (
            r#""source.port":""#,
            absent(is_unchosen && is_outbound, "not_chosen"),
        ),
        (
            r#""destination.port":""#,
            absent(is_unchosen && !is_outbound, "not_chosen"),
        ),
        (
            r#""port_monitor.cgroup.path":""#,
            absent(
                has_owner && process.cgroup.is_none(),
                exe.unwrap_or("not_found"),
            ),
        ),
    ];
    let mut separator = r#","missing":{"#;
    let present = reasons
        .iter()
        .filter_map(|(field, reason)| Some((*field, (*reason)?)));
    for (field, reason) in present {
        line.raw(separator);
        line.raw(field);
        line.raw(reason);
        line.raw("\"");
        separator = ",";
    }
    if separator == "," {
        line.raw("}");
    }
}

/// The bytes of fields that are not UTF-8.
fn push_raw(line: &mut Line<'_>, event: &Event, executable: &[u8]) {
    let comm = event.owner.as_ref().map(|owner| owner.comm.as_bytes());
    let comm = comm.filter(|comm| str::from_utf8(comm).is_err());
    if comm.is_none() && executable.is_empty() {
        return;
    }
    line.raw(r#","raw":{"#);
    if let Some(comm) = comm {
        line.raw(r#""process.name":"#);
        line.hex_string(comm);
        if !executable.is_empty() {
            line.raw(",");
        }
    }
    if !executable.is_empty() {
        line.raw(r#""process.executable":"#);
        line.rendered(executable);
    }
    line.raw("}");
}
