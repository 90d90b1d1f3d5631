//! Policies made up at random, in all the conditions nftables can ask, and the connections
//! at every edge of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use port_monitor_common::policy::Direction;

use super::packets::{Attempt, OWN, USERS};

/// `SplitMix64`.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

const NAT64: u128 = 0x0064_ff9b << 96;

fn nat64(v4: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(NAT64 | u128::from(v4.to_bits()))
}

/// A rule in the words of the policy, and its edges.
pub(super) struct Rule {
    conditions: Vec<String>,
    ports: Vec<u16>,
    peers: Vec<IpAddr>,
    uids: Vec<u32>,
}

impl Rule {
    pub(super) fn new(direction: Direction, random: &mut Random) -> Self {
        let mut rule = Self {
            conditions: Vec::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            uids: Vec::new(),
        };
        if !random.once_in(3) {
            rule.ask_ports(random);
        }
        if !random.once_in(4) {
            rule.ask_peers(direction, random);
        }
        if direction == Direction::Outbound && random.once_in(3) {
            let uids = &USERS[..=random.below(2)];
            rule.conditions.push(format!("user = {uids:?}\n"));
            rule.uids = uids.to_vec();
        }
        let until = [
            "1969-12-31T23:59:59Z",
            "2020-02-29T12:00:00+14:00",
            "2100-01-01T00:00:00Z",
        ];
        if random.once_in(3) {
            rule.conditions
                .push(format!("until = {}\n", random.one_of(&until)));
        }
        rule
    }

    fn ask_ports(&mut self, random: &mut Random) {
        let mut entries = Vec::new();
        for _ in 0..=random.below(3) {
            let first = u16::try_from(1 + random.below(2_000)).unwrap();
            let first = random.one_of(&[1, 22, first, first, 65_530]);
            let last = first.saturating_add(random.one_of(&[0, 0, 1, 5, 100, u16::MAX]));
            entries.push(format!("{first}-{last}"));
            self.ports
                .extend([first - 1, first, last, last.saturating_add(1)]);
        }
        self.conditions.push(format!("port = {entries:?}\n"));
    }

    fn ask_peers(&mut self, direction: Direction, random: &mut Random) {
        let count = if random.once_in(12) {
            100
        } else {
            random.below(4)
        };
        let mut entries = Vec::new();
        for _ in 0..=count {
            if count < 100 && random.once_in(6) {
                entries.push("self".to_owned());
                continue;
            }
            let network = network(random);
            self.peers.extend(edges(&network));
            entries.push(network.to_string());
        }
        let key = match direction {
            Direction::Inbound => "from",
            _ => "to",
        };
        self.conditions.push(format!("{key} = {entries:?}\n"));
    }

    /// As a rule of a policy.
    pub(super) fn text(&self, name: &str, direction: Direction, random: &mut Random) -> String {
        let direction = match direction {
            Direction::Inbound => "in",
            _ => "out",
        };
        let action = random.one_of(&["allow", "deny"]);
        let conditions = self.conditions.concat();
        format!(
            "[[rule]]\nname = \"{name}\"\ndirection = \"{direction}\"\naction = \"{action}\"\n{conditions}"
        )
    }

    /// Connections at every edge of the rule.
    pub(super) fn attempts(&self, direction: Direction, random: &mut Random) -> Vec<Attempt> {
        let anywhere = ["198.51.100.9", "2001:db8:ffff::9", "127.0.0.1", "::1"];
        let others = anywhere
            .iter()
            .chain(&OWN)
            .map(|addr| addr.parse().unwrap());
        let peers: Vec<IpAddr> = self.peers.iter().copied().chain(others).collect();
        let ports = [&self.ports[..], &[1, 22, 443]].concat();
        let uids = [&self.uids[..], &USERS].concat();
        let each_port = ports.iter().map(|&port| (port, random.one_of(&peers)));
        let mut pairs: Vec<(u16, IpAddr)> = each_port.collect();
        for &peer in &peers {
            pairs.extend([0; 2].map(|_| (random.one_of(&ports), peer)));
        }
        let attempts = pairs.into_iter().map(|(port, peer)| Attempt {
            direction,
            peer,
            port,
            uid: random.one_of(&uids),
        });
        attempts.collect()
    }
}

fn network(random: &mut Random) -> IpNet {
    let special = [
        "10.0.0.0",
        "10.0.0.1",
        "127.0.0.1",
        "128.0.0.0",
        "0.0.0.0",
        "198.18.0.77",
    ];
    let bits = random.bits();
    let v4 = match random.below(2) {
        0 => random.one_of(&special).parse().unwrap(),
        _ => Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap()),
    };
    let v4_len = random.one_of(&[0, 1, 7, 8, 9, 16, 24, 25, 31, 32]);
    let network = match random.below(8) {
        0..4 => IpNet::new(v4.into(), v4_len),
        4 => IpNet::new(nat64(v4).into(), 96 + v4_len),
        5 => IpNet::new(
            Ipv6Addr::LOCALHOST.into(),
            random.one_of(&[0, 64, 127, 128]),
        ),
        6 => IpNet::new(
            Ipv6Addr::from_bits(NAT64).into(),
            random.one_of(&[3, 32, 64, 95]),
        ),
        _ => {
            let documented = 0x2001_0db8 << 96 | bits >> 40;
            let len = random.one_of(&[32, 47, 48, 64, 127, 128]);
            IpNet::new(Ipv6Addr::from_bits(documented).into(), len)
        }
    };
    network.unwrap().trunc()
}

/// The first and the last address of the network and those next to them, in all spellings a
/// packet may have.
fn edges(network: &IpNet) -> Vec<IpAddr> {
    let near = |first: u128, last: u128| {
        [
            first.wrapping_sub(1),
            first,
            first.wrapping_add(1),
            last,
            last.wrapping_add(1),
        ]
    };
    let edges: Vec<IpAddr> = match network {
        IpNet::V4(network) => {
            let ends = near(
                network.network().to_bits().into(),
                network.broadcast().to_bits().into(),
            );
            let v4 = ends.map(|bits| Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32));
            v4.into_iter()
                .flat_map(|v4| [v4.into(), nat64(v4).into()])
                .collect()
        }
        IpNet::V6(network) => {
            let ends = near(network.network().to_bits(), network.broadcast().to_bits());
            let v6 = ends.map(Ipv6Addr::from_bits);
            // The IPv4 address of its end, too.
            let v4 = |v6: Ipv6Addr| Ipv4Addr::from_bits((v6.to_bits() & 0xffff_ffff) as u32);
            v6.into_iter()
                .flat_map(|v6| [v6.into(), v4(v6).into()])
                .collect()
        }
    };
    edges.into_iter().filter(is_of_a_host).collect()
}

/// A packet of TCP may have the address, whatever the interface.
fn is_of_a_host(addr: &IpAddr) -> bool {
    match addr {
        // Loopback has a broadcast address.
        IpAddr::V4(v4) => {
            v4.octets()[0] < 224 && !v4.is_unspecified() && v4.octets() != [127, 255, 255, 255]
        }
        IpAddr::V6(v6) => {
            let is_mapped = v6.to_ipv4_mapped().is_some();
            !v6.is_multicast() && !v6.is_unspecified() && !is_mapped && !v6.is_unicast_link_local()
        }
    }
}
