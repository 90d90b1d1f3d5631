//! The line of an event, written by hand: there are many of them, and most of
//! each is fixed text. Its shape is [`schema::Connection`], and a test holds it
//! to every byte that serializing that shape gives.
//!
//! [`schema::Connection`]: crate::events::wire::Connection

use std::net::IpAddr;

use super::{
    flow::FlowTexts,
    line::Line,
    missing,
    owner::{OwnerText, Owners},
    peer::{PeerText, PeerTexts},
    port::PortTexts,
    raw,
    ruleset::RulesetTexts,
};
use crate::{
    base::{memo::Memo, time::UtcClock},
    consume::lines::{errno, fields::CLOSED},
    events::{
        decode::{Action, Close, Direction, Event},
        record::{Judgement, Record},
        wire::words::{Enforcement, OwnerSource, Verdict, state},
    },
};

/// The text of a network namespace: most hosts have a handful of them.
#[derive(Debug)]
struct NetnsText {
    ino: u32,
    text: Vec<u8>,
}

/// Writes the lines of events.
#[derive(Debug)]
pub(crate) struct Connections {
    owners: Owners,
    flows: FlowTexts,
    netns: Memo<NetnsText, 64>,
    peers: PeerTexts,
    ports: PortTexts,
    clock: UtcClock,
    rulesets: RulesetTexts,
}

impl NetnsText {
    fn new(ino: u32) -> Self {
        let mut text = Vec::new();
        let mut line = Line(&mut text);
        line.raw(r#","netns":"#);
        line.number(ino);
        Self { ino, text }
    }
}

impl Connections {
    /// Of a stream from this host under this policy file.
    pub(crate) fn new(host: &str, policy: Option<&str>) -> Self {
        let mut connections = Self {
            owners: Owners::new(host),
            flows: FlowTexts::new(),
            netns: Memo::new(),
            peers: PeerTexts::new(),
            ports: PortTexts::new(),
            clock: UtcClock::default(),
            rulesets: RulesetTexts::default(),
        };
        connections.judged_by(policy);
        connections
    }

    /// This is the policy file from here on.
    pub(super) fn judged_by(&mut self, policy: Option<&str>) {
        self.rulesets.begin(policy);
    }

    /// Appends the line of `record`, without its end.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, record: &Record) {
        let Record {
            event,
            wall_ns,
            process: _,
            peer: _,
            ports: _,
            judgement,
        } = record;
        let mut line = Line(out);
        line.raw(r#"{"@timestamp":""#);
        line.time(&mut self.clock, *wall_ns);
        push_event(&mut line, event.action, judgement.as_ref());
        push_flow(&mut line, event, &mut self.flows);
        let owner_text = self.owners.text(record);
        line.rendered(owner_text.with_thread(record));
        if let Some(judgement) = judgement {
            push_rule(&mut line, judgement, self.rulesets.text(judgement));
        }
        if let Action::Failed { errno }
        | Action::Close(Close {
            errno: errno @ Some(_),
            ..
        }) = event.action
        {
            push_error(&mut line, errno);
        }
        let netns = self.netns.get(
            event.netns_ino as usize,
            |known| known.ino == event.netns_ino,
            || NetnsText::new(event.netns_ino),
        );
        let peer = record.peer.as_ref().map(|peer| self.peers.text(peer));
        let ports = &mut self.ports;
        push_facts(&mut line, record, &netns.text, owner_text, peer, ports);
        line.raw("}}");
    }
}

/// The rest of `network`, and both ends: the initiator is the source, whoever we are.
fn push_flow(line: &mut Line<'_>, event: &Event, flows: &mut FlowTexts) {
    let direction = event.direction();
    match (event.local_ip, direction) {
        (IpAddr::V4(_), Direction::Outbound) => line.raw(r#"ipv4","direction":"egress""#),
        (IpAddr::V4(_), Direction::Inbound) => line.raw(r#"ipv4","direction":"ingress""#),
        (IpAddr::V6(_), Direction::Outbound) => line.raw(r#"ipv6","direction":"egress""#),
        (IpAddr::V6(_), Direction::Inbound) => line.raw(r#"ipv6","direction":"ingress""#),
    }
    let local = (event.local_ip, event.local_port);
    let remote = (event.remote_ip, Some(event.remote_port));
    if event.action.is_listener() {
        line.raw("}");
        flows.push_destination(line, local);
    } else {
        let (source, destination) = match direction {
            Direction::Outbound => (local, remote),
            Direction::Inbound => (remote, local),
        };
        flows.push(line, source, destination, bytes(event));
    }
    line.raw("}");
}

/// From the outcome to the beginning of `network.type`.
macro_rules! end_of_event {
    () => {
        r#","dataset":"port_monitor.connection"},"network":{"transport":"tcp","type":""#
    };
}

/// From the end of the time to the beginning of `network.type`, in as few pieces as
/// there can be.
fn push_event(line: &mut Line<'_>, action: Action, judgement: Option<&Judgement>) {
    macro_rules! event {
        ($of:literal) => {
            line.raw(concat!($of, end_of_event!()))
        };
    }
    if judgement.is_some_and(Judgement::is_violation) {
        line.raw(
            r#"","ecs":{"version":"9.4.0"},"event":{"kind":"alert","category":["network"],"type":[""#,
        );
    } else {
        line.raw(
            r#"","ecs":{"version":"9.4.0"},"event":{"kind":"event","category":["network"],"type":[""#,
        );
    }
    match action {
        Action::Connect => {
            event!(r#"connection","start"],"action":"connect","outcome":"unknown""#);
        }
        Action::Connected { .. } => {
            event!(r#"connection","info"],"action":"connected","outcome":"success""#);
        }
        Action::Failed { .. } => {
            event!(r#"connection","end"],"action":"failed","outcome":"failure""#);
        }
        Action::Accept => {
            event!(r#"connection","start"],"action":"accept","outcome":"success""#);
        }
        Action::Close(close) => {
            line.raw(r#"connection","end"],"action":"close","outcome":""#);
            line.raw(if close.errno.is_none() {
                "success"
            } else {
                "failure"
            });
            line.raw("\"");
            push_duration(line, close.duration_ns);
            line.raw(end_of_event!());
        }
        Action::Preexisting { duration_ns, .. } => {
            line.raw(r#"connection","info"],"action":"preexisting","outcome":"unknown""#);
            push_duration(line, duration_ns);
            line.raw(end_of_event!());
        }
        Action::Listen => event!(r#"info","start"],"action":"listen","outcome":"success""#),
        Action::Unlisten => event!(r#"info","end"],"action":"unlisten","outcome":"success""#),
        Action::Progress(so_far) => {
            line.raw(r#"connection","info"],"action":"progress","outcome":"unknown""#);
            push_duration(line, so_far.duration_ns);
            line.raw(end_of_event!());
        }
        Action::Restored => {
            event!(r#"connection","start"],"action":"restored","outcome":"success""#);
        }
    }
}

fn push_duration(line: &mut Line<'_>, duration_ns: Option<u64>) {
    if let Some(duration_ns) = duration_ns {
        line.raw(r#","duration":"#);
        line.number(duration_ns);
    }
}

/// What source and destination have sent, at the end of a connection or so far.
const fn bytes(event: &Event) -> Option<(u64, u64)> {
    match event.action.carried() {
        None => None,
        Some(close) => match close.direction {
            Direction::Outbound => Some((close.bytes_sent, close.bytes_received)),
            Direction::Inbound => Some((close.bytes_received, close.bytes_sent)),
        },
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
fn push_facts(
    line: &mut Line<'_>,
    record: &Record,
    netns: &[u8],
    owner_text: &OwnerText,
    peer: Option<&PeerText>,
    ports: &mut PortTexts,
) {
    let Record {
        event, judgement, ..
    } = record;
    line.raw(r#","port_monitor":{"schema":2,"id":""#);
    line.hex(event.id);
    line.raw(r#"","boottime_ns":""#);
    line.number(event.ts_ns);
    line.raw(r#"","cpu":"#);
    line.u16(event.cpu);
    line.rendered(netns);
    if let Some(ifindex) = event.ifindex {
        line.raw(r#","ifindex":"#);
        line.number(ifindex);
    }
    let owner = event.owner.as_ref();
    let source = owner.map_or(OwnerSource::Unknown, |owner| owner.source);
    line.raw(r#","owner_source":""#);
    line.word(source);
    if event.listener.holders > 1 {
        line.raw(r#","holders":"#);
        line.number(event.listener.holders);
    }
    line.rendered(&owner_text.facts);
    if let Some(peer) = peer {
        line.rendered(&peer.facts);
    }
    let is_inbound = event.direction() == Direction::Inbound;
    ports.push(line, &record.ports, is_inbound);
    if event.v4_mapped {
        line.raw(r#","v4_mapped":true"#);
    } else {
        line.raw(r#","v4_mapped":false"#);
    }
    push_action(line, &event.action);
    if let Some(judgement) = judgement {
        line.raw(r#","verdict":""#);
        line.word(Verdict::from(judgement.verdict));
        if let Some(enforcement) = Enforcement::of(judgement.verdict) {
            line.raw(r#","enforcement":""#);
            line.word(enforcement);
        }
    }
    if event.preattach {
        line.raw(r#","preattach":true"#);
    } else {
        line.raw(r#","preattach":false"#);
    }
    if event.local_port.is_some() {
        line.rendered(&owner_text.missing);
    } else {
        let unchosen = Some(event.direction());
        missing::push(line, &record.process, event.owner.is_some(), unchosen);
    }
    let peers = peer.map_or(&[][..], |peer| &peer.raw);
    raw::push(line, &owner_text.raw, peers);
}

/// What is known of this kind of event alone.
fn push_action(line: &mut Line<'_>, action: &Action) {
    match action {
        Action::Connected {
            handshake_us: Some(handshake_us),
        } => {
            line.raw(r#","handshake_us":"#);
            line.number(*handshake_us);
        }
        Action::Preexisting {
            state: tcp_state, ..
        } => {
            line.raw(r#","state":""#);
            line.raw(state(*tcp_state));
            line.raw("\"");
        }
        Action::Close(close) => {
            line.raw(r#","closed_by":""#);
            line.word(close.closed_by);
            push_path(line, close);
            if let Some(pid) = close.closing_pid {
                line.raw(r#","closing_pid":"#);
                line.number(pid);
            }
        }
        Action::Progress(so_far) => push_path(line, so_far),
        _ => {}
    }
}

/// What is known of the way to the peer.
fn push_path(line: &mut Line<'_>, carried: &Close) {
    line.raw(r#","retransmits":"#);
    line.number(carried.retransmits);
    if let Some(rtt_us) = carried.rtt_us {
        line.raw(r#","rtt_us":"#);
        line.number(rtt_us);
    }
}
