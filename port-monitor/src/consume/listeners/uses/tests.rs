//! Scopes, the listener an accept came in by, and who is told apart.

use std::sync::Arc;

use port_monitor_common::tcp_state::TcpState;

use crate::{
    consume::{lines::sample, listeners::uses::*},
    events::{
        decode::{Direction, Owner},
        record::{Missing, Ports, Process},
    },
    host::groups::{Group, Meant},
};

const SECOND: u64 = 1_000_000_000;

/// An event at `second` of a process at `ip`, port 80.
fn record(action: Action, id: u64, pid: u32, ip: &str, second: u64) -> Record {
    let local_ip: IpAddr = ip.parse().unwrap();
    let source = match action {
        Action::Accept => OwnerSource::Accept,
        _ => OwnerSource::Listener,
    };
    Record {
        event: Event {
            action,
            id,
            ts_ns: second * SECOND,
            owner: Some(Owner {
                pid,
                tid: pid,
                start_ns: 1,
                uid: pid + 1_000,
                ..Owner::of(&port_monitor_common::event::Owner::default(), source)
            }),
            local_ip,
            local_port: Some(80),
            remote_ip: match local_ip {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
            remote_port: 0,
            netns_ino: 1,
            ..sample::listening().event
        },
        wall_ns: i128::from(second * SECOND),
        process: Arc::new(Process {
            cgroup: Some(format!("/a/{pid}").into()),
            ..Process::unknown(Missing::Exited)
        }),
        peer: None,
        ports: Ports {
            local: None,
            remote: None,
        },
        judgement: None,
    }
}

fn older(id: u64, pid: u32, ip: &str) -> Record {
    let action = Action::Preexisting {
        direction: Direction::Inbound,
        state: TcpState::LISTEN,
        duration_ns: None,
    };
    record(action, id, pid, ip, 5)
}

fn opens(id: u64, pid: u32, ip: &str, second: u64) -> Record {
    record(Action::Listen, id, pid, ip, second)
}

fn accept(pid: u32, ip: &str, peer: &str, second: u64) -> Record {
    let mut record = record(Action::Accept, 99, pid, ip, second);
    record.event.remote_ip = peer.parse().unwrap();
    record.event.remote_port = 50_000;
    record
}

fn listeners(records: &[Record]) -> AuditedListeners {
    let mut listeners = AuditedListeners::default();
    for record in records {
        listeners.take(record);
    }
    listeners.settle();
    listeners
}

/// The accepts counted at each listener, and whether they are shared.
fn counts<const N: usize>(listeners: &AuditedListeners, ids: [u64; N]) -> [(u64, bool); N] {
    ids.map(|id| {
        let uses = &listeners.by_id[&id].uses;
        (uses.accepts, uses.is_shared)
    })
}

#[test]
fn scope_is_who_can_reach_the_address() {
    for (ip, scope) in [
        ("0.0.0.0", Scope::Any),
        ("::", Scope::Any),
        ("::ffff:0.0.0.0", Scope::Any),
        ("127.0.0.1", Scope::Loopback),
        ("127.255.0.9", Scope::Loopback),
        ("::1", Scope::Loopback),
        ("::ffff:127.0.0.1", Scope::Loopback),
        ("10.0.0.1", Scope::Private),
        ("172.16.0.1", Scope::Private),
        ("172.31.255.255", Scope::Private),
        ("172.32.0.1", Scope::Public),
        ("192.168.1.1", Scope::Private),
        ("169.254.1.1", Scope::Private),
        ("100.64.0.1", Scope::Private),
        ("100.127.255.255", Scope::Private),
        ("100.63.255.255", Scope::Public),
        ("100.128.0.1", Scope::Public),
        ("fd00::1", Scope::Private),
        ("fc00::1", Scope::Private),
        ("fe80::1", Scope::Private),
        ("fec0::1", Scope::Public),
        ("2001:db8::1", Scope::Public),
        ("203.0.113.7", Scope::Public),
    ] {
        assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
    }
}

#[test]
fn an_accept_comes_in_at_the_very_address_before_the_wildcard() {
    let listeners = listeners(&[
        older(1, 1, "0.0.0.0"),
        older(2, 1, "127.0.0.1"),
        accept(1, "127.0.0.1", "127.0.0.9", 6),
        accept(1, "10.0.0.5", "10.0.0.7", 7),
        accept(1, "10.0.0.5", "10.0.0.7", 8),
    ]);
    assert_eq!(counts(&listeners, [1, 2]), [(2, false), (1, false)]);
    assert_eq!(listeners.strays, 0);
}

#[test]
fn ipv4_through_an_ipv6_socket_is_not_the_ipv4_wildcards() {
    let mut mapped = accept(2, "10.0.0.5", "10.0.0.7", 6);
    mapped.event.v4_mapped = true;
    let listeners = listeners(&[
        older(1, 1, "0.0.0.0"),
        older(2, 2, "::"),
        mapped,
        accept(1, "10.0.0.5", "10.0.0.7", 6),
        accept(1, "10.0.0.5", "10.0.0.7", 6),
    ]);
    assert_eq!(counts(&listeners, [1, 2]), [(2, false), (1, false)]);
}

#[test]
fn an_ipv6_socket_bound_to_an_ipv4_address_takes_its_connections() {
    let mut listener = older(1, 1, "127.0.0.1");
    listener.event.remote_ip = Ipv6Addr::UNSPECIFIED.into();
    let mut mapped = accept(1, "127.0.0.1", "127.0.0.1", 6);
    mapped.event.v4_mapped = true;
    let listeners = listeners(&[listener, older(2, 1, "::"), mapped]);
    assert_eq!(counts(&listeners, [1, 2]), [(1, false), (0, false)]);
}

#[test]
fn another_namespace_port_or_device_is_another_listener() {
    let mut other_netns = older(1, 1, "0.0.0.0");
    other_netns.event.netns_ino = 2;
    let mut other_port = older(2, 1, "0.0.0.0");
    other_port.event.local_port = Some(81);
    let mut bound = older(3, 1, "0.0.0.0");
    bound.event.ifindex = Some(7);
    let mut through_device = accept(1, "10.0.0.5", "10.0.0.7", 6);
    through_device.event.ifindex = Some(7);
    let listeners = listeners(&[
        other_netns,
        other_port,
        bound,
        older(4, 1, "0.0.0.0"),
        accept(1, "10.0.0.5", "10.0.0.7", 6),
        through_device,
        accept(1, "fd00::1", "fd00::2", 6),
    ]);
    let expected = [(0, false), (0, false), (1, false), (1, false)];
    assert_eq!(counts(&listeners, [1, 2, 3, 4]), expected);
    assert_eq!(listeners.strays, 1);
}

#[test]
fn of_sockets_that_share_an_address_the_acceptors_own_is_meant() {
    let [first, second] = [older(1, 1, "0.0.0.0"), older(2, 2, "0.0.0.0")];
    let own = accept(2, "10.0.0.5", "10.0.0.7", 6);
    let somebody = accept(3, "10.0.0.5", "10.0.0.8", 7);
    let exact = listeners(&[first.clone(), second.clone(), own.clone()]);
    assert_eq!(counts(&exact, [1, 2]), [(0, false), (1, false)]);
    let shared = listeners(&[first.clone(), second.clone(), own, somebody]);
    assert_eq!(counts(&shared, [1, 2]), [(1, true), (2, true)]);

    // A listener's owner is not who accepted.
    let mut established = accept(2, "10.0.0.5", "10.0.0.7", 6);
    if let Some(owner) = &mut established.event.owner {
        owner.source = OwnerSource::Listener;
    }
    let listeners = listeners(&[first, second, established]);
    assert_eq!(counts(&listeners, [1, 2]), [(1, true), (1, true)]);
}

#[test]
fn accepts_before_the_listeners_are_known_find_theirs() {
    let listeners = listeners(&[
        accept(1, "127.0.0.1", "127.0.0.1", 4),
        older(1, 1, "0.0.0.0"),
        older(2, 1, "127.0.0.1"),
    ]);
    assert_eq!(counts(&listeners, [1, 2]), [(0, false), (1, false)]);
}

#[test]
fn a_listener_takes_what_came_while_it_was_open() {
    let listeners = listeners(&[
        older(1, 1, "0.0.0.0"),
        accept(1, "10.0.0.5", "10.0.0.7", 6),
        record(Action::Unlisten, 1, 1, "0.0.0.0", 7),
        opens(2, 1, "0.0.0.0", 8),
        accept(1, "10.0.0.5", "10.0.0.7", 9),
        accept(1, "10.0.0.5", "10.0.0.8", 11),
    ]);
    assert_eq!(counts(&listeners, [1, 2]), [(1, false), (2, false)]);
    let [first, second] = [1, 2].map(|id| &listeners.by_id[&id]);
    let ns = |second: u64| i128::from(second * SECOND);
    assert_eq!((first.opened_ns(), first.closed_ns()), (None, Some(ns(7))));
    assert_eq!(
        (second.opened_ns(), second.closed_ns()),
        (Some(ns(8)), None)
    );
    assert_eq!(second.uses.first_ns, Some(ns(9)));
    assert_eq!(second.uses.last_ns, Some(ns(11)));
    assert_eq!(second.uses.peers.count(), 2);
    assert_eq!(first.watched(ns(5), ns(20)), Duration::from_secs(2));
    assert_eq!(second.watched(ns(5), ns(20)), Duration::from_secs(12));
}

#[test]
fn an_accept_that_is_told_as_its_listener_closes_came_in_there() {
    let just_after = |ns| {
        let mut late = accept(1, "10.0.0.5", "10.0.0.7", 7);
        late.event.ts_ns += ns;
        late
    };
    let end = |id, second| record(Action::Unlisten, id, 1, "0.0.0.0", second);
    let closed = [
        older(1, 1, "0.0.0.0"),
        end(1, 6),
        opens(2, 1, "0.0.0.0", 6),
        end(2, 7),
    ];
    let with = |others: &[Record]| listeners(&[&closed, others].concat());
    let counted = |listeners: AuditedListeners| (counts(&listeners, [1, 2]), listeners.strays);
    let (none, second) = ([(0, false); 2], [(0, false), (1, false)]);
    assert_eq!(counted(with(&[just_after(3_000)])), (second, 0));
    assert_eq!(counted(with(&[just_after(SECOND)])), (none, 1));
    // Another one listens there by then, or may: the backend does not know its port.
    let takes_over = opens(3, 1, "0.0.0.0", 7);
    assert_eq!(counted(with(&[takes_over, just_after(3_000)])), (none, 0));
    let mut anywhere = older(3, 1, "0.0.0.0");
    anywhere.event.local_port = None;
    assert_eq!(counted(with(&[anywhere, just_after(3_000)])), (none, 1));
}

#[test]
fn peers_are_told_apart_up_to_a_limit() {
    let mut peers = Peers::default();
    let ip = |number: usize| IpAddr::from(Ipv4Addr::from(u32::try_from(number).unwrap()));
    (0..MAX_PEERS).for_each(|number| peers.add(ip(number)));
    peers.add(ip(0));
    assert_eq!((peers.count(), peers.is_capped()), (MAX_PEERS, false));
    peers.add(ip(MAX_PEERS));
    assert_eq!((peers.count(), peers.is_capped()), (MAX_PEERS, true));
}

#[test]
fn closed_listeners_are_forgotten_in_the_end() {
    let mut listeners = listeners(&[]);
    for id in 0..=MAX_CLOSED as u64 {
        listeners.take(&opens(id, 1, "0.0.0.0", id));
        listeners.take(&record(Action::Unlisten, id, 1, "0.0.0.0", id));
    }
    assert_eq!(
        (listeners.iter().count(), listeners.forgotten),
        (MAX_CLOSED, 1)
    );
    assert!(!listeners.by_id.contains_key(&0));
    assert_eq!(listeners.places[&(1, Some(80))].len(), MAX_CLOSED);
}

#[test]
fn a_selection_is_by_owner_and_family() {
    let [v4, v6, any] = ["127.0.0.1", "::1", "::"].map(|ip| older(1, 7, ip));
    let all = Selection::default();
    assert!(all.takes(&v4));
    let family = |family| Selection {
        family: Some(family),
        ..Selection::default()
    };
    let takes = |selection: Selection| [&v4, &v6, &any].map(|record| selection.takes(record));
    assert_eq!(takes(family(SocketFamily::V4)), [true, false, true]);
    assert_eq!(takes(family(SocketFamily::V6)), [false, true, true]);
    for (pids, uids, cgroup, expected) in [
        (vec![7, 8], vec![], None, true),
        (vec![8], vec![], None, false),
        (vec![], vec![1_007], None, true),
        (vec![7], vec![7], None, false),
        (vec![], vec![], Some("/a"), true),
        (vec![], vec![], Some("/"), true),
        (vec![], vec![], Some("/a/7"), true),
        (vec![], vec![], Some("/a/70"), false),
        (vec![], vec![], Some("/a/"), true),
        (vec![], vec![], Some("/b"), false),
    ] {
        let group = cgroup.map(|path: &str| Group {
            label: path.to_owned(),
            meant: Meant::Path(path.trim_end_matches('/').to_owned()),
        });
        let selection = Selection {
            pids,
            uids,
            groups: Groups::new(group.into_iter().collect()),
            family: None,
        };
        assert_eq!(selection.takes(&v4), expected, "{selection:?}");
    }
}
