//! Records made up at random: what the decoder and the stages may hand over, and
//! more.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, sync::Arc};

use port_monitor_common::{event::OwnerSource, policy::Verdict};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    event::{Action, Comm, Event, Owner},
    record::{
        Container, Field, Judgement, Missing, PortClass, PortInfo, Ports, Process, Record,
        ServiceOrigin, ServiceStatus,
    },
};

/// Names as they are, and names as an attacker chooses them.
pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/.-]{0,40}", any::<String>()]
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

fn process() -> impl Strategy<Value = Arc<Process>> {
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
    let parent_pid = option::of(any::<u32>());
    let names = (shared(), shared(), shared(), option::of(container()));
    (exe, parent_pid, names).prop_map(|(exe, parent_pid, (user, cgroup, unit, container))| {
        Arc::new(Process {
            exe,
            parent_pid,
            user,
            cgroup,
            unit,
            container,
        })
    })
}

fn owner() -> impl Strategy<Value = Owner> {
    let sources = vec![
        OwnerSource::Connect,
        OwnerSource::Accept,
        OwnerSource::Listener,
    ];
    let comm = bytes().prop_map(|name| {
        let mut comm = Comm::default();
        let kept = name.len().min(15);
        comm.0[..kept].copy_from_slice(&name[..kept]);
        comm
    });
    let ids = any::<[u32; 4]>();
    (select(sources), comm, ids, any::<[u64; 2]>()).prop_map(
        |(source, comm, ids, [start, cgroup])| {
            let [pid, tid, uid, gid] = ids;
            Owner {
                source,
                pid,
                tid,
                start_ns: start,
                comm,
                uid,
                gid,
                cgroup_id: cgroup,
            }
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Connect),
        Just(Action::Accept),
        any::<u32>().prop_map(|handshake_us| Action::Connected { handshake_us }),
        option::of(prop_oneof![0..140, any::<i32>()]).prop_map(|errno| Action::Failed { errno }),
    ]
}

prop_compose! {
    fn event()(
        action in action(),
        (id, ts_ns, cpu) in any::<(u64, u64, u16)>(),
        owner in option::weighted(0.8, owner()),
        (local_ip, remote_ip) in any::<(std::net::IpAddr, std::net::IpAddr)>(),
        (local_port, remote_port) in any::<(Option<u16>, u16)>(),
        (v4_mapped, preattach) in any::<(bool, bool)>(),
        (netns_ino, ifindex) in any::<(u32, Option<u32>)>(),
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
            canary: false,
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
    (select(verdicts), shared()).prop_map(|(verdict, rule)| Judgement { verdict, rule })
}

prop_compose! {
    fn record()(
        event in event(),
        // From before the calendar's first day until after its last one.
        wall_ns in -400_000_000_000_000_000_000..400_000_000_000_000_000_000_i128,
        process in process(),
        local in option::of(port()),
        remote in port(),
        judgement in option::of(judgement()),
    ) -> Record {
        let ports = Ports { local, remote };
        Record { event, wall_ns, process, ports, judgement }
    }
}

/// Records of which many share a process, an owner or a second with others.
pub(super) fn records() -> impl Strategy<Value = Vec<Record>> {
    let mixed = |mut records: Vec<Record>, choices: Vec<(usize, u8)>| {
        for (index, (from, what)) in choices.into_iter().enumerate() {
            let other = records[from % records.len()].clone();
            let record = &mut records[index];
            if what & 1 != 0 {
                record.process = other.process;
            }
            if what & 2 != 0 {
                record.event.owner = other.event.owner;
            }
            if what & 4 != 0 {
                record.event.ts_ns = other.event.ts_ns;
                record.wall_ns = other.wall_ns;
            }
        }
        records
    };
    let choices = vec((any::<usize>(), any::<u8>()), 6);
    (vec(record(), 6), choices).prop_map(move |(records, choices)| mixed(records, choices))
}
