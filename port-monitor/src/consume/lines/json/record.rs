//! Lines back to what they were written of: the other way round than [`super::spec`]. What a
//! line does not tell is not there, or zero: it is not shown either.

use std::{
    borrow::Cow,
    collections::HashSet,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::ffi::OsStringExt as _,
    sync::Arc,
};

use port_monitor_common::{
    event::{ClosedBy, FileId},
    policy::Verdict,
    tcp_state::TcpState,
};

use crate::{
    consume::lines::errno,
    events::{
        decode::{Action, Close, Comm, Direction, Event, Listener, Owner},
        record::{
            Container, Field, Header, Judgement, LoadedPolicy, Loss, Missing, Parent, Peer,
            PortClass, PortInfo, Ports, Process, Record, Ruleset, ServiceStatus,
        },
        wire::{
            self, Connection, End, LossLine, PolicyLine, Start,
            facts::{self, Facts, HexBytes},
            words::{self, ConnectionAction, Enforcement, OwnerSource, Reason, Word, state},
        },
    },
    ports::services,
};

/// Names of other versions that are remembered, which is for ever.
const NAMES: usize = 1_024;

/// Reads the lines of one stream.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Names that this version does not have.
    names: HashSet<&'static str>,
    /// The policy that has judged the last event.
    ruleset: Option<Arc<Ruleset>>,
}

impl Records {
    /// The header of a stream.
    pub(crate) fn header(&mut self, start: Start<'_>) -> Header {
        let facts = start.port_monitor;
        let text = facts.policy_sha256.zip(facts.policy_number);
        let policy_loaded =
            text.and_then(|(digest, number)| loaded(&digest, number, start.timestamp.0));
        Header {
            wall_ns: start.timestamp.0,
            boot_ns: 0,
            version: self.name(&start.agent.version),
            host: start.host.name.into_owned(),
            kernel: start.host.os.kernel.into_owned(),
            boot_id: start.host.boot.id.into_owned(),
            backend: self.name(&facts.backend),
            blind_spots: facts.blind_spots.into_owned(),
            unproven: facts.unproven.into_owned(),
            waiting: facts.waiting.into_owned(),
            policy: facts.policy.map(Cow::into_owned),
            policy_loaded,
        }
    }

    /// The record of an event; `None` where the line does not tell what every event has, or
    /// tells what this version does not know.
    pub(crate) fn record(&mut self, line: &Connection<'_>) -> Option<Record> {
        let facts = &line.port_monitor;
        let event = event(line)?;
        let ports = Ports {
            local: self.port(facts.local.as_ref(), event.local_port),
            remote: self.port(facts.remote.as_ref(), Some(event.remote_port)),
        };
        Some(Record {
            process: Arc::new(self.process(line, event.ts_ns)),
            event,
            wall_ns: line.timestamp.0,
            peer: facts.peer_process.as_ref().map(|peer| {
                Arc::new(Peer {
                    pid: peer.pid,
                    start_ns: peer.start_boottime_ns.0,
                    comm: comm(&peer.name, facts.raw.peer_name.as_ref()),
                    process: Arc::new(Process {
                        exe: exe(
                            peer.executable.as_ref(),
                            facts.raw.peer_executable.as_ref(),
                            None,
                        ),
                        ..Process::unknown(Missing::NoOwner)
                    }),
                })
            }),
            ports,
            judgement: self.judgement(line),
        })
    }

    fn judgement(&mut self, line: &Connection<'_>) -> Option<Judgement> {
        let facts = &line.port_monitor;
        let enforcement = facts.enforcement.as_ref().and_then(Word::known);
        let verdict = match (facts.verdict.as_ref()?.known()?, enforcement) {
            (words::Verdict::Allow, _) => Verdict::Allow,
            (words::Verdict::Violation, Some(Enforcement::Enforce)) => Verdict::Deny,
            (words::Verdict::Violation, _) => Verdict::AuditDeny,
        };
        let rule = line.rule.as_ref();
        let rule: Option<&wire::Rule<'_>> = rule;
        Some(Judgement {
            ruleset: rule.and_then(|rule| self.ruleset(rule)),
            ..Judgement::of(verdict, rule.and_then(|rule| shared(rule.name.as_deref())))
        })
    }

    /// Whose rule it is: nearly always the same policy's.
    fn ruleset(&mut self, rule: &wire::Rule<'_>) -> Option<Arc<Ruleset>> {
        let (file, version) = rule.ruleset.as_deref().zip(rule.version.as_deref())?;
        let known = self.ruleset.as_ref();
        let is_known = known.is_some_and(|known| known.file == file && known.version == version);
        if !is_known {
            self.ruleset = Some(Arc::new(Ruleset {
                file: file.to_owned(),
                version: version.to_owned(),
            }));
        }
        self.ruleset.clone()
    }

    fn process(&mut self, line: &Connection<'_>, ts_ns: u64) -> Process {
        let Facts { missing, raw, .. } = &line.port_monitor;
        let process = line.process.as_ref();
        let why = |word: Option<&Word<Reason>>| word.and_then(Word::known).and_then(reason);
        let cgroup = line.port_monitor.cgroup.as_ref();
        Process {
            exe: exe(
                process.and_then(|process| process.executable.as_ref()),
                raw.executable.as_ref(),
                why(missing.executable.as_ref().or(missing.pid.as_ref())),
            ),
            parent: process
                .and_then(|process| process.parent.as_ref())
                .map(|parent| Parent {
                    pid: parent.pid,
                    named: parent.start.map(|start| {
                        let age_ns = line.timestamp.0 - start.0;
                        let start_ns = i128::from(ts_ns) - age_ns;
                        let name = parent.name.as_deref().unwrap_or_default();
                        let comm = comm(name, raw.parent_name.as_ref());
                        (comm, u64::try_from(start_ns).unwrap_or_default())
                    }),
                }),
            args: process
                .and_then(|process| process.args.as_deref())
                .map(Into::into),
            user: line
                .user
                .as_ref()
                .and_then(|user| shared(user.name.as_deref())),
            cgroup: cgroup.and_then(|cgroup| shared(cgroup.path.as_deref())),
            unit: shared(line.port_monitor.unit.as_deref()),
            container: line.container.as_ref().map(|container| Container {
                id: container.id.clone().into_owned(),
                runtime: self.name(&container.runtime),
                pod_uid: line
                    .orchestrator
                    .as_ref()
                    .map(|pod| pod.resource.id.clone().into_owned()),
            }),
            user_missing: why(missing.user_name.as_ref()),
            container_missing: why(missing.container_id.as_ref()),
        }
    }

    fn port(&mut self, told: Option<&facts::Port>, port: Option<u16>) -> Option<PortInfo> {
        let told = told?;
        let port = port.unwrap_or_default();
        let service = &told.service;
        Some(PortInfo {
            port,
            class: told.class.known().unwrap_or(PortClass::of(port)),
            service: service.name.as_deref().and_then(|name| {
                let origin = service.origin.as_ref()?.known()?;
                let known = services::lookup(port).0.filter(|(known, _)| *known == name);
                let name = known.map_or_else(|| self.name(name), |(known, _)| known);
                Some((name, origin))
            }),
            status: service.status.known().unwrap_or(ServiceStatus::Unassigned),
            ephemeral: told.ephemeral,
        })
    }

    /// The name, for as long as the program runs.
    fn name(&mut self, name: &str) -> &'static str {
        if let Some(known) = self.names.get(name) {
            return known;
        }
        if self.names.len() >= NAMES {
            return "…";
        }
        let name: &'static str = Box::leak(name.into());
        self.names.insert(name);
        name
    }
}

/// A gap; `None` of a cause that this version does not know.
pub(crate) fn loss(line: &LossLine<'_>) -> Option<Loss> {
    let facts = &line.port_monitor;
    Some(Loss {
        wall_ns: line.timestamp.0,
        lost: facts.lost,
        total: facts.total,
        cause: facts.cause.known()?,
    })
}

fn event(line: &Connection<'_>) -> Option<Event> {
    let facts = &line.port_monitor;
    let action = action(line)?;
    let (local, remote) = ends(line, action)?;
    let nowhere = match local.ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Some(Event {
        action,
        id: facts.id.0,
        ts_ns: facts.boottime_ns?.0,
        cpu: facts.cpu.unwrap_or_default(),
        owner: match facts.owner_source.known()? {
            OwnerSource::Unknown => None,
            source => Some(owner(line, source)?),
        },
        listener: Listener {
            number: 0,
            holders: facts.holders.unwrap_or_default(),
        },
        local_ip: local.ip,
        local_port: local.port,
        remote_ip: remote.map_or(nowhere, |remote| remote.ip),
        remote_port: remote.and_then(|remote| remote.port).unwrap_or_default(),
        v4_mapped: facts.v4_mapped,
        netns_ino: facts.netns,
        ifindex: facts.ifindex,
        preattach: facts.preattach.unwrap_or_default(),
        ended: false,
        self_test: false,
        stamp: None,
        policy: 0,
    })
}

/// This host's end, and that of the peer.
fn ends<'a>(line: &'a Connection<'_>, action: Action) -> Option<(&'a End, Option<&'a End>)> {
    let (source, destination) = (line.source.as_ref(), &line.destination);
    Some(match action.direction() {
        _ if action.is_listener() => (destination, None),
        Direction::Inbound => (destination, Some(source?)),
        Direction::Outbound => (source?, Some(destination)),
    })
}

fn action(line: &Connection<'_>) -> Option<Action> {
    let facts = &line.port_monitor;
    let direction = || {
        Some(match line.network.direction.known()? {
            words::Direction::Ingress => Direction::Inbound,
            words::Direction::Egress => Direction::Outbound,
        })
    };
    Some(match line.event.action.known()? {
        ConnectionAction::Connect => Action::Connect,
        ConnectionAction::Connected => Action::Connected {
            handshake_us: facts.handshake_us,
        },
        ConnectionAction::Failed => Action::Failed {
            errno: errno(line)?,
        },
        ConnectionAction::Accept => Action::Accept,
        ConnectionAction::Close => Action::Close(Close {
            errno: errno(line)?,
            ..carried(line, direction()?)
        }),
        ConnectionAction::Progress => Action::Progress(carried(line, direction()?)),
        ConnectionAction::Preexisting => Action::Preexisting {
            direction: direction()?,
            state: tcp_state(facts.state.as_deref().unwrap_or_default()),
            duration_ns: line.event.duration,
        },
        ConnectionAction::Listen => Action::Listen,
        ConnectionAction::Unlisten => Action::Unlisten,
        ConnectionAction::Restored => Action::Restored,
    })
}

fn carried(line: &Connection<'_>, direction: Direction) -> Close {
    let facts = &line.port_monitor;
    let source = line.source.as_ref().and_then(|end| end.bytes);
    let (source, destination) = (source.unwrap_or(0), line.destination.bytes.unwrap_or(0));
    let (bytes_sent, bytes_received) = match direction {
        Direction::Outbound => (source, destination),
        Direction::Inbound => (destination, source),
    };
    let closed_by = facts.closed_by.as_ref().and_then(Word::known);
    Close {
        duration_ns: line.event.duration,
        bytes_received,
        bytes_sent,
        retransmits: facts.retransmits.unwrap_or_default(),
        rtt_us: facts.rtt_us,
        closing_pid: facts.closing_pid,
        ..Close::new(direction, closed_by.unwrap_or(ClosedBy::Unknown))
    }
}

/// The errno, if there is one; `None` where nobody knows what is told.
#[expect(
    clippy::option_option,
    reason = "an error number may be absent, or unheard of"
)]
fn errno(line: &Connection<'_>) -> Option<Option<i32>> {
    let code = line.error.as_ref().and_then(|error| error.code.as_deref());
    match code {
        None => Some(None),
        Some(code) => errno::number(code).map(Some),
    }
}

fn tcp_state(name: &str) -> TcpState {
    let mut known = (1..=u8::MAX).map(TcpState);
    known
        .find(|known| state(*known) == name)
        .unwrap_or(TcpState(0))
}

fn owner(line: &Connection<'_>, source: OwnerSource) -> Option<Owner> {
    let facts = &line.port_monitor;
    let (process, raw) = (line.process.as_ref()?, &facts.raw);
    let thread = process.thread.as_ref()?;
    let id = |id: u64| u32::try_from(id).ok();
    Some(Owner {
        source,
        pid: process.pid,
        tid: thread.id,
        start_ns: facts.process_start_boottime_ns?.0,
        comm: comm(&thread.name, raw.thread_name.as_ref()),
        process_comm: comm(
            process.name.as_deref().unwrap_or_default(),
            raw.name.as_ref(),
        ),
        uid: id(line.user.as_ref()?.id.0)?,
        gid: id(line.group.as_ref()?.id.0)?,
        cgroup_id: facts.cgroup.as_ref()?.id.0,
        exe: facts.exe.as_ref().map(|exe| FileId {
            device: exe.device.0,
            inode: exe.inode.0,
        }),
        is_kernel: facts.kernel,
    })
}

/// A name: its bytes, where they are told beside the text.
fn comm(name: &str, raw: Option<&HexBytes<'_>>) -> Comm {
    Comm::of(raw.map_or(name.as_bytes(), |raw| &*raw.0))
}

fn exe<T>(
    path: Option<&Cow<'_, str>>,
    raw: Option<&HexBytes<'_>>,
    missing: Option<Missing>,
) -> Field<T>
where
    OsString: Into<T>,
{
    let path = path.map(|path| path.as_bytes());
    match raw.map(|raw| &*raw.0).or(path) {
        Some(path) => Field::Known(OsString::from_vec(path.to_vec()).into()),
        None => Field::Missing(missing.unwrap_or(Missing::NoOwner)),
    }
}

fn shared(text: Option<&str>) -> Option<Arc<str>> {
    text.map(Into::into)
}

/// Why a value was not found, where that is for something that is told of.
const fn reason(reason: Reason) -> Option<Missing> {
    Some(match reason {
        Reason::NoOwner => Missing::NoOwner,
        Reason::Shared => Missing::Shared,
        Reason::Unheld => Missing::Unheld,
        Reason::Exited => Missing::Exited,
        Reason::Executed => Missing::Executed,
        Reason::Denied => Missing::Denied,
        Reason::KernelThread => Missing::KernelThread,
        Reason::Late => Missing::Late,
        Reason::UnknownUser | Reason::NotChosen | Reason::NotFound => return None,
    })
}

/// The policy that a line says events are judged by from there on: its file, and its text; `None`
/// where it does not say that.
pub(crate) fn policy(line: &PolicyLine<'_>) -> Option<(String, LoadedPolicy)> {
    let facts = &line.port_monitor;
    let loaded = loaded(&facts.policy_sha256, facts.policy_number, line.timestamp.0)?;
    Some((facts.policy.clone().into_owned(), loaded))
}

/// Which text of a policy it is, as far as lines tell.
fn loaded(digest: &HexBytes<'_>, number: u16, wall_ns: i128) -> Option<LoadedPolicy> {
    Some(LoadedPolicy {
        digest: (*digest.0).try_into().ok()?,
        wall_ns,
        number,
        denying: [].into(),
    })
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::{super::any::records, *};
    use crate::{
        consume::{
            Lines, Sink,
            lines::{
                fields::FIELDS,
                json::Json,
                sample,
                table::{Options, Table},
            },
        },
        events::{
            compat::{Read, read},
            record::Item,
            wire::Line,
        },
    };

    fn text(sink: &mut dyn Sink, header: &Header, records: &[Record]) -> String {
        let mut lines = Lines::default();
        sink.write(&mut lines, Item::Header(header));
        for record in records {
            sink.write(&mut lines, Item::Event(record));
        }
        String::from_utf8(lines.as_bytes().to_vec()).unwrap()
    }

    fn table(header: &Header, records: &[Record]) -> String {
        let mut table = Table::new(Options {
            width: None,
            color: true,
            verbose: true,
            aggregate: false,
            fields: FIELDS.iter().collect(),
            zone: TimeZone::UTC,
        });
        text(&mut table, header, records)
    }

    /// What the lines were written of.
    fn back(text: &str) -> (Header, Vec<Record>) {
        let mut all = Records::default();
        let mut header = None;
        let mut records = Vec::new();
        for text in text.lines() {
            let Read::Line(line) = read(text).unwrap() else {
                panic!("unknown: {text}");
            };
            match *line {
                Line::Start(start) => header = Some(all.header(start)),
                Line::Connection(line) => records.extend(all.record(&line)),
                other => panic!("{other:?}"),
            }
        }
        (header.unwrap(), records)
    }

    /// As the pipeline makes them, of which the random ones have more.
    fn likely(mut record: Record) -> Record {
        let event = &mut record.event;
        record.wall_ns = record.wall_ns.rem_euclid(4_000_000_000_000_000_000);
        if event.action.is_listener() {
            event.remote_ip = match event.local_ip {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            event.remote_port = 0;
            record.ports.remote = None;
        }
        if let Action::Progress(so_far) = &mut event.action {
            so_far.closed_by = ClosedBy::Unknown;
        }
        if event.local_port.is_none() {
            record.ports.local = None;
        }
        if event.owner.is_none() {
            record.process = Arc::new(Process {
                exe: Field::Missing(record.process.exe.missing().unwrap_or(Missing::NoOwner)),
                container: record.process.container.clone(),
                unit: record.process.unit.clone(),
                ..Process::unknown(Missing::NoOwner)
            });
        }
        record
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_read_back_is_shown_as_it_was(records in records()) {
            let records: Vec<_> = records.into_iter().map(likely).collect();
            let header = sample::header();
            let lines = text(&mut Json::new(), &header, &records);
            let (same, again) = back(&lines);
            prop_assert_eq!(text(&mut Json::new(), &same, &again), lines);
            prop_assert_eq!(table(&same, &again), table(&header, &records));
        }
    }

    #[test]
    fn what_another_version_tells_is_no_event_of_this_one() {
        let lines = text(&mut Json::new(), &sample::header(), &[sample::closed()]);
        for (told, otherwise) in [
            ("\"owner_source\":\"connect\"", "\"owner_source\":\"moon\""),
            ("\"boottime_ns\":", "\"moontime_ns\":"),
            ("\"thread\":", "\"thraed\":"),
        ] {
            let other = lines.replacen(told, otherwise, 1);
            assert_ne!(other, lines);
            assert_eq!(back(&other).1.len(), 0, "{other}");
        }
        assert_eq!(back(&lines).1.len(), 1);
    }

    #[test]
    fn names_of_other_versions_are_few() {
        let mut records = Records::default();
        for name in 0..NAMES {
            records.name(&name.to_string());
        }
        assert_eq!((records.name("0"), records.name("new")), ("0", "…"));
    }
}
