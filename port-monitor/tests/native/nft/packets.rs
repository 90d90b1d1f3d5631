//! TCP packets on their way through a network namespace that leads nowhere: who sends them,
//! and which of them come past nftables.

use std::{
    cell::Cell,
    collections::HashSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    process::Command,
    thread,
};

use port_monitor_common::policy::Direction;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, Protocol, RawProtocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv,
        sendto, socket_with, sockopt,
    },
    thread::{CpuSet, UnshareFlags},
};

/// Addresses of the namespace, beside those of loopback.
pub(super) const OWN: [&str; 4] = [
    "198.18.0.77",
    "10.0.0.1",
    "2001:db8:5e1f::77",
    "2001:db8::1",
];
/// What inbound packets are sent to.
const TARGETS: [&str; 2] = ["198.18.0.77", "2001:db8:5e1f::77"];
/// Who sends.
pub(super) const USERS: [u32; 3] = [0, 1000, 7];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Room for what was captured and not read yet.
const ROOM: usize = 64 << 20;

/// A connection that is attempted by its first packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) port: u16,
    /// One of [`USERS`].
    pub(super) uid: u32,
}

/// Runs `work` in a thread and a network namespace of its own, which has loopback, the
/// addresses of [`OWN`], and a way for everything that leads nowhere.
pub(super) fn in_own_netns(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: a network namespace of its own changes nothing that memory safety
            // rests on.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            // Packets are handled where they were sent, in order.
            let mut cpus = CpuSet::new();
            cpus.set(rustix::thread::sched_getcpu());
            rustix::thread::sched_setaffinity(None, &cpus).unwrap();
            run("ip link set lo up");
            run("ip link add name nowhere type veth peer name end");
            run("ip link set nowhere arp off up");
            run("ip link set end arp off up");
            for addr in OWN {
                if addr.contains(':') {
                    run(&format!("ip address add {addr}/128 dev lo nodad"));
                    // The kernel makes this route too, but a worker of its does so some time
                    // later: what is sent to the address before that is dropped.
                    run(&format!("ip -6 route add local {addr} dev lo"));
                } else {
                    run(&format!("ip address add {addr}/32 dev lo"));
                }
            }
            run("ip route add default dev nowhere");
            run("ip -6 route add default dev nowhere");
            work();
        });
        worker.join().unwrap();
    });
}

/// Runs a command of few words, which must succeed.
pub(super) fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output();
    let output = output.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// The sockets that send and capture.
pub(super) struct Wire {
    /// By place in [`USERS`]: for IPv4 and for IPv6.
    senders: Vec<[OwnedFd; 2]>,
    /// Sees what has left, on any interface.
    left: OwnedFd,
    /// See what has come in.
    arrived: [OwnedFd; 2],
    /// The number of the next packet: each is captured more than once.
    next: Cell<u32>,
}

impl Wire {
    pub(super) fn new() -> Self {
        let raw = |family, protocol: u32| {
            let protocol = RawProtocol::new(protocol).map(Protocol::from_raw);
            let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
            socket.unwrap()
        };
        let families = [AddressFamily::INET, AddressFamily::INET6];
        let senders = USERS.map(|uid| {
            // SAFETY: it changes with what rights this thread opens files, nothing else.
            unsafe { libc::setfsuid(uid) };
            let sockets = families.map(|family| raw(family, libc::IPPROTO_RAW as u32));
            // SAFETY: as above.
            unsafe { libc::setfsuid(0) };
            sockets
        });
        let every_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be().into();
        let left = socket_with(
            AddressFamily::PACKET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            RawProtocol::new(every_protocol).map(Protocol::from_raw),
        )
        .unwrap();
        let arrived = families.map(|family| raw(family, libc::IPPROTO_TCP as u32));
        for socket in arrived.iter().chain([&left]) {
            sockopt::set_socket_recv_buffer_size_force(socket, ROOM).unwrap();
        }
        Self {
            senders: senders.into(),
            left,
            arrived,
            next: Cell::new(1),
        }
    }

    /// Sends the first packet of each attempt; tells which of them came past nftables: for
    /// an outbound one that it left, for an inbound one that it came in.
    pub(super) fn try_all(&self, attempts: &[Attempt]) -> Vec<bool> {
        let first = self.next.get();
        let last = first + u32::try_from(attempts.len()).unwrap();
        self.next.set(last + 1);
        for (number, attempt) in (first..).zip(attempts) {
            self.send(attempt, number, SYN);
        }
        // These open nothing, and come past every ruleset.
        for target in TARGETS {
            let end = Attempt {
                direction: Direction::Outbound,
                peer: target.parse().unwrap(),
                port: 9,
                uid: 0,
            };
            self.send(&end, last, ACK);
        }
        let left = numbers(&self.left, None, last);
        let [v4, v6] = &self.arrived;
        let mut arrived = numbers(v4, Some(true), last);
        arrived.extend(numbers(v6, Some(false), last));
        let passed = (first..)
            .zip(attempts)
            .map(|(number, attempt)| match attempt.direction {
                Direction::Inbound => arrived.contains(&number),
                _ => left.contains(&number),
            });
        passed.collect()
    }

    /// Sends an attempt from an own address to an own port by IPv6 in two fragments, of which
    /// the first ends before the header of TCP; tells whether it came in.
    pub(super) fn try_in_fragments(&self, port: u16) -> bool {
        const OPTIONS: u8 = 60;
        let number = self.next.get();
        self.next.set(number + 1);
        let own: Ipv6Addr = TARGETS[1].parse().unwrap();
        let whole = packet(own.into(), own.into(), port, number, SYN);
        let (header, segment) = whole.split_at(40);
        // Options of six bytes that say nothing.
        let options = [TCP, 0, 1, 4, 0, 0, 0, 0];
        // Where the part lies, and whether more follow.
        for (place, part) in [(1_u16, &options[..]), (8, segment)] {
            let len = u16::try_from(8 + part.len()).unwrap().to_be_bytes();
            let [high, low] = place.to_be_bytes();
            let fragment = [OPTIONS, 0, high, low, 0, 0, 0, 1];
            let mut header = header.to_vec();
            header[4..7].copy_from_slice(&[len[0], len[1], FRAGMENT]);
            let packet = [&header[..], &fragment, part].concat();
            let to = SocketAddr::new(own.into(), 0);
            sendto(&self.senders[0][1], &packet, SendFlags::empty(), &to).unwrap();
        }
        let end = Attempt {
            direction: Direction::Outbound,
            peer: own.into(),
            port: 9,
            uid: 0,
        };
        self.next.set(number + 2);
        self.send(&end, number + 1, ACK);
        numbers(&self.arrived[1], Some(false), number + 1).contains(&number)
    }

    fn send(&self, attempt: &Attempt, number: u32, flags: u8) {
        let is_v4 = attempt.peer.is_ipv4();
        let own: IpAddr = TARGETS[usize::from(!is_v4)].parse().unwrap();
        let (from, to) = match attempt.direction {
            Direction::Inbound => (attempt.peer, own),
            _ => (own, attempt.peer),
        };
        let packet = packet(from, to, attempt.port, number, flags);
        let place = USERS.iter().position(|&uid| uid == attempt.uid).unwrap();
        let sender = &self.senders[place][usize::from(!is_v4)];
        match sendto(sender, &packet, SendFlags::empty(), &SocketAddr::new(to, 0)) {
            // nftables denied it.
            Ok(_) | Err(Errno::PERM) => {}
            Err(error) => panic!("{attempt:?}: {error}"),
        }
    }
}

/// The numbers of the packets that a socket has captured, up to the last ones; of one
/// family, or both.
fn numbers(socket: &OwnedFd, is_v4: Option<bool>, last: u32) -> HashSet<u32> {
    const DEADLINE: Timespec = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let mut numbers = HashSet::new();
    let mut missing = match is_v4 {
        Some(is_v4) => HashSet::from([is_v4]),
        None => HashSet::from([true, false]),
    };
    let mut buffer = [0; 256];
    while !missing.is_empty() {
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        let ready = poll(&mut polled, Some(&DEADLINE)).unwrap();
        assert_ne!(ready, 0, "the last packet was lost");
        let (len, _) = recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        let packet = &buffer[..len.min(buffer.len())];
        // A raw socket of IPv6 gives no header.
        let (family, segment) = match (is_v4, packet[0] >> 4) {
            (Some(false), _) => (false, packet),
            (_, 4) if packet[9] == TCP => (true, &packet[20..]),
            (_, 6) if packet[6] == TCP => (false, &packet[40..]),
            _ => continue,
        };
        let number = u32::from_be_bytes(segment[4..8].try_into().unwrap());
        match segment[13] {
            SYN => _ = numbers.insert(number),
            ACK if number == last => _ = missing.remove(&family),
            _ => {}
        }
    }
    numbers
}

const TCP: u8 = 6;
const FRAGMENT: u8 = 44;

/// A packet of TCP without data, whose sequence number is its own.
fn packet(from: IpAddr, to: IpAddr, port: u16, number: u32, flags: u8) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&number.to_be_bytes());
    // Its length, in words.
    segment[12] = 5 << 4;
    segment[13] = flags;
    let header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0];
            header.extend(from.octets().into_iter().chain(to.octets()));
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
            header.extend(from.octets().into_iter().chain(to.octets()));
            header
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    [header, segment.into()].concat()
}
