//! Networks of every length in every place that has them in a form of its own: the
//! decision, what `diff` and `check` compare, the kernel's tables, the kernel's filter and
//! nftables; and what policies of long lists must not cost.

use std::{
    cell::Cell,
    fmt::Write as _,
    io,
    net::IpAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use port_monitor_common::{
    event::FileId,
    mask::Mask,
    policy::{
        Accepts, Action, DefaultAction, Defaults, Direction, MAX_RULES, Network, Peer, Rule, Rules,
        canonical,
    },
};

use super::{
    NOW_NS, Policy, Source, TestHost,
    networks::{SPECIAL, World, is_in},
    parse, rule,
};
use crate::{
    host::units::Units,
    policy::{
        Environment,
        analysis::cells::{Interval, peer_intervals},
        export::nft,
        tables::index::Index,
        text::{
            network::{network, spellings},
            problem::Problem,
            value,
        },
    },
};

/// Random bases; each is tried with every length there is.
const BASES: usize = 10_000;

fn holds(intervals: &[Interval], addr: u128) -> bool {
    intervals
        .iter()
        .any(|&(first, last)| first <= addr && addr <= last)
}

/// The index of rules that name one network each.
fn index(networks: &[Network]) -> Index {
    const ALLOW: DefaultAction = DefaultAction {
        action: Action::Allow,
        filters_loopback: false,
    };
    let peers: Vec<Peer> = networks.iter().copied().map(Peer::Network).collect();
    let rules: Vec<Rule> = (0..u32::try_from(peers.len()).unwrap())
        .map(|start| Rule {
            peers: Accepts::OneOf { start, len: 1 },
            ..Rule::any(Direction::Outbound, Action::Deny)
        })
        .collect();
    Index::of(&Rules {
        defaults: Defaults {
            inbound: ALLOW,
            outbound: ALLOW,
            listen: ALLOW,
        },
        judges_udp: false,
        rules: &rules,
        ports: &[],
        peers: &peers,
        owners: &[],
    })
}

/// The kernel's tables accept the address for this rule.
fn is_in_tables(index: &Index, rule: usize, judged: u128) -> bool {
    let number = index.network_pages().found(judged);
    let number = number.unwrap_or(index.networks.other);
    let mut mask = index.masks[usize::try_from(number).unwrap()];
    let mut one = Mask::NONE;
    one.insert(rule);
    mask.intersect(&one);
    mask != Mask::NONE
}

fn compare(nets: &[IpNet], world: &mut World, seed: u64) {
    let parsed: Vec<Network> = nets
        .iter()
        .map(|net| network(&net.to_string()).unwrap())
        .collect();
    let index = index(&parsed);
    for (at, (net, found)) in nets.iter().zip(&parsed).enumerate() {
        let intervals =
            [true, false].map(|is_self| peer_intervals(Some(&[Peer::Network(*found)]), is_self));
        let [v4, v6] = nft::of_packets(*found);
        let spelled = spellings(found);
        let probes = world.probes(*net);
        for ip in [probes[world.below(5)], probes[5]] {
            let expected = is_in(*net, ip);
            let octets = value::octets(ip);
            let judged = canonical(octets);
            let bits = u128::from_be_bytes(judged);
            assert_eq!(
                found.contains(&judged),
                expected,
                "decision: {ip} in {net}, seed {seed}"
            );
            for intervals in &intervals {
                assert_eq!(
                    holds(intervals, bits),
                    expected,
                    "diff: {ip} in {net}, seed {seed}"
                );
            }
            assert_eq!(
                is_in_tables(&index, at, bits),
                expected,
                "tables: {ip} in {net}, seed {seed}"
            );
            // No packet and no socket has the unspecified address as its peer's.
            if ip.to_canonical().is_unspecified() {
                continue;
            }
            let written = u128::from_be_bytes(octets);
            let is_spelled = spelled.iter().any(|(len, first)| {
                let host_bits = u128::MAX.checked_shr(*len).unwrap_or(0);
                written & !host_bits == u128::from_be_bytes(*first)
            });
            assert_eq!(is_spelled, expected, "filter: {ip} in {net}, seed {seed}");
            let in_packets = match ip.to_canonical() {
                IpAddr::V4(_) => holds(&v4, written),
                IpAddr::V6(_) => holds(&v6, written),
            };
            assert_eq!(in_packets, expected, "nft: {ip} in {net}, seed {seed}");
        }
    }
}

#[test]
fn network_of_every_length_is_the_same_in_every_place() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_secs();
    let mut world = World::of(seed);
    let special = SPECIAL.map(|text| text.parse::<IpAddr>().unwrap());
    let random: Vec<IpAddr> = (0..BASES).map(|_| world.address()).collect();
    let mut batch = Vec::new();
    for base in special.into_iter().chain(random) {
        let longest = if base.is_ipv4() { 32 } else { 128 };
        batch.extend((0..=longest).map(|len| IpNet::new(base, len).unwrap().trunc()));
        if batch.len() + 129 > MAX_RULES {
            compare(&batch, &mut world, seed);
            batch.clear();
        }
    }
    compare(&batch, &mut world, seed);
}

/// Two lists with names, of so many networks each, none of which touch.
fn lists(count: u32) -> String {
    let mut text = "version = 1\n[networks]\n".to_owned();
    for (name, first) in [("a", 11), ("b", 101)] {
        _ = write!(text, "{name} = [");
        for n in 0..count {
            let [_, b, c, d] = (n * 2).to_be_bytes();
            _ = write!(text, "\"{first}.{b}.{c}.{d}\",");
        }
        text.push_str("]\n");
    }
    text
}

#[test]
fn rules_that_join_the_same_lists_share_what_they_join() {
    let of = |rules: u32| -> Policy {
        let mut text = lists(500);
        for n in 1..=rules {
            let to = [
                "[\"a\", \"b\", \"10.0.0.1\"]",
                "[\"10.0.0.1\", \"b\", \"a\", \"a\"]",
            ];
            let to = to[usize::try_from(n).unwrap() % 2];
            text += &rule(
                &format!("r{n}"),
                "out",
                "deny",
                &format!("to = {to}\nport = {n}"),
            );
        }
        super::policy(&text)
    };
    let [one, many] = [1, 50].map(|rules| of(rules).tables.peers.len());
    assert_eq!((one, many), (1001, 1001));
}

#[test]
fn lists_that_are_joined_anew_too_often_are_refused_in_one_line() {
    let mut text = lists(3_000);
    for n in 1..=900 {
        let [_, _, c, d] = u32::to_be_bytes(n);
        let to = format!("to = [\"a\", \"b\", \"10.0.{c}.{d}\"]\nport = {n}");
        text += &rule(&format!("r{n}"), "out", "deny", &to);
    }
    let invalid = Policy::parse(Source::new("p".to_owned(), text), &TestHost).unwrap_err();
    let problems: Vec<_> = invalid
        .diagnostics
        .iter()
        .map(|found| &found.problem)
        .collect();
    assert_eq!(problems, [&Problem::TooManyEntries(1 << 21)]);
}

#[test]
fn ruleset_of_twice_the_networks_is_twice_as_long() {
    let of = |count| {
        let text = lists(count) + &rule("r", "out", "deny", "to = [\"a\", \"b\"]");
        let ruleset = super::policy(&text).to_nft(nft::Inexpressible::Refuse, NOW_NS);
        ruleset.unwrap().lines().count()
    };
    let [once, twice, thrice] = [1_000, 2_000, 3_000].map(of);
    assert_eq!(thrice - twice, twice - once);
}

#[test]
fn problems_of_one_kind_are_told_a_few_times_and_counted() {
    let units: Vec<String> = (0..5_000).map(|n| format!("gone-{n}.service")).collect();
    let text = rule("r", "out", "deny", &format!("unit = {units:?}"));
    let (_, warnings) = parse(&format!("version = 1\n{text}")).unwrap();
    let more = warnings
        .iter()
        .filter(|found| found.problem == Problem::MoreInRule(4_980));
    assert_eq!((warnings.len(), more.count()), (21, 1));
    for warning in &warnings {
        // The line with all of them is shown in part.
        assert!(
            warning.render(super::super::Style::Plain).len() < 1_000,
            "{warning}"
        );
    }
}

/// Counts how often somebody asks for all users or services.
struct Asked(Cell<usize>);

impl Environment for Asked {
    fn service_ports(&self, service: &str) -> Vec<u16> {
        TestHost.service_ports(service)
    }

    fn nearest_service(&self, service: &str) -> Option<String> {
        self.0.set(self.0.get() + 1);
        TestHost.nearest_service(service)
    }

    fn uid(&self, user: &str) -> Option<u32> {
        TestHost.uid(user)
    }

    fn users(&self) -> Vec<String> {
        self.0.set(self.0.get() + 1);
        TestHost.users()
    }

    fn units(&self) -> Units {
        TestHost.units()
    }

    fn executable(&self, path: &Path) -> io::Result<FileId> {
        Environment::executable(&TestHost, path)
    }

    fn now_ns(&self) -> i128 {
        NOW_NS
    }
}

#[test]
fn names_like_thousands_of_unknown_ones_are_searched_for_a_few_times() {
    let problems = |key: &str, wrong: &str, others: &str| {
        let mut names = vec![wrong.to_owned()];
        names.extend((0..5_000).map(|n| format!("{others}{n}")));
        let text = rule("r", "out", "deny", &format!("{key} = {names:?}"));
        let source = Source::new("p".to_owned(), format!("version = 1\n{text}"));
        let asked = Asked(Cell::new(0));
        let invalid = Policy::parse(source, &asked).unwrap_err();
        let mut problems = invalid.diagnostics.iter().map(|found| &found.problem);
        let first = problems.find(|problem| !matches!(problem, Problem::MoreInRule(_)));
        (first.unwrap().help(), asked.0.get())
    };
    let meant = |name: &str| Some(format!("did you mean `{name}`?"));
    assert_eq!(problems("user", "appp", "gone-"), (meant("app"), 1));
    let (help, searches) = problems("service", "sssh", "gone-");
    assert_eq!(help, meant("ssh"));
    assert!(searches <= 100, "{searches}");
}
