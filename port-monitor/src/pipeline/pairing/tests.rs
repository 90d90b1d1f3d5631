//! Pairing, in the orders the kernel reports, and under a model of the kernel.

use std::net::SocketAddr;

use port_monitor_common::event::{ClosedBy, OwnerSource};
use proptest::prelude::*;

use crate::{
    events::{
        decode::{Close, Comm, Direction, Owner},
        record::Missing,
    },
    pipeline::pairing::*,
};

const CLIENT: &str = "127.0.0.1:40000";
const SERVER: &str = "127.0.0.1:80";
const NETNS: u32 = 4_026_531_840;

const CONNECTED: Action = Action::Connected {
    handshake_us: Some(1),
};
const FAILED: Action = Action::Failed { errno: Some(111) };
const OPEN: Action = Action::Preexisting {
    direction: Direction::Outbound,
    state: TcpState::ESTABLISHED,
    duration_ns: None,
};
const CLOSE: Action = Action::Close(Close::new(Direction::Outbound, ClosedBy::Local));

/// An end of process `pid`, at a time that passes from event to event.
struct Host {
    peers: Peers,
    now_ns: u64,
    process: Arc<Process>,
}

impl Host {
    fn new() -> Self {
        Self::with(Peers::new())
    }

    fn with(peers: Peers) -> Self {
        Self {
            peers,
            now_ns: 1_000_000_000,
            process: Arc::new(Process::unknown(Missing::Exited)),
        }
    }

    fn event(&mut self, action: Action, pid: u32, local: &str, remote: &str) -> Event {
        self.now_ns += 1_000_000;
        let (local, remote): (SocketAddr, SocketAddr) =
            (local.parse().unwrap(), remote.parse().unwrap());
        Event {
            action,
            // One connection for each process.
            id: pid.into(),
            ts_ns: self.now_ns,
            cpu: 0,
            owner: Some(Owner {
                source: OwnerSource::Connect,
                pid,
                tid: pid,
                start_ns: 7,
                comm: Comm::default(),
                process_comm: Comm::default(),
                uid: 0,
                gid: 0,
                cgroup_id: 0,
                exe: None,
                is_kernel: false,
            }),
            local_ip: local.ip(),
            local_port: Some(local.port()),
            remote_ip: remote.ip(),
            remote_port: remote.port(),
            v4_mapped: false,
            netns_ino: NETNS,
            ifindex: None,
            preattach: false,
            listener: crate::events::decode::Listener::default(),
            ended: false,
            self_test: false,
            stamp: None,
            policy: 0,
        }
    }

    fn see(&mut self, event: &Event) -> Option<u32> {
        let process = Arc::clone(&self.process);
        self.peers.see(event, &process).map(|peer| peer.pid)
    }

    /// The pid of the peer that an event of the client's end names.
    fn client(&mut self, action: Action, pid: u32) -> Option<u32> {
        let event = self.event(action, pid, CLIENT, SERVER);
        self.see(&event)
    }

    /// As [`Host::client`], at the server's end.
    fn server(&mut self, action: Action, pid: u32) -> Option<u32> {
        let event = self.event(action, pid, SERVER, CLIENT);
        self.see(&event)
    }
}

#[test]
fn an_accept_names_the_client_and_both_ends_name_each_other() {
    for client_ends_first in [true, false] {
        let mut host = Host::new();
        assert_eq!(host.client(Action::Connect, 1), None);
        assert_eq!(host.client(CONNECTED, 1), None);
        assert_eq!(host.server(Action::Accept, 2), Some(1));
        if client_ends_first {
            assert_eq!(host.client(CLOSE, 1), Some(2));
            assert_eq!(host.server(CLOSE, 2), Some(1));
        } else {
            assert_eq!(host.server(CLOSE, 2), Some(1));
            assert_eq!(host.client(CLOSE, 1), Some(2));
        }
        assert_eq!(host.peers.len(), 0);
    }
}

#[test]
fn an_attempt_without_a_port_is_joined_by_its_outcome() {
    let mut host = Host::new();
    let mut attempt = host.event(Action::Connect, 1, CLIENT, SERVER);
    attempt.local_port = None;
    assert_eq!(host.see(&attempt), None);
    assert_eq!(host.client(CONNECTED, 1), None);
    assert_eq!(host.server(Action::Accept, 2), Some(1));
}

#[test]
fn an_attempt_alone_is_nobodys_peer() {
    let mut host = Host::new();
    host.client(Action::Connect, 1);
    assert_eq!(host.server(Action::Accept, 2), None);
    assert_eq!(host.client(FAILED, 1), None);
    assert_eq!(host.peers.len(), 1);
}

#[test]
fn an_accept_on_the_syn_is_named_by_the_outcome() {
    let mut host = Host::new();
    assert_eq!(host.server(Action::Accept, 2), None);
    let handshake_us = Some(1_500);
    assert_eq!(host.client(Action::Connected { handshake_us }, 1), Some(2));
    assert_eq!(host.server(CLOSE, 2), Some(1));
}

#[test]
fn what_is_not_established_has_no_peer_and_is_none() {
    let mut host = Host::new();
    let found = |state| Action::Preexisting {
        direction: Direction::Outbound,
        state,
        duration_ns: None,
    };
    assert_eq!(host.client(found(TcpState::SYN_SENT), 1), None);
    assert_eq!(host.server(found(TcpState::LISTEN), 2), None);
    assert_eq!(host.server(Action::Listen, 2), None);
    assert_eq!(host.server(Action::Accept, 2), None);
    assert_eq!(host.client(found(TcpState::ESTABLISHED), 1), Some(2));
}

#[test]
fn an_accept_before_the_attempt_is_another_connections() {
    let mut host = Host::new();
    host.server(Action::Accept, 2);
    let handshake_us = Some(500);
    assert_eq!(host.client(Action::Connected { handshake_us }, 1), None);
}

#[test]
fn a_client_that_has_ended_is_not_the_one_accepted() {
    let mut host = Host::new();
    host.client(CONNECTED, 1);
    assert_eq!(host.client(CLOSE, 1), None);
    assert_eq!(host.server(Action::Accept, 2), None);
    assert_eq!(host.server(CLOSE, 2), None);
    assert_eq!(host.peers.len(), 0);
}

#[test]
fn a_connection_reset_before_it_is_accepted_is_not_the_next_ones() {
    let mut host = Host::new();
    host.client(CONNECTED, 1);
    host.client(CLOSE, 1);
    host.client(CONNECTED, 3);
    let mut accept = host.event(Action::Accept, 2, SERVER, CLIENT);
    accept.ended = true;
    assert_eq!(host.see(&accept), None);
    assert_eq!(host.server(CLOSE, 2), None);
    assert_eq!(host.server(Action::Accept, 4), Some(3));
}

#[test]
fn addresses_used_again_belong_to_the_new_ends() {
    let mut host = Host::new();
    host.client(CONNECTED, 1);
    host.server(Action::Accept, 2);
    host.client(CONNECTED, 3);
    // The earlier server's end is told late, and still names its own client.
    assert_eq!(host.server(CLOSE, 2), Some(1));
    assert_eq!(host.server(Action::Accept, 4), Some(3));
    assert_eq!(host.client(CLOSE, 1), None);
    assert_eq!(host.client(CLOSE, 3), Some(4));
    assert_eq!(host.server(CLOSE, 4), Some(3));
}

#[test]
fn connections_older_than_the_monitor_are_paired_at_the_second_end() {
    let mut host = Host::new();
    assert_eq!(host.server(OPEN, 2), None);
    assert_eq!(host.client(OPEN, 1), Some(2));
    assert_eq!(host.server(CLOSE, 2), Some(1));
    assert_eq!(host.client(CLOSE, 1), Some(2));
}

#[test]
fn an_end_in_another_netns_is_another_connections() {
    let mut host = Host::new();
    host.client(CONNECTED, 1);
    let mut accept = host.event(Action::Accept, 2, SERVER, CLIENT);
    accept.netns_ino += 1;
    assert_eq!(host.see(&accept), None);
}

#[test]
fn only_addresses_of_this_host_are_remembered() {
    let pairs = [
        ("10.0.0.5:40000", "10.0.0.5:80", true),
        ("127.0.0.1:40000", "127.0.0.2:80", true),
        ("10.0.0.5:40000", "127.0.0.1:80", true),
        ("[::1]:40000", "[::1]:80", true),
        ("10.0.0.5:40000", "10.0.0.6:80", false),
        ("127.0.0.1:80", "127.0.0.1:80", false),
    ];
    for (local, remote, is_here) in pairs {
        let mut host = Host::new();
        let connected = host.event(CONNECTED, 1, local, remote);
        host.see(&connected);
        assert_eq!(host.peers.len(), usize::from(is_here), "{local} {remote}");
        let accept = host.event(Action::Accept, 2, remote, local);
        assert_eq!(host.see(&accept), is_here.then_some(1), "{local} {remote}");
    }
}

#[test]
fn link_local_addresses_belong_to_their_interface() {
    let mut host = Host::new();
    let (client, server) = ("[fe80::1]:40000", "[fe80::1]:80");
    let mut connected = host.event(CONNECTED, 1, client, server);
    connected.ifindex = Some(2);
    host.see(&connected);
    let mut accept = host.event(Action::Accept, 2, server, client);
    accept.ifindex = Some(3);
    assert_eq!(host.see(&accept), None);
    accept.ifindex = Some(2);
    assert_eq!(host.see(&accept), Some(1));
}

#[test]
fn an_owner_nobody_saw_still_has_a_peer() {
    let mut host = Host::new();
    host.client(CONNECTED, 1);
    let mut accept = host.event(Action::Accept, 2, SERVER, CLIENT);
    accept.owner = None;
    assert_eq!(host.see(&accept), Some(1));
    assert_eq!(host.client(CLOSE, 1), None);
    assert_eq!(host.server(CLOSE, 2), Some(1));
}

#[test]
fn after_a_loss_only_new_ends_and_known_pairs_are_trusted() {
    let mut host = Host::new();
    host.client(CONNECTED, 1);
    host.server(Action::Accept, 2);
    let waiting = host.event(CONNECTED, 3, "127.0.0.1:40001", SERVER);
    host.see(&waiting);
    host.peers.distrust(host.now_ns + 1);
    let accept = host.event(Action::Accept, 4, SERVER, "127.0.0.1:40001");
    assert_eq!(host.see(&accept), None);
    assert_eq!(host.client(CLOSE, 1), Some(2));
    host.client(CONNECTED, 5);
    assert_eq!(host.server(Action::Accept, 6), Some(5));
}

#[test]
fn a_table_that_is_full_forgets_the_oldest() {
    let mut host = Host::with(Peers::with_generation(4));
    let ends = |port: u32| (format!("127.0.0.1:{port}"), SERVER);
    for port in 40_001..=40_100 {
        let (local, remote) = ends(port);
        let connected = host.event(CONNECTED, port, &local, remote);
        host.see(&connected);
        assert!(host.peers.len() <= 8);
    }
    let mut named = |port| {
        let (client, server) = ends(port);
        let accept = host.event(Action::Accept, 1_000 + port, server, &client);
        host.see(&accept)
    };
    for port in 40_097..=40_100 {
        assert_eq!(named(port), Some(port));
    }
    assert_eq!(named(40_001), None);
}

#[test]
fn an_end_whose_peer_begins_at_the_turn_of_generations_is_not_forgotten() {
    const TURN: u32 = 4;
    // Of those that begin before the turn, one from each generation.
    for first in [1, TURN + 1] {
        let mut host = Host::with(Peers::with_generation(TURN as usize));
        let ends = |number: u32| (format!("127.0.0.1:{}", 40_000 + number), SERVER);
        for number in 1..=2 * TURN {
            let (local, remote) = ends(number);
            let connected = host.event(CONNECTED, number, &local, remote);
            host.see(&connected);
        }
        let generations = (host.peers.old.len(), host.peers.young.len());
        assert_eq!(generations, (TURN as usize, TURN as usize));
        let (client, server) = ends(first);
        let accept = host.event(Action::Accept, 1_000, server, &client);
        assert_eq!(host.see(&accept), Some(first));
        let close = host.event(CLOSE, first, &client, server);
        assert_eq!(host.see(&close), Some(1_000));
    }
}

#[test]
fn a_hundred_thousand_connections_cost_less_than_200_bytes_each() {
    const CONNECTIONS: u32 = 100_000;
    let mut host = Host::new();
    for number in 0..CONNECTIONS {
        let client = format!("127.0.{}.1:{}", number / 50_000, 10_000 + number % 50_000);
        let connected = host.event(CONNECTED, 1, &client, SERVER);
        host.see(&connected);
        let accept = host.event(Action::Accept, 2, SERVER, &client);
        assert_eq!(host.see(&accept), Some(1));
    }
    assert_eq!(host.peers.len(), CONNECTIONS as usize);
    // A hash table has 8/7 of its capacity as places, with a byte more each.
    let places = (host.peers.young.capacity() + host.peers.old.capacity()) * 8 / 7;
    let bytes = places * (size_of::<(Key, Ends)>() + 1);
    assert!(bytes / CONNECTIONS as usize <= 150, "{bytes}");
    let full = GENERATION * 8 / 7;
    assert_eq!(full, 1 << 17, "a generation fills its table");
}

/// What a process does next in the model.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Client `pid` connects from one of two ports.
    Connect { pid: u32, port: usize },
    /// The server takes the oldest connection.
    Accept,
    /// The client at a port resets its connection.
    Reset { port: usize },
    /// The server closes the oldest connection it has taken.
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4_u32, 0..2_usize).prop_map(|(pid, port)| Step::Connect { pid, port }),
        Just(Step::Accept),
        (0..2_usize).prop_map(|port| Step::Reset { port }),
        Just(Step::Close),
    ]
}

/// A connection of the model; its ends are alive together.
#[derive(Clone, Copy, Debug)]
struct Modelled {
    id: u64,
    pid: u32,
    port: usize,
    is_alive: bool,
    is_accepted: bool,
    /// Both ends were alive when it was accepted, and the client was seen.
    is_known: bool,
}

const SERVER_PID: u32 = 9;

/// The kernel as far as pairing depends on it. Clients with the pid `hidden` are
/// seen by nobody.
struct Model {
    host: Host,
    connections: Vec<Modelled>,
    hidden: u32,
}

impl Model {
    fn tell(&mut self, action: Action, connection: Modelled, is_client: bool) -> Option<u32> {
        let client = format!("127.0.0.1:{}", 40_000 + connection.port);
        if is_client && connection.pid == self.hidden {
            return None;
        }
        let mut event = if is_client {
            self.host.event(action, connection.pid, &client, SERVER)
        } else {
            self.host.event(action, SERVER_PID, SERVER, &client)
        };
        event.id = connection.id * 2 + u64::from(is_client);
        event.ended = action == Action::Accept && !connection.is_alive;
        self.host.see(&event)
    }

    fn connect(&mut self, pid: u32, port: usize) {
        let is_taken = |known: &Modelled| known.port == port && known.is_alive;
        if self.connections.iter().any(is_taken) {
            return;
        }
        let connection = Modelled {
            id: self.connections.len() as u64,
            pid,
            port,
            is_alive: true,
            is_accepted: false,
            is_known: false,
        };
        self.connections.push(connection);
        assert_eq!(self.tell(Action::Connect, connection, true), None);
        assert_eq!(self.tell(CONNECTED, connection, true), None);
    }

    fn accept(&mut self) {
        let Some(at) = self.connections.iter().position(|known| !known.is_accepted) else {
            return;
        };
        self.connections[at].is_accepted = true;
        let connection = self.connections[at];
        let is_known = connection.is_alive && connection.pid != self.hidden;
        self.connections[at].is_known = is_known;
        let named = self.tell(Action::Accept, connection, false);
        assert_eq!(named, is_known.then_some(connection.pid));
        if !connection.is_alive {
            assert_eq!(self.tell(CLOSE, connection, false), None);
        }
    }

    /// Ends a connection, at the client first or at the server.
    fn end(&mut self, at: usize, client_first: bool) {
        self.connections[at].is_alive = false;
        let connection = self.connections[at];
        for is_client in [client_first, !client_first] {
            if is_client {
                let named = self.tell(CLOSE, connection, true);
                assert_eq!(named, connection.is_known.then_some(SERVER_PID));
            } else if connection.is_accepted {
                let named = self.tell(CLOSE, connection, false);
                assert_eq!(named, connection.is_known.then_some(connection.pid));
            }
        }
    }

    fn take(&mut self, step: Step) {
        let find = |wanted: &dyn Fn(&Modelled) -> bool| self.connections.iter().position(wanted);
        match step {
            Step::Connect { pid, port } => self.connect(pid, port),
            Step::Accept => self.accept(),
            Step::Reset { port } => {
                if let Some(at) = find(&|known| known.is_alive && known.port == port) {
                    self.end(at, true);
                }
            }
            Step::Close => {
                if let Some(at) = find(&|known| known.is_alive && known.is_accepted) {
                    self.end(at, false);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whoever_is_named_is_the_peer(
        steps in prop::collection::vec(step(), 0..60),
        hidden in 1..5_u32,
    ) {
        let mut model = Model { host: Host::new(), connections: Vec::new(), hidden };
        for step in steps {
            model.take(step);
        }
    }
}
