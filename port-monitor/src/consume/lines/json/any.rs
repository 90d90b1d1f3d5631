//! Records made up at random: what the decoder and the stages may hand over, and
//! more.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, sync::Arc};

use port_monitor_common::{
    event::{ClosedBy, FileId, OwnerSource},
    policy::Verdict,
    tcp_state::TcpState,
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
};

use crate::events::{
    decode::{Action, Close, Comm, Direction, Event, Owner},
    record::{
        Container, Field, Judgement, Missing, Parent, Peer, PortClass, PortInfo, Ports, Process,
        Record, Ruleset, ServiceOrigin, ServiceStatus,
    },
};

/// Names as they are, and names as an attacker chooses them.
///
/// Boxed, as what is made of several of them is: a strategy keeps the state of all its parts in
/// itself, which without optimisation is moved from frame to frame, and outgrows a stack.
pub(crate) fn text() -> BoxedStrategy<String> {
    prop_oneof!["[a-z0-9/.-]{0,40}", any::<String>()].boxed()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![text().prop_map(String::into_bytes), any::<Vec<u8>>()]
}

fn shared() -> impl Strategy<Value = Option<Arc<str>>> {
    option::of(text().prop_map(Arc::from))
}

fn container() -> impl Strategy<Value = Container> {
    let runtime = select(vec!["docker", "cri-o"]);
    (text(), runtime, option::of(text())).prop_map(|(id, runtime, pod_uid)| Container {
        id,
        runtime,
        pod_uid,
    })
}

fn process() -> BoxedStrategy<Arc<Process>> {
    let reasons = vec![
        Missing::NoOwner,
        Missing::Exited,
        Missing::Denied,
        Missing::KernelThread,
    ];
    let exe = prop_oneof![
        bytes().prop_map(|path| Field::Known(OsString::from_vec(path).into())),
        select(reasons).prop_map(Field::Missing),
    ];
    let named_parent = option::of((comm(), any::<u64>()));
    let parent = option::of((any::<u32>(), named_parent));
    let parent = parent.prop_map(|parent| parent.map(|(pid, named)| Parent { pid, named }));
    let args = option::of(vec(text(), 1..4));
    let names = (shared(), shared(), shared(), option::of(container()));
    let parts = (exe, args, parent, names);
    let process = parts.prop_map(|(exe, args, parent, (user, cgroup, unit, container))| {
        // As of a process that was not found, on a host with hierarchies of version 1.
        let user_missing = exe.missing().filter(|_| user.is_none());
        let container_missing = exe.missing().filter(|_| container.is_none());
        Arc::new(Process {
            exe,
            parent,
            args: args.map(Arc::from),
            user,
            cgroup,
            unit,
            container,
            user_missing,
            container_missing,
        })
    });
    process.boxed()
}

fn comm() -> impl Strategy<Value = Comm> {
    bytes().prop_map(|name| {
        let mut comm = Comm::default();
        let kept = name.len().min(15);
        comm.0[..kept].copy_from_slice(&name[..kept]);
        comm
    })
}

prop_compose! {
    fn peer()(
        (pid, start_ns) in any::<(u32, u64)>(),
        comm in comm(),
        process in process(),
    ) -> Arc<Peer> {
        Arc::new(Peer { pid, start_ns, comm, process })
    }
}

fn owner() -> impl Strategy<Value = Owner> {
    let sources = vec![
        OwnerSource::Connect,
        OwnerSource::Accept,
        OwnerSource::Listener,
        OwnerSource::Holder,
    ];
    let ids = any::<[u32; 4]>();
    let exe = option::of(any::<(u32, u64)>());
    (
        select(sources),
        [comm(), comm()],
        ids,
        any::<[u64; 2]>(),
        exe,
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(source, comm, ids, [start, cgroup], exe, (is_kernel, is_first))| {
                let [pid, tid, uid, gid] = ids;
                let tid = if is_first { pid } else { tid };
                let [comm, process_comm] = comm;
                Owner {
                    source,
                    pid,
                    tid,
                    start_ns: start,
                    comm,
                    process_comm,
                    uid,
                    gid,
                    cgroup_id: cgroup,
                    exe: exe.map(|(device, inode)| FileId { device, inode }),
                    is_kernel,
                }
            },
        )
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Inbound, Direction::Outbound])
}

prop_compose! {
    fn close()(
        direction in direction(),
        (duration_ns, bytes_received, bytes_sent) in any::<(Option<u64>, u64, u64)>(),
        (retransmits, rtt_us) in any::<(u32, Option<u32>)>(),
        closing_pid in any::<Option<u32>>(),
        closed_by in (0..=6_u8).prop_filter_map("known", ClosedBy::from_raw),
        errno in option::of(prop_oneof![0..140, any::<i32>()]),
    ) -> Close {
        Close {
            direction,
            duration_ns,
            bytes_received,
            bytes_sent,
            retransmits,
            rtt_us,
            closed_by,
            closing_pid,
            errno,
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Connect),
        Just(Action::Accept),
        any::<Option<u32>>().prop_map(|handshake_us| Action::Connected { handshake_us }),
        option::of(prop_oneof![0..140, any::<i32>()]).prop_map(|errno| Action::Failed { errno }),
        close().prop_map(Action::Close),
        close().prop_map(Action::Progress),
        (direction(), select(vec![1, 2, 8, 77]), any::<Option<u64>>()).prop_map(
            |(direction, state, duration_ns)| {
                Action::Preexisting {
                    direction,
                    state: TcpState(state),
                    duration_ns,
                }
            }
        ),
        Just(Action::Preexisting {
            direction: Direction::Inbound,
            state: TcpState::LISTEN,
            duration_ns: None,
        }),
        Just(Action::Listen),
        Just(Action::Unlisten),
        Just(Action::Restored),
    ]
}

prop_compose! {
    fn event()(
        action in action(),
        (id, ts_ns, cpu) in any::<(u64, u64, u16)>(),
        owner in option::weighted(0.8, owner()),
        (local_ip, remote_ip) in any::<(std::net::IpAddr, std::net::IpAddr)>(),
        (local_port, remote_port) in any::<(Option<u16>, u16)>(),
        (v4_mapped, preattach, ended) in any::<(bool, bool, bool)>(),
        (netns_ino, ifindex) in any::<(u32, Option<u32>)>(),
        holders in 0_u32..4,
    ) -> Event {
        Event {
            action,
            id,
            ts_ns,
            cpu,
            owner,
            local_ip,
            local_port,
            remote_ip,
            remote_port,
            v4_mapped,
            netns_ino,
            ifindex,
            preattach,
            ended,
            self_test: false,
            stamp: None,
            policy: 0,
            listener: crate::events::decode::Listener { number: 0, holders },
        }
    }
}

fn port() -> impl Strategy<Value = PortInfo> {
    let names = vec!["https", "a\"b\\\u{202e}"];
    let origins = vec![
        ServiceOrigin::Policy,
        ServiceOrigin::DeFacto,
        ServiceOrigin::Iana,
    ];
    let statuses = vec![
        ServiceStatus::Assigned,
        ServiceStatus::Reserved,
        ServiceStatus::Unassigned,
    ];
    let service = option::of((select(names), select(origins)));
    (any::<u16>(), service, select(statuses), any::<bool>()).prop_map(
        |(port, service, status, ephemeral)| PortInfo {
            port,
            class: PortClass::of(port),
            service,
            status,
            ephemeral,
        },
    )
}

fn judgement() -> impl Strategy<Value = Judgement> {
    let verdicts = vec![Verdict::Allow, Verdict::Deny, Verdict::AuditDeny];
    let ruleset = (any::<String>(), any::<[u8; 32]>());
    let ruleset = ruleset.prop_map(|(file, digest)| Arc::new(Ruleset::new(&file, &digest)));
    (select(verdicts), shared(), option::of(ruleset)).prop_map(|(verdict, rule, ruleset)| {
        Judgement {
            ruleset,
            ..Judgement::of(verdict, rule)
        }
    })
}

prop_compose! {
    pub(crate) fn record()(
        event in event(),
        // From before the calendar's first day until after its last one.
        wall_ns in -400_000_000_000_000_000_000..400_000_000_000_000_000_000_i128,
        process in process(),
        peer in option::of(peer()),
        local in option::of(port()),
        remote in option::of(port()),
        judgement in option::of(judgement()),
    ) -> Record {
        let ports = Ports { local, remote };
        Record { event, wall_ns, process, peer, ports, judgement }
    }
}

/// `other`, but for one fact that stays `own`.
fn nearly(own: Owner, mut other: Owner, fact: u8) -> Owner {
    match fact {
        0 => other.pid = own.pid,
        1 => other.start_ns = own.start_ns,
        2 => other.uid = own.uid,
        3 => other.gid = own.gid,
        4 => other.cgroup_id = own.cgroup_id,
        5 => other.tid = own.tid,
        6 => other.comm = own.comm,
        7 => other.exe = own.exe,
        8 => other.is_kernel = own.is_kernel,
        _ => {}
    }
    other
}

/// Takes over from `other` what `choice` says, bit by bit.
fn mix(own: &mut Record, other: Record, choice: u8) {
    let takes = |bit: u8| choice & (1 << bit) != 0;
    if takes(0) {
        own.process = other.process;
    }
    if takes(1) {
        let owners = own.event.owner.zip(other.event.owner);
        own.event.owner = owners.map(|(own, other)| nearly(own, other, choice >> 5));
    }
    if takes(2) {
        own.event.ts_ns = other.event.ts_ns;
        own.wall_ns = other.wall_ns;
    }
    if takes(3) {
        own.event.local_ip = other.event.local_ip;
        own.event.remote_ip = other.event.remote_ip;
    }
    if takes(4) {
        own.event.local_port = other.event.local_port;
        own.event.remote_port = other.event.remote_port;
    }
}

/// Records that have much in common with those before them, or nearly so: what
/// is remembered must not show.
pub(crate) fn records() -> impl Strategy<Value = Vec<Record>> {
    let choices = vec((any::<Index>(), any::<u8>()), 8);
    (vec(record(), 8), choices).prop_map(|(mut records, choices)| {
        for (at, (from, choice)) in choices.into_iter().enumerate().skip(1) {
            let other = from.get(&records[..at]).clone();
            mix(&mut records[at], other, choice);
        }
        records
    })
}
