//! Many networks: what the kernel decides of random addresses against the first rule
//! that names a network of each, found one by one, and what a verdict costs.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Enforced, oracle::Walker};
use crate::{lab::Lab, numbers::Numbers, report::Verdict};

/// The port all rules are about, where nobody answers.
const PORT: u16 = 9;

impl Numbers {
    /// Of both families and many lengths; every third next to others.
    pub(super) fn network(&mut self) -> Network {
        let is_near = self.below(3) == 0;
        let [high, low] = [self.next(), self.next()].map(u128::from);
        let is_v4 = self.below(2) == 0;
        let (addr, prefix_len) = match (is_v4, is_near) {
            (true, true) => (0x0a14_0000 | low & 0xffff, 12 + self.below(21)),
            (true, false) => (low & 0xffff_ffff, 16 + self.below(17)),
            (false, true) => (0x2001_0db8 << 96 | low & 0xffff, 32 + self.below(97)),
            (false, false) => (high << 64 | low, 16 + self.below(113)),
        };
        let bits = if is_v4 { 32 } else { 128 };
        let host_bits = (1_u128 << (bits - prefix_len)).wrapping_sub(1);
        let first = addr
            & !if prefix_len == 0 {
                u128::MAX
            } else {
                host_bits
            };
        Network {
            is_v4,
            first,
            last: first | host_bits,
            prefix_len,
        }
    }
}

/// A network.
#[derive(Clone, Copy)]
pub(super) struct Network {
    pub(super) is_v4: bool,
    first: u128,
    last: u128,
    prefix_len: u64,
}

impl Network {
    fn text(&self) -> String {
        format!("{}/{}", ip(self.is_v4, self.first), self.prefix_len)
    }

    const fn holds(&self, is_v4: bool, addr: u128) -> bool {
        self.is_v4 == is_v4 && self.first <= addr && addr <= self.last
    }
}

fn ip(is_v4: bool, addr: u128) -> IpAddr {
    match u32::try_from(addr) {
        Ok(addr) if is_v4 => Ipv4Addr::from_bits(addr).into(),
        _ => Ipv6Addr::from_bits(addr).into(),
    }
}

/// Other rules reach addresses that these mean otherwise: unspecified ones, loopback and
/// IPv4 within IPv6.
fn is_plain(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_unspecified(),
        IpAddr::V6(addr) => {
            let [first, second, ..] = addr.segments();
            let is_translated =
                matches!(first, 0 | 0x64 | 0x2002) || [first, second] == [0x2001, 0];
            !is_translated
        }
    }
}

/// Rules by turns of deny and allow, each with its share of the networks.
fn policy(lists: &[Vec<Network>]) -> String {
    let mut text = "version = 1\nmode = \"enforce\"\n".to_owned();
    for (number, list) in lists.iter().enumerate() {
        let action = ["deny", "allow"][number % 2];
        let _ = writeln!(
            text,
            "[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\naction = \"{action}\"\nproto = \
             \"udp\"\nport = {PORT}\nto = {}",
            array(list)
        );
    }
    text
}

/// Networks as a policy spells them.
pub(super) fn array(networks: &[Network]) -> String {
    let all: Vec<_> = networks
        .iter()
        .map(|network| format!("\"{}\"", network.text()))
        .collect();
    format!("[{}]", all.join(","))
}

/// Every edge of some networks, and random addresses.
fn addresses(lists: &[Vec<Network>], numbers: &mut Numbers) -> Vec<(bool, u128)> {
    const EACH: usize = 300;
    let all: Vec<_> = lists.iter().flatten().collect();
    let every = (all.len() / EACH).max(1);
    let edges = all.iter().step_by(every).flat_map(|network| {
        let (first, last) = (network.first, network.last);
        [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(|addr| (network.is_v4, addr))
    });
    let random = (0..EACH).map(|_| {
        let network = numbers.network();
        (network.is_v4, network.last)
    });
    edges
        .chain(random)
        .filter(|&(is_v4, addr)| !is_v4 || u32::try_from(addr).is_ok())
        .filter(|&(is_v4, addr)| is_plain(ip(is_v4, addr)))
        .collect()
}

/// Whether the first rule that names a network of the address denies.
fn is_denied(lists: &[Vec<Network>], is_v4: bool, addr: u128) -> bool {
    let names_it = |list: &Vec<Network>| list.iter().any(|network| network.holds(is_v4, addr));
    lists
        .iter()
        .position(names_it)
        .is_some_and(|first| first % 2 == 0)
}

/// Policies of few and of many networks, each asked at the edges of some. A UDP socket
/// that connects sends nothing.
pub(crate) fn compare(lab: &Lab) -> Result<Verdict> {
    let enforced = Enforced::new(lab, "version = 1\nmode = \"enforce\"\n")?;
    let mut walker = Walker::of_udp(&enforced, 0)?;
    let mut numbers = Numbers::new();
    let (mut asked, mut denied, mut longest) = (0, 0, Duration::ZERO);
    for count in [1, 3, 40, 2_000, 30_000, 262_144] {
        let mut lists = vec![Vec::new(); if count < 3 { 1 } else { 3 }];
        for _ in 0..count {
            let network = numbers.network();
            let rule = usize::try_from(numbers.below(lists.len() as u64))?;
            lists[rule].push(network);
        }
        let text = policy(&lists);
        let began = Instant::now();
        enforced.apply(&text, &["--no-confirm"])?;
        longest = longest.max(began.elapsed());
        let to = addresses(&lists, &mut numbers);
        let places: Vec<_> = to
            .iter()
            .map(|&(is_v4, addr)| {
                // Every other as IPv6 spells it.
                let ip = match ip(is_v4, addr) {
                    IpAddr::V4(v4) if addr % 2 == 0 => v4.to_ipv6_mapped().into(),
                    ip => ip,
                };
                SocketAddr::new(ip, PORT)
            })
            .collect();
        for (&(is_v4, addr), refused) in to.iter().zip(walker.walk(&places)?) {
            let expected = is_denied(&lists, is_v4, addr);
            ensure!(
                refused == expected,
                "{} of {count} networks: refused {refused}",
                ip(is_v4, addr)
            );
            asked += 1;
            denied += u32::from(refused);
        }
    }
    Ok(Verdict::Pass(format!(
        "{asked} connects, {denied} denied; the longest apply took {longest:?}"
    )))
}
