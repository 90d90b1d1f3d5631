//! What the line of an event must be: [`wire::Connection`], filled in field by
//! field. The sink writes the same by hand; an audit's listeners begin with it.

use std::{borrow::Cow, net::IpAddr};

use port_monitor_common::event::FileId;

use crate::{
    base::time::Rfc3339,
    consume::lines::{
        errno,
        fields::{CLOSED, service_port},
    },
    events::{
        community_id::CommunityId,
        decode::{Action, Close, Comm, Direction, Event, Owner},
        record::{Container, Header, Judgement, Peer, Process, Record},
        wire::{
            self, Connection, Ecs, VERSION,
            facts::{self, Decimal, Facts, Hex, HexBytes},
            words::{
                self, Category, ConnectionAction, ConnectionDataset, Enforcement, EventType,
                Family, Kind, Outcome, OwnerSource, Reason, Transport, Verdict, Word,
            },
        },
    },
};

/// The line of `record` in a stream that began with `header`.
pub(crate) fn connection<'a>(header: &'a Header, record: &'a Record) -> Connection<'a> {
    connection_of(&header.host, header.policy.as_deref(), record)
}

/// The line of `record`, of this host under this policy file.
pub(crate) fn connection_of<'a>(
    host: &'a str,
    policy: Option<&'a str>,
    record: &'a Record,
) -> Connection<'a> {
    let Record {
        event,
        wall_ns,
        process,
        peer: _,
        ports: _,
        judgement,
    } = record;
    let (source, destination) = ends(event);
    let owner = event.owner.as_ref();
    let container = process.container.as_ref();
    Connection {
        timestamp: Rfc3339(*wall_ns),
        ecs: Ecs::CURRENT,
        event: connection_event(event.action, judgement.as_ref()),
        network: network(event, source.as_ref(), &destination),
        source,
        destination,
        process: owner.map(|owner| shown_process(owner, record)),
        user: owner.map(|owner| wire::User {
            id: Decimal(owner.uid.into()),
            name: process.user.as_deref().map(Cow::Borrowed),
        }),
        group: owner.map(|owner| wire::Group {
            id: Decimal(owner.gid.into()),
        }),
        container: container.map(|container| wire::Container {
            id: Cow::Borrowed(&container.id),
            runtime: Cow::Borrowed(container.runtime),
        }),
        orchestrator: container.and_then(orchestrator),
        host: wire::Host {
            name: Cow::Borrowed(host),
        },
        rule: judgement.as_ref().map(|judgement| wire::Rule {
            name: judgement.rule.as_deref().map(Cow::Borrowed),
            ruleset: judgement
                .ruleset
                .as_ref()
                .map_or(policy, |ruleset| Some(&ruleset.file))
                .map(Cow::Borrowed),
            version: judgement
                .ruleset
                .as_ref()
                .map(|ruleset| Cow::Borrowed(&*ruleset.version)),
        }),
        error: error(event.action),
        port_monitor: facts(record),
    }
}

fn connection_event(event_action: Action, judgement: Option<&Judgement>) -> wire::ConnectionEvent {
    let (event_type, outcome) = match event_action {
        Action::Connect => (EventType::Start, Outcome::Unknown),
        Action::Connected { .. } => (EventType::Info, Outcome::Success),
        Action::Failed { .. } | Action::Close(Close { errno: Some(_), .. }) => {
            (EventType::End, Outcome::Failure)
        }
        Action::Close(Close { errno: None, .. }) | Action::Unlisten => {
            (EventType::End, Outcome::Success)
        }
        Action::Preexisting { .. } | Action::Progress(_) => (EventType::Info, Outcome::Unknown),
        Action::Accept | Action::Listen | Action::Restored => (EventType::Start, Outcome::Success),
    };
    let about = match event_action {
        Action::Listen | Action::Unlisten => EventType::Info,
        _ => EventType::Connection,
    };
    let kind = if judgement.is_some_and(Judgement::is_violation) {
        Kind::Alert
    } else {
        Kind::Event
    };
    wire::ConnectionEvent {
        kind: kind.into(),
        category: vec![Category::Network.into()],
        types: vec![about.into(), event_type.into()],
        action: ConnectionAction::from(event_action).into(),
        outcome: outcome.into(),
        duration: event_action.duration_ns(),
        dataset: ConnectionDataset::Connection.into(),
    }
}

/// Source and destination: the initiator is the source, whoever we are.
fn ends(event: &Event) -> (Option<wire::End>, wire::End) {
    let close = event.action.carried();
    let local = wire::End {
        ip: event.local_ip,
        port: event.local_port,
        bytes: close.map(|close| close.bytes_sent),
    };
    let remote = wire::End {
        ip: event.remote_ip,
        port: Some(event.remote_port),
        bytes: close.map(|close| close.bytes_received),
    };
    match event.direction() {
        Direction::Outbound => (Some(local), remote),
        Direction::Inbound if event.action.is_listener() => (None, local),
        Direction::Inbound => (Some(remote), local),
    }
}

fn network(event: &Event, source: Option<&wire::End>, destination: &wire::End) -> wire::Network {
    wire::Network {
        transport: Transport::Tcp.into(),
        family: match event.local_ip {
            IpAddr::V4(_) => Family::Ipv4.into(),
            IpAddr::V6(_) => Family::Ipv6.into(),
        },
        direction: words::Direction::from(event.direction()).into(),
        community_id: source.and_then(|source| {
            let (source_port, destination_port) = source.port.zip(destination.port)?;
            let destination = (destination.ip, destination_port);
            Some(CommunityId::of((source.ip, source_port), destination))
        }),
    }
}

fn shown_process<'a>(owner: &'a Owner, record: &'a Record) -> wire::Process<'a> {
    let Record { event, process, .. } = record;
    let age_ns = |start_ns: u64| i128::from(event.ts_ns) - i128::from(start_ns);
    let name = |comm: Comm| Cow::Owned(String::from_utf8_lossy(comm.as_bytes()).into_owned());
    let parent = process.parent.map(|parent| wire::Parent {
        pid: parent.pid,
        name: parent.named.map(|(comm, _)| name(comm)),
        start: parent
            .named
            .map(|(_, start_ns)| Rfc3339(record.wall_ns - age_ns(start_ns))),
    });
    wire::Process {
        pid: owner.pid,
        thread: Some(wire::Thread {
            id: owner.tid,
            name: name(owner.comm),
        }),
        name: record.process_name().map(name),
        executable: exe_bytes(process).map(String::from_utf8_lossy),
        args: process.args.as_deref().map(Cow::Borrowed),
        parent,
        start: Some(Rfc3339(record.wall_ns - age_ns(owner.start_ns))),
    }
}

fn exe_bytes(process: &Process) -> Option<&[u8]> {
    let exe = process.exe.known()?;
    Some(exe.as_os_str().as_encoded_bytes())
}

fn orchestrator(container: &Container) -> Option<wire::Orchestrator<'_>> {
    let id = container.pod_uid.as_deref()?;
    Some(wire::Orchestrator {
        kind: Cow::Borrowed("kubernetes"),
        resource: wire::Resource {
            kind: Cow::Borrowed("pod"),
            id: Cow::Borrowed(id),
        },
    })
}

fn error(action: Action) -> Option<wire::Failure<'static>> {
    let errno = match action {
        Action::Failed { errno } => errno,
        Action::Close(close) => Some(close.errno?),
        Action::Connect
        | Action::Accept
        | Action::Connected { .. }
        | Action::Preexisting { .. }
        | Action::Listen
        | Action::Unlisten
        | Action::Restored
        | Action::Progress(_) => return None,
    };
    Some(match errno {
        None => wire::Failure {
            code: None,
            message: Cow::Borrowed(CLOSED),
        },
        Some(errno) => wire::Failure {
            code: Some(errno::name(errno).map_or_else(|| errno.to_string().into(), Cow::Borrowed)),
            message: Cow::Borrowed(errno::word(errno).unwrap_or(errno::UNKNOWN)),
        },
    })
}

fn peer_process(peer: &Peer) -> facts::PeerProcess<'_> {
    facts::PeerProcess {
        pid: peer.pid,
        name: String::from_utf8_lossy(peer.comm.as_bytes()),
        executable: exe_bytes(&peer.process).map(String::from_utf8_lossy),
        start_boottime_ns: Decimal(peer.start_ns),
    }
}

fn facts(record: &Record) -> Facts<'_> {
    let Record {
        event,
        process,
        peer,
        ports,
        judgement,
        ..
    } = record;
    let owner = event.owner.as_ref();
    let verdict = judgement.as_ref().map(|judgement| judgement.verdict);
    let (close, carried) = (event.action.close(), event.action.carried());
    Facts {
        schema: VERSION,
        id: Hex(event.id),
        boottime_ns: Some(Decimal(event.ts_ns)),
        cpu: Some(event.cpu),
        netns: event.netns_ino,
        ifindex: event.ifindex,
        owner_source: owner
            .map_or(OwnerSource::Unknown, |owner| owner.source)
            .into(),
        holders: Some(event.listener.holders).filter(|&holders| holders > 1),
        process_start_boottime_ns: owner.map(|owner| Decimal(owner.start_ns)),
        exe: owner.and_then(|owner| owner.exe).map(exe),
        kernel: owner.is_some_and(|owner| owner.is_kernel),
        cgroup: owner.map(|owner| facts::Cgroup {
            id: Decimal(owner.cgroup_id),
            path: process.cgroup.as_deref().map(Cow::Borrowed),
        }),
        unit: process.unit.as_deref().map(Cow::Borrowed),
        peer_process: peer.as_deref().map(peer_process),
        local: ports.local.as_ref().map(Into::into),
        remote: ports.remote.as_ref().map(Into::into),
        service: service_port(record).map(Into::into),
        port_class: service_port(record).map(|port| port.class.into()),
        v4_mapped: event.v4_mapped,
        handshake_us: match event.action {
            Action::Connected { handshake_us } => handshake_us,
            _ => None,
        },
        state: match event.action {
            Action::Preexisting { state, .. } => Some(Cow::Borrowed(words::state(state))),
            _ => None,
        },
        closed_by: close.map(|close| close.closed_by.into()),
        retransmits: carried.map(|carried| carried.retransmits),
        rtt_us: carried.and_then(|carried| carried.rtt_us),
        closing_pid: close.and_then(|close| close.closing_pid),
        verdict: verdict.map(|verdict| Verdict::from(verdict).into()),
        enforcement: verdict.and_then(Enforcement::of).map(Word::Known),
        preattach: Some(event.preattach),
        connection_state: None,
        alert: None,
        missing: missing(record),
        raw: raw(record),
    }
}

fn missing(record: &Record) -> facts::Missing {
    let Record { event, process, .. } = record;
    let known = |reason: Reason| Word::Known(reason);
    let exe_reason = process.exe.missing().map(Reason::from);
    let unchosen = || {
        event
            .local_port
            .is_none()
            .then_some(known(Reason::NotChosen))
    };
    let (source_port, destination_port) = match event.direction() {
        Direction::Outbound => (unchosen(), None),
        Direction::Inbound => (None, unchosen()),
    };
    let ports_only = facts::Missing {
        source_port,
        destination_port,
        ..facts::Missing::default()
    };
    if event.owner.is_none() {
        return facts::Missing {
            pid: Some(known(exe_reason.unwrap_or(Reason::NoOwner))),
            ..ports_only
        };
    }
    let absent = |is_none: bool, reason| is_none.then_some(known(reason));
    facts::Missing {
        executable: exe_reason.map(known),
        user_name: absent(
            process.user.is_none(),
            process
                .user_missing
                .map_or(Reason::UnknownUser, Reason::from),
        ),
        cgroup_path: absent(
            process.cgroup.is_none(),
            process
                .cgroup_missing()
                .map_or(Reason::NotFound, Reason::from),
        ),
        container_id: process.container_missing.map(|reason| known(reason.into())),
        ..ports_only
    }
}

fn raw(record: &Record) -> facts::Raw<'_> {
    fn not_utf8(bytes: &[u8]) -> Option<HexBytes<'_>> {
        let is_utf8 = std::str::from_utf8(bytes).is_ok();
        (!is_utf8).then_some(HexBytes(bytes.into()))
    }
    let hex = |comm: Comm| {
        let HexBytes(bytes) = not_utf8(comm.as_bytes())?;
        Some(HexBytes(Cow::Owned(bytes.into_owned())))
    };
    let owner = record.event.owner.as_ref();
    let parent = record.process.parent.filter(|_| owner.is_some());
    facts::Raw {
        thread_name: owner.and_then(|owner| hex(owner.comm)),
        name: record.process_name().and_then(hex),
        parent_name: parent
            .and_then(|parent| parent.named)
            .and_then(|(comm, _)| hex(comm)),
        executable: exe_bytes(&record.process).and_then(not_utf8),
        peer_name: record
            .peer
            .as_ref()
            .and_then(|peer| not_utf8(peer.comm.as_bytes())),
        peer_executable: record
            .peer
            .as_ref()
            .and_then(|peer| exe_bytes(&peer.process).and_then(not_utf8)),
    }
}

const fn exe(file: FileId) -> facts::Exe {
    facts::Exe {
        device: facts::Device(file.device),
        inode: Decimal(file.inode),
    }
}
