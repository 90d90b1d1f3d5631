//! What a network holds, in every place that takes one, against what it is to mean,
//! spelled out naively.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use port_monitor_common::{
    mask::Mask,
    policy::{Direction, Peer, Transport, canonical, is_loopback},
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};

use super::{Facts, NOW_NS, parse, rule};
use crate::policy::{
    Policy, Reason,
    analysis::cells::Place,
    text::{
        network::{merged, network, spellings},
        problem::Problem,
        value,
    },
};

pub(super) const SPECIAL: [&str; 22] = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.0",
    "126.255.255.255",
    "127.0.0.1",
    "128.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "::",
    "::1",
    "::10.0.0.1",
    "::fffe:ffff:ffff",
    "::1:0:0:0",
    "64:ff9b::",
    "64:ff9b::1.2.3.4",
    "64:ff9b::127.0.0.1",
    "64:ff9b::255.255.255.255",
    "64:ff9b:1::10.0.0.1",
    "2002:a00:1::",
    "2001::1",
    "fe80::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

/// They are asked for millions of times.
static SPECIAL_PARSED: LazyLock<[IpAddr; 22]> =
    LazyLock::new(|| SPECIAL.map(|text| text.parse().unwrap()));

const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// What no translator takes.
const KEPT: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
];

fn bits(ip: IpAddr) -> u128 {
    u128::from_be_bytes(value::octets(ip))
}

/// The address in `64:ff9b::/96`, where it is one that a translator takes.
fn through_nat64(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = ip.octets();
    (NAT64.contains(&ip) && ![0, 127].contains(&a)).then(|| Ipv4Addr::new(a, b, c, d))
}

/// What a connection to the address reaches.
fn reached(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(v6) => through_nat64(v6).map_or(v6.into(), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The network as it is meant.
fn meant(written: IpNet) -> IpNet {
    if written.prefix_len() == written.max_prefix_len() {
        return reached(written.addr()).into();
    }
    let IpNet::V6(v6) = written else {
        return written;
    };
    let [.., a, b, c, d] = v6.network().octets();
    let in_v4 = v6.prefix_len().checked_sub(96);
    let in_v4 = in_v4.and_then(|len| Ipv4Net::new([a, b, c, d].into(), len).ok());
    let is_mapped = v6.network().to_ipv4_mapped().is_some();
    let meets = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
    let is_nat64 = v6
        .network()
        .octets()
        .starts_with(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]);
    match in_v4 {
        Some(v4) if is_mapped => v4.into(),
        Some(v4) if is_nat64 && !KEPT.iter().any(|kept| meets(kept, &v4)) => v4.into(),
        _ => written,
    }
}

pub(super) fn is_in(written: IpNet, ip: IpAddr) -> bool {
    meant(written).contains(&reached(ip))
}

pub(super) struct World(TestRng);

impl World {
    fn new() -> Self {
        Self(TestRng::deterministic_rng(RngAlgorithm::ChaCha))
    }

    pub(super) fn of(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.0.next_u64()) << 64 | u128::from(self.0.next_u64())
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u32()).unwrap() % end
    }

    /// Every second one next to a special address.
    pub(super) fn address(&mut self) -> IpAddr {
        let special = SPECIAL_PARSED[self.below(SPECIAL.len())];
        let random = self.bits();
        match self.below(4) {
            0 => Ipv6Addr::from_bits(random).into(),
            1 => Ipv4Addr::from_octets(self.0.next_u32().to_le_bytes()).into(),
            2 => special,
            _ => {
                let near = bits(special) ^ random & u128::MAX >> self.below(128);
                Ipv6Addr::from_bits(near).into()
            }
        }
    }

    fn network(&mut self) -> IpNet {
        let ip = self.address();
        let longest = if ip.is_ipv4() { 33 } else { 129 };
        let len = u8::try_from(self.below(longest)).unwrap();
        IpNet::new(ip, len).unwrap().trunc()
    }

    /// Addresses at the edges of the network, in it, and anywhere.
    pub(super) fn probes(&mut self, net: IpNet) -> [IpAddr; 6] {
        let (first, last) = (bits(net.network()), bits(net.broadcast()));
        let ip = |bits: u128| value::address(bits.to_be_bytes());
        let inside = first | self.bits() & (last - first);
        [
            ip(first),
            ip(last),
            ip(first.wrapping_sub(1)),
            ip(last.wrapping_add(1)),
            ip(inside),
            self.address(),
        ]
    }
}

#[test]
fn network_of_every_length_holds_what_it_is_to() {
    let mut world = World::new();
    let special = SPECIAL.map(|text| text.parse::<IpAddr>().unwrap());
    let random: Vec<IpAddr> = (0..10_000).map(|_| world.address()).collect();
    for base in special.into_iter().chain(random) {
        let longest = if base.is_ipv4() { 32 } else { 128 };
        for len in 0..=longest {
            let net = IpNet::new(base, len).unwrap().trunc();
            let found = network(&net.to_string()).unwrap();
            let probes = world.probes(net);
            for ip in [probes[world.below(5)], probes[5]] {
                let judged = canonical(value::octets(ip));
                assert_eq!(found.contains(&judged), is_in(net, ip), "{ip} in {net}");
            }
        }
    }
}

#[test]
fn filter_of_the_kernel_knows_every_spelling() {
    let mut world = World::new();
    for _ in 0..20_000 {
        let net = world.network();
        let prefixes = spellings(&network(&net.to_string()).unwrap());
        for ip in world.probes(net) {
            let octets = value::octets(ip);
            // No socket has the unspecified address as its peer's.
            if ip.is_unspecified() {
                continue;
            }
            let holding = prefixes.iter().filter(|(len, first)| {
                let host_bits = u128::MAX.checked_shr(*len).unwrap_or(0);
                u128::from_be_bytes(octets) & !host_bits == u128::from_be_bytes(*first)
            });
            assert_eq!(
                holding.count(),
                usize::from(is_in(net, ip)),
                "{ip} in {net}"
            );
        }
    }
}

#[test]
fn merged_networks_hold_the_same_and_are_apart() {
    let mut world = World::new();
    for _ in 0..3_000 {
        let nets: Vec<IpNet> = (0..12).map(|_| world.network()).collect();
        let peers = nets
            .iter()
            .map(|net| Peer::Network(network(&net.to_string()).unwrap()));
        let peers = merged(peers);
        for net in &nets {
            for ip in world.probes(*net) {
                let judged = canonical(value::octets(ip));
                let holding = peers.iter().filter(|peer| match peer {
                    Peer::Network(network) => network.contains(&judged),
                    Peer::ThisHost => false,
                });
                let expected = nets.iter().any(|net| is_in(*net, ip));
                assert_eq!(holding.count(), usize::from(expected), "{ip} in {nets:?}");
            }
        }
    }
}

fn facts(peer: IpAddr) -> Facts<'static> {
    Facts {
        now_ns: NOW_NS,
        ..Facts::new(Direction::Outbound, Transport::Tcp, 443, peer)
    }
}

/// The masks of the kernel's tables have the first rule for the address.
fn is_in_tables(policy: &Policy, peer: IpAddr) -> bool {
    let lowered = policy.lower_for_monitor().unwrap();
    let judged = u128::from_be_bytes(canonical(value::octets(peer)));
    let number = lowered.networks.found(judged);
    let number = number.unwrap_or(lowered.header.other_network);
    let mut mask = lowered.masks[usize::try_from(number).unwrap()];
    let mut first = Mask::NONE;
    first.insert(0);
    mask.intersect(&first);
    mask != Mask::NONE
}

#[test]
fn policy_decides_explains_compares_and_lowers_alike() {
    let mut world = World::new();
    let allow = super::policy("version = 1\n");
    let mut policies = 0;
    while policies < 400 {
        let nets: Vec<IpNet> = (0..=world.below(4)).map(|_| world.network()).collect();
        let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
        let text = rule("r", "out", "deny", &format!("to = {texts:?}"));
        let Ok((policy, _)) = parse(&format!("version = 1\n{text}")) else {
            continue;
        };
        policies += 1;
        let differences = allow.diff(&policy, NOW_NS).unwrap();
        for net in &nets {
            for ip in world.probes(*net) {
                let expected = nets.iter().any(|net| is_in(*net, ip));
                let reason = policy.explain(&facts(ip)).reason;
                let by_rule = matches!(reason, Reason::Rule(_));
                assert_eq!(by_rule, expected, "explain {ip} in {nets:?}");
                let judged = policy.judge(&facts(ip));
                assert_eq!(judged.rule.is_some(), expected, "judge {ip} in {nets:?}");
                assert_eq!(
                    is_in_tables(&policy, ip),
                    expected,
                    "tables {ip} in {nets:?}"
                );
                let addr = canonical(value::octets(ip));
                let is_self = is_loopback(&addr);
                let differs = differences
                    .iter()
                    .any(|difference| difference.peers.contains(Place { addr, is_self }));
                assert_eq!(differs, expected, "diff {ip} in {nets:?}");
            }
        }
    }
}

fn problems(peers: &str) -> Vec<Problem> {
    let text = rule("r", "out", "deny", &format!("to = {peers}"));
    let found = match parse(&format!("version = 1\n{text}")) {
        Ok((_, warnings)) => warnings,
        Err(invalid) => invalid.diagnostics,
    };
    found.into_iter().map(|found| found.problem).collect()
}

#[test]
fn network_that_means_something_else_is_told() {
    let rest = "\"192.0.2.1\"";
    for (text, said) in [
        (
            "64:ff9b::/96",
            Some("`64:ff9b::/96` matches no connection through NAT64"),
        ),
        (
            "64:ff9b::/97",
            Some("`64:ff9b::/97` matches no connection through NAT64"),
        ),
        ("64:ff9b::/104", None),
        ("64:ff9b::7f00:1", None),
        (
            "64:ff9b::/32",
            Some("`64:ff9b::/32` matches nothing that NAT64"),
        ),
        (
            "64:ff9b::a00:0/104",
            Some("`64:ff9b::a00:0/104` means 10.0.0.0/8"),
        ),
        ("::ffff:0:0/96", Some("`::ffff:0:0/96` means all of IPv4")),
        ("::/128", Some("`::/128` is judged as ::1")),
        ("::", Some("`::` is judged as ::1")),
        ("0.0.0.0/32", Some("`0.0.0.0/32` is judged as 127.0.0.1")),
        (
            "::ffff:0.0.0.0",
            Some("`::ffff:0.0.0.0` is judged as 127.0.0.1"),
        ),
        ("64:ff9b::a00:1", None),
        ("::ffff:10.0.0.0/104", None),
        ("0.0.0.0/8", None),
        ("0.0.0.0/0", None),
        ("::/0", None),
        ("::/8", None),
        ("64:ff9b:1::/48", None),
        ("2002::/16", None),
    ] {
        let problems = problems(&format!("[\"{text}\", {rest}]"));
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        match said {
            Some(said) => assert!(
                all.len() == 1 && all[0].starts_with(said),
                "{text}: {all:?}"
            ),
            None => assert!(all.is_empty(), "{text}: {all:?}"),
        }
    }
}

#[test]
fn rule_of_networks_that_never_match_is_refused() {
    let said = problems("[\"64:ff9b::/96\", \"64:ff9b::/104\"]");
    assert!(
        said.contains(&Problem::NoPeer {
            name: "r".to_owned()
        }),
        "{said:?}"
    );
    assert!(
        !said
            .iter()
            .any(|found| matches!(found, Problem::Shadowed { .. })),
        "{said:?}"
    );
}

#[test]
fn spelling_that_programs_read_differently_is_refused() {
    for text in [
        "010.0.0.0/8",
        "10.0.0.08",
        "10.0.0.0/08",
        "::ffff:010.0.0.1",
        "00.0.0.0/0",
    ] {
        assert_eq!(
            network(text),
            Err(Problem::LeadingZero(text.to_owned())),
            "{text}"
        );
    }
    for text in [
        "fe80::1%eth0",
        "fe80::%1/64",
        "fe80::/10%lo",
        "192.0.2.1%lo",
        "10.0.0.0/8%lo",
    ] {
        assert_eq!(network(text), Err(Problem::Zone(text.to_owned())), "{text}");
    }
    for text in [
        "1.2.3",
        "10/8",
        "0x7f.0.0.1",
        "1.2.3.4.5",
        "",
        "/8",
        " 10.0.0.1",
        "10.0.0.1 ",
    ] {
        assert_eq!(
            network(text),
            Err(Problem::NotANetwork(text.to_owned())),
            "{text}"
        );
    }
    assert!(matches!(
        network("10.1.2.3/8"),
        Err(Problem::HostBits { .. })
    ));
    assert!(matches!(
        network("10.0.0.0/+8"),
        Err(Problem::PrefixTooLong { .. })
    ));
    assert!(matches!(
        network("10.0.0.0/33"),
        Err(Problem::PrefixTooLong { .. })
    ));
}
