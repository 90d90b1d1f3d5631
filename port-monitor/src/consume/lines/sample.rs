//! Items for the tests of the sinks.

use std::{path::PathBuf, sync::Arc, time::Duration};

use port_monitor_common::{
    counters::Hook,
    event::{ClosedBy, FileId, OwnerSource},
    policy::Verdict,
};

use crate::events::{
    decode::{Action, Close, Comm, Direction, Event, Owner},
    record::{
        Account, Container, Field, Header, HookCount, Judgement, LoadedPolicy, Loss, LossCause,
        Missing, Parent, Peer, PortClass, PortInfo, Ports, Process, Record, ServiceOrigin,
        ServiceStatus, Summary,
    },
};

/// 2026-11-22 12:00:01 UTC.
pub(crate) const NOON_NS: i128 = 1_795_348_801_000_000_000;

pub(crate) fn comm(name: &[u8]) -> Comm {
    Comm::of(name)
}

pub(crate) fn port(port: u16, service: Option<&'static str>, ephemeral: bool) -> PortInfo {
    PortInfo {
        port,
        class: match port {
            0..1024 => PortClass::WellKnown,
            1024..49152 => PortClass::Registered,
            49152.. => PortClass::Dynamic,
        },
        service: service.map(|name| (name, ServiceOrigin::Iana)),
        status: match service {
            Some(_) => ServiceStatus::Assigned,
            None => ServiceStatus::Unassigned,
        },
        ephemeral,
    }
}

/// curl, run by ann, connected to an https server in 12 ms.
pub(crate) fn connected() -> Record {
    Record {
        event: Event {
            action: Action::Connected {
                handshake_us: Some(12_345),
            },
            id: 0x2a,
            ts_ns: 5_000_000_123,
            cpu: 1,
            owner: Some(Owner {
                source: OwnerSource::Connect,
                pid: 1469,
                tid: 1470,
                start_ns: 4_000_000_000,
                comm: comm(b"curl"),
                process_comm: comm(b"curl"),
                uid: 1000,
                gid: 100,
                cgroup_id: 4242,
                exe: Some(FileId {
                    device: 254 << 20 | 1,
                    inode: 131_077,
                }),
                is_kernel: false,
            }),
            local_ip: "10.0.0.5".parse().unwrap(),
            local_port: Some(49152),
            remote_ip: "93.184.216.34".parse().unwrap(),
            remote_port: 443,
            v4_mapped: false,
            netns_ino: 4_026_531_840,
            ifindex: None,
            preattach: false,
            listener: crate::events::decode::Listener::default(),
            ended: false,
            self_test: false,
            stamp: None,
            policy: 0,
        },
        wall_ns: NOON_NS + 417,
        process: Arc::new(Process {
            exe: Field::Known(PathBuf::from("/usr/bin/curl")),
            parent: Some(Parent {
                pid: 1400,
                named: Some((comm(b"bash"), 3_000_000_000)),
            }),
            args: None,
            user: Some("ann".into()),
            cgroup: Some("/user.slice/session-2.scope".into()),
            unit: Some("session-2.scope".into()),
            container: None,
            user_missing: None,
            container_missing: None,
        }),
        peer: None,
        ports: Ports {
            local: Some(port(49152, None, true)),
            remote: Some(port(443, Some("https"), false)),
        },
        judgement: None,
    }
}

/// nc was refused by a telnet server, against the rule `no-telnet`.
pub(crate) fn violation() -> Record {
    let mut record = connected();
    record.wall_ns += 1_000_000_000;
    record.event.action = Action::Failed { errno: Some(111) };
    if let Some(owner) = &mut record.event.owner {
        owner.pid = 2211;
        owner.comm = comm(b"nc");
        owner.process_comm = owner.comm;
    }
    record.event.local_port = Some(40310);
    record.event.remote_ip = "10.0.0.9".parse().unwrap();
    record.event.remote_port = 23;
    record.ports = Ports {
        local: Some(port(40310, None, true)),
        remote: Some(port(23, Some("telnet"), false)),
    };
    record.judgement = Some(Judgement::of(Verdict::AuditDeny, Some("no-telnet".into())));
    record
}

/// What curl's connection was: 8.1 s, a request and an answer.
pub(crate) fn closed() -> Record {
    let mut record = connected();
    record.wall_ns += 8_100_000_000;
    record.event.action = Action::Close(Close {
        duration_ns: Some(8_123_456_789),
        bytes_received: 86_016,
        bytes_sent: 1_234,
        retransmits: 2,
        rtt_us: Some(11_900),
        ..Close::new(Direction::Outbound, ClosedBy::Local)
    });
    record
}

/// sshd, in a container, accepted a client.
pub(crate) fn accepted() -> Record {
    let mut record = connected();
    record.wall_ns += 2_000_000_000;
    record.event.action = Action::Accept;
    if let Some(owner) = &mut record.event.owner {
        owner.source = OwnerSource::Accept;
        owner.pid = 812;
        owner.comm = comm(b"sshd");
        owner.process_comm = owner.comm;
        owner.uid = 0;
    }
    record.event.local_port = Some(22);
    record.event.remote_ip = "10.0.0.7".parse().unwrap();
    record.event.remote_port = 53122;
    record.ports = Ports {
        local: Some(port(22, Some("ssh"), false)),
        remote: Some(port(53122, None, true)),
    };
    record.process = Arc::new(Process {
        exe: Field::Known(PathBuf::from("/usr/sbin/sshd")),
        parent: Some(Parent {
            pid: 1,
            named: None,
        }),
        args: None,
        user: Some("root".into()),
        cgroup: Some("/system.slice/docker-3f4e0c9a2b1d5566.scope".into()),
        unit: Some("docker-3f4e0c9a2b1d5566.scope".into()),
        container: Some(Container {
            id: "3f4e0c9a2b1d5566".into(),
            runtime: "docker",
            pod_uid: Some("0f3a".into()),
        }),
        user_missing: None,
        container_missing: None,
    });
    record
}

/// sshd listens.
pub(crate) fn listening() -> Record {
    let mut record = accepted();
    record.event.action = Action::Listen;
    if let Some(owner) = &mut record.event.owner {
        owner.source = OwnerSource::Listener;
    }
    record.event.remote_ip = std::net::Ipv4Addr::UNSPECIFIED.into();
    record.event.remote_port = 0;
    record.ports.remote = None;
    record
}

/// An attempt of which neither owner nor local port is known.
pub(crate) fn ownerless() -> Record {
    let mut record = connected();
    record.event.action = Action::Connect;
    record.event.owner = None;
    record.event.local_port = None;
    record.ports.local = None;
    record.process = Arc::new(Process::unknown(Missing::NoOwner));
    record
}

/// sshd's end of [`accepted`], for whoever connected to it.
pub(crate) fn sshd() -> Arc<Peer> {
    Arc::new(Peer {
        pid: 812,
        start_ns: 3_000_000_000,
        comm: comm(b"sshd"),
        process: accepted().process,
    })
}

pub(crate) fn header() -> Header {
    Header {
        wall_ns: NOON_NS,
        boot_ns: 1_000_000_000_000,
        version: "0.1.0",
        host: "web1".into(),
        kernel: "6.12.0".into(),
        boot_id: "4d9c2f6e-1111-4222-8333-944455556666".into(),
        backend: "fentry",
        blind_spots: vec!["accepts of threads already waiting".into()],
        unproven: Vec::new(),
        waiting: Vec::new(),
        policy: Some("policy.toml".into()),
        policy_loaded: Some(LoadedPolicy {
            digest: [0x2a; 32],
            wall_ns: NOON_NS - 1_000_000_000,
            denying: ["no-telnet".into()].into(),
            number: 1,
        }),
    }
}

pub(crate) fn loss() -> Loss {
    Loss {
        wall_ns: NOON_NS + 9_000_000_000,
        lost: 17,
        total: 20,
        cause: LossCause::RingFull,
    }
}

/// 412 = 400 + 12 + 0.
pub(crate) fn summary() -> Summary {
    let count = |hit, filtered| HookCount {
        hit,
        filtered,
        reserve_failed: 0,
        skipped: 0,
        submitted: hit - filtered,
    };
    Summary {
        wall_ns: NOON_NS + 10_000_000_000,
        duration: Duration::from_millis(10_040),
        looks: 1_000,
        not_ours: 588,
        failures: Vec::new(),
        hooks: vec![
            (Hook::Connect.name(), count(200, 10)),
            (Hook::Accept.name(), count(112, 0)),
            (Hook::Outcome.name(), count(100, 0)),
        ],
        received: 402,
        undecodable: 0,
        hidden: 2,
        shown: 400,
        lost_at_output: 0,
        unowned: 0,
        consumers: vec![(
            "output",
            Account {
                delivered: 402,
                taken: 400,
                hidden: 2,
                ..Account::default()
            },
        )],
        violations: 1,
        accept_preattach: 0,
        command_status: None,
    }
}
