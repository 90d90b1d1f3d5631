//! The line of an event, written by hand: there are many of them, and most of
//! each is fixed text. Its shape is [`schema::Connection`], and a test holds it
//! to every byte that serializing that shape gives.
//!
//! [`schema::Connection`]: crate::events::wire::Connection

use std::net::IpAddr;

use super::{
    ip::IpTexts,
    line::Line,
    owner::{OwnerText, Owners},
    port::PortTexts,
};
use crate::{
    base::time::UtcClock,
    consume::lines::{errno, fields::CLOSED, memo::Memo},
    events::{
        community_id::CommunityId,
        decode::{Action, Close, Direction, Event},
        record::{Judgement, Peer, Record},
        wire::words::{Enforcement, OwnerSource, Reason, Verdict, state},
    },
};

/// An address and a port that is chosen.
type Endpoint = (IpAddr, u16);

/// The text of a community ID, and whose it is.
#[derive(Debug)]
struct FlowId {
    source: Endpoint,
    destination: Endpoint,
    text: [u8; CommunityId::LEN],
}

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
    /// The flow ids, which cost as much as the rest of a line: an attempt, its
    /// outcome and the accept on this host share one.
    flow_ids: Memo<FlowId, 256>,
    ips: IpTexts,
    netns: Memo<NetnsText, 64>,
    ports: PortTexts,
    clock: UtcClock,
    /// `"ruleset":…`, which every judged event names; empty without a policy.
    ruleset: Vec<u8>,
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
        let mut ruleset = Vec::new();
        if let Some(policy) = policy {
            let mut line = Line(&mut ruleset);
            line.raw(r#""ruleset":"#);
            line.string(policy);
        }
        Self {
            owners: Owners::new(host),
            flow_ids: Memo::new(),
            ips: IpTexts::new(),
            netns: Memo::new(),
            ports: PortTexts::new(),
            clock: UtcClock::default(),
            ruleset,
        }
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
        self.push_flow(&mut line, event);
        let owner_text = self.owners.text(record);
        line.rendered(owner_text.with_thread(record));
        if let Some(judgement) = judgement {
            push_rule(&mut line, judgement, &self.ruleset);
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
        push_facts(&mut line, record, &netns.text, owner_text, &mut self.ports);
        line.raw("}}");
    }

    /// The rest of `network`, and both ends: the initiator is the source, whoever
    /// we are.
    fn push_flow(&mut self, line: &mut Line<'_>, event: &Event) {
        match event.local_ip {
            IpAddr::V4(_) => line.raw("ipv4"),
            IpAddr::V6(_) => line.raw("ipv6"),
        }
        let local = (event.local_ip, event.local_port);
        let remote = (event.remote_ip, Some(event.remote_port));
        let (source_bytes, destination_bytes) = bytes(event);
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
        if event.action.is_listener() {
            line.raw("}");
        } else {
            if let ((source, Some(source_port)), (destination, Some(destination_port))) =
                (source, destination)
            {
                line.raw(r#","community_id":""#);
                let text = self.flow_id((source, source_port), (destination, destination_port));
                line.raw_bytes(text);
                line.raw(r#""},"source":{"ip":""#);
            } else {
                line.raw(r#"},"source":{"ip":""#);
            }
            self.push_end(line, source, source_bytes);
        }
        line.raw(r#","destination":{"ip":""#);
        self.push_end(line, destination, destination_bytes);
    }

    /// An end, from its address on.
    fn push_end(
        &mut self,
        line: &mut Line<'_>,
        (ip, port): (IpAddr, Option<u16>),
        bytes: Option<u64>,
    ) {
        self.ips.push(line, ip);
        match port {
            Some(port) => {
                line.raw(r#"","port":"#);
                line.u16(port);
            }
            None => line.raw("\""),
        }
        if let Some(bytes) = bytes {
            line.raw(r#","bytes":"#);
            line.number(bytes);
        }
        line.raw("}");
    }

    fn flow_id(&mut self, source: Endpoint, destination: Endpoint) -> &[u8; CommunityId::LEN] {
        let flow_id = self.flow_ids.get(
            usize::from(source.1 ^ destination.1),
            |known| known.source == source && known.destination == destination,
            || FlowId {
                source,
                destination,
                text: CommunityId::of(source, destination).text(),
            },
        );
        &flow_id.text
    }
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
            push_duration(line, &close);
            line.raw(end_of_event!());
        }
        Action::Preexisting { .. } => {
            event!(r#"connection","info"],"action":"preexisting","outcome":"unknown""#);
        }
        Action::Listen => event!(r#"info","start"],"action":"listen","outcome":"success""#),
        Action::Unlisten => event!(r#"info","end"],"action":"unlisten","outcome":"success""#),
        Action::Progress(so_far) => {
            line.raw(r#"connection","info"],"action":"progress","outcome":"unknown""#);
            push_duration(line, &so_far);
            line.raw(end_of_event!());
        }
        Action::Restored => {
            event!(r#"connection","start"],"action":"restored","outcome":"success""#);
        }
    }
}

fn push_duration(line: &mut Line<'_>, close: &Close) {
    if let Some(duration_ns) = close.duration_ns {
        line.raw(r#","duration":"#);
        line.number(duration_ns);
    }
}

/// What source and destination have sent, at the end of a connection or so far.
pub(crate) const fn bytes(event: &Event) -> (Option<u64>, Option<u64>) {
    match event.action.carried() {
        None => (None, None),
        Some(close) => match close.direction {
            Direction::Outbound => (Some(close.bytes_sent), Some(close.bytes_received)),
            Direction::Inbound => (Some(close.bytes_received), Some(close.bytes_sent)),
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
    if let Some(peer) = &record.peer {
        push_peer(line, peer);
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
    push_missing(line, record);
    push_raw(line, record, &owner_text.raw_executable);
}

fn push_peer(line: &mut Line<'_>, peer: &Peer) {
    line.raw(r#","peer_process":{"pid":"#);
    line.number(peer.pid);
    line.raw(r#","name":"#);
    line.string(peer.comm.as_bytes());
    if let Some(exe) = peer.process.exe.known() {
        line.raw(r#","executable":"#);
        line.string(exe.as_os_str().as_encoded_bytes());
    }
    line.raw(r#","start_boottime_ns":""#);
    line.number(peer.start_ns);
    line.raw(r#""}"#);
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

/// Fields that have a value nobody could find out, and why.
fn push_missing(line: &mut Line<'_>, record: &Record) {
    let Record { event, process, .. } = record;
    let mut is_first = true;
    let mut next = |line: &mut Line<'_>| {
        if is_first {
            line.raw(r#","missing":{"#);
        } else {
            line.raw(",");
        }
        is_first = false;
    };
    let exe = process.exe.missing().map(Reason::from);
    let has_owner = event.owner.is_some();
    let mut put = |line: &mut Line<'_>, field: &str, reason: Reason| {
        next(line);
        line.raw(field);
        line.word(reason);
    };
    if has_owner {
        if let Some(reason) = exe {
            put(line, r#""process.executable":""#, reason);
        }
    } else {
        let reason = exe.unwrap_or(Reason::NoOwner);
        put(line, r#""process.pid":""#, reason);
    }
    if has_owner && process.user.is_none() {
        let reason = process.user_missing;
        let reason = reason.map_or(Reason::UnknownUser, Reason::from);
        put(line, r#""user.name":""#, reason);
    }
    if event.local_port.is_none() {
        let field = match event.direction() {
            Direction::Outbound => r#""source.port":""#,
            Direction::Inbound => r#""destination.port":""#,
        };
        put(line, field, Reason::NotChosen);
    }
    if has_owner && process.cgroup.is_none() {
        let reason = process.cgroup_missing();
        let reason = reason.map_or(Reason::NotFound, Reason::from);
        put(line, r#""port_monitor.cgroup.path":""#, reason);
    }
    if let Some(reason) = process.container_missing.filter(|_| has_owner) {
        put(line, r#""container.id":""#, reason.into());
    }
    if !is_first {
        line.raw("}");
    }
}

/// The bytes of fields that are not UTF-8.
fn push_raw(line: &mut Line<'_>, record: &Record, executable: &[u8]) {
    let mut separator = r#","raw":{"#;
    let owner = record.event.owner.as_ref();
    let parent = owner
        .and(record.process.parent)
        .and_then(|parent| parent.named);
    for (name, comm) in [
        (r#""process.thread.name":"#, owner.map(|owner| owner.comm)),
        (r#""process.name":"#, record.process_name()),
        (r#""process.parent.name":"#, parent.map(|(comm, _)| comm)),
    ] {
        if let Some(comm) = comm.filter(|comm| is_not_utf8(comm.as_bytes())) {
            line.raw(separator);
            line.raw(name);
            line.hex_string(comm.as_bytes());
            separator = ",";
        }
    }
    if !executable.is_empty() {
        line.raw(separator);
        line.raw(r#""process.executable":"#);
        line.rendered(executable);
        separator = ",";
    }
    if let Some(peer) = &record.peer {
        if is_not_utf8(peer.comm.as_bytes()) {
            line.raw(separator);
            line.raw(r#""port_monitor.peer_process.name":"#);
            line.hex_string(peer.comm.as_bytes());
            separator = ",";
        }
        let exe = peer.process.exe.known();
        let exe = exe.map(|exe| exe.as_os_str().as_encoded_bytes());
        if let Some(exe) = exe.filter(|exe| is_not_utf8(exe)) {
            line.raw(separator);
            line.raw(r#""port_monitor.peer_process.executable":"#);
            line.hex_string(exe);
            separator = ",";
        }
    }
    if separator == "," {
        line.raw("}");
    }
}

fn is_not_utf8(bytes: &[u8]) -> bool {
    !bytes.is_ascii() && str::from_utf8(bytes).is_err()
}
