//! Networks as text and as sets: the one parser for all that takes a network, what to
//! tell people of one, and the fewest networks that hold the same addresses.
//!
//! A network means the peers in it as they are judged. That is by the address a
//! connection reaches ([`canonical`]): an IPv4-mapped address and one of NAT64 are the
//! IPv4 address in them. Networks of IPv6 hold none of these, not even `::/0`.

use std::net::{IpAddr, Ipv6Addr};

use port_monitor_common::{
    addr::as_v4,
    policy::{Network, Peer, canonical},
};

use super::{problem::Problem, value};
use crate::policy::analysis::cells;

/// Leading bits of an IPv4-mapped address before the IPv4 address.
const FAMILY_BITS: u8 = 96;
/// `64:ff9b::`, the first address of NAT64 (RFC 6052).
const NAT64: u128 = 0x0064_ff9b << 96;

/// An address or a CIDR.
///
/// One address stands for what a connection to it reaches. A longer network stands for
/// what it holds, and for a network of IPv4 where all of it leads there.
pub fn network(text: &str) -> Result<Network, Problem> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    if prefix.is_some_and(|prefix| prefix.contains('%')) {
        return Err(Problem::Zone(text.to_owned()));
    }
    let ip: IpAddr = addr.parse().map_err(|_| not_an_address(text, addr))?;
    let longest: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let too_long = || Problem::PrefixTooLong {
        cidr: text.to_owned(),
        longest,
    };
    let prefix_len = match prefix {
        None => longest,
        Some(prefix) if has_leading_zero(prefix) => {
            return Err(Problem::LeadingZero(text.to_owned()));
        }
        Some(prefix) => prefix
            .parse()
            .ok()
            .filter(|&len| len <= longest && !prefix.starts_with('+'))
            .ok_or_else(too_long)?,
    };
    let written = value::octets(ip);
    let network = Network::new(written, 128 - longest + prefix_len).ok_or_else(too_long)?;
    if network.first() != written {
        return Err(Problem::HostBits {
            cidr: text.to_owned(),
            network: format!("{}/{prefix_len}", in_family_of(ip, network.first())),
        });
    }
    let reached = reached(&network);
    Ok(reached.unwrap_or(network))
}

/// The address that a connection to `ip` reaches, by which it is judged.
pub fn reached_by(ip: IpAddr) -> IpAddr {
    value::address(canonical(value::octets(ip)))
}

/// What all of the network leads to, where that is another one.
fn reached(network: &Network) -> Option<Network> {
    let [first, last] = [network.first(), network.last()].map(canonical);
    let is_one = network.prefix_len() == 128;
    // The addresses of NAT64 that stay as they are lie in whole /104s.
    let leads_to_v4 = is_nat64(network) && as_v4(&first).is_some() && as_v4(&last).is_some();
    let whole = leads_to_v4
        && nat64_kept()
            .iter()
            .all(|kept| !meets(*kept, bounds(network)));
    let prefix_len = u8::try_from(network.prefix_len()).ok()?;
    (is_one || whole)
        .then(|| Network::new(first, prefix_len))
        .flatten()
}

/// Every address of the network begins as those of NAT64 do.
fn is_nat64(network: &Network) -> bool {
    let (first, _) = bounds(network);
    network.prefix_len() >= u32::from(FAMILY_BITS) && first >> 32 == NAT64 >> 32
}

/// The addresses of NAT64 that are judged as they are: no translator takes them.
fn nat64_kept() -> [cells::Interval; 2] {
    [0, 127].map(|octet: u128| {
        let first = NAT64 | octet << 24;
        (first, first | 0xff_ffff)
    })
}

const fn bounds(network: &Network) -> cells::Interval {
    (
        u128::from_be_bytes(network.first()),
        u128::from_be_bytes(network.last()),
    )
}

const fn meets(a: cells::Interval, b: cells::Interval) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

fn in_family_of(ip: IpAddr, first: [u8; 16]) -> IpAddr {
    match ip {
        IpAddr::V4(_) => value::address(first),
        IpAddr::V6(_) => Ipv6Addr::from(first).into(),
    }
}

/// Some number has a zero before it.
fn has_leading_zero(number: &str) -> bool {
    number.len() > 1 && number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit())
}

fn not_an_address(text: &str, addr: &str) -> Problem {
    let in_v4 = addr.rsplit(':').next().unwrap_or_default();
    let numbers = || in_v4.split('.');
    let are_four = numbers().count() == 4
        && numbers().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if are_four && numbers().any(has_leading_zero) {
        return Problem::LeadingZero(text.to_owned());
    }
    let zone = addr.split_once('%');
    if zone.is_some_and(|(addr, _)| addr.parse::<IpAddr>().is_ok()) {
        return Problem::Zone(text.to_owned());
    }
    Problem::NotANetwork(text.to_owned())
}

/// What whoever wrote the network may not expect of it. It was read from `text`.
pub(crate) fn remark(text: &str, network: &Network) -> Option<Problem> {
    let (addr, prefix) = text.split_once('/').unwrap_or((text, ""));
    let ip: IpAddr = addr.parse().ok()?;
    let written = text.to_owned();
    let judged = || spelled(network);
    match ip {
        ip if ip.to_canonical().is_unspecified() && network.prefix_len() == 128 => {
            Some(Problem::Unspecified {
                text: written,
                judged: judged(),
            })
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && *network == Network::ALL_V4 => {
            Some(Problem::AllOfIpv4(written))
        }
        IpAddr::V6(_) if never_matches(network) => Some(Problem::Nat64Never(written)),
        IpAddr::V6(v6) if v6.to_bits() >> 32 == NAT64 >> 32 && prefix.is_empty() => None,
        IpAddr::V6(v6) if v6.to_bits() >> 32 == NAT64 >> 32 && network.is_v4() => {
            Some(Problem::Nat64AsIpv4 {
                cidr: written,
                judged: judged(),
            })
        }
        IpAddr::V6(v6) if v6.to_bits() == NAT64 && (32..96).contains(&network.prefix_len()) => {
            Some(Problem::Nat64Without(written))
        }
        _ => None,
    }
}

/// No connection through NAT64 has a peer in the network, which holds addresses of that
/// only: those that are translated are judged by the IPv4 address in them. A network of
/// those that no translator takes means just these.
pub(crate) fn never_matches(network: &Network) -> bool {
    let (first, last) = bounds(network);
    let is_kept = |kept: &cells::Interval| kept.0 <= first && last <= kept.1;
    is_nat64(network) && !network.is_v4() && !nat64_kept().iter().any(is_kept)
}

/// The network as people write it.
pub(crate) fn spelled(network: &Network) -> String {
    let family_bits = if network.is_v4() { 96 } else { 0 };
    let first = value::address(network.first());
    match network.prefix_len() {
        128 => first.to_string(),
        bits => format!("{first}/{}", bits - family_bits),
    }
}

/// Peers, each once and in order, in the fewest networks: those within others are left
/// out and halves are joined.
pub(crate) fn merged(peers: impl IntoIterator<Item = Peer>) -> Vec<Peer> {
    let mut this_host = None;
    let mut networks = Vec::new();
    for peer in peers {
        match peer {
            Peer::ThisHost => this_host = Some(peer),
            Peer::Network(network) => networks.push(network),
        }
    }
    // Lists that are joined are in order each: a stable sort finds that.
    networks.sort_by_key(|network| {
        let (first, _) = bounds(network);
        (network.is_v4(), first, network.prefix_len())
    });
    let mut kept: Vec<Network> = Vec::new();
    for network in networks {
        if kept.last().is_some_and(|last| holds(last, &network)) {
            continue;
        }
        kept.push(network);
        while let [.., a, b] = kept[..] {
            let Some(both) = joined(&a, &b) else { break };
            kept.truncate(kept.len() - 2);
            kept.push(both);
        }
    }
    this_host
        .into_iter()
        .chain(kept.into_iter().map(Peer::Network))
        .collect()
}

fn holds(outer: &Network, inner: &Network) -> bool {
    outer.is_v4() == inner.is_v4()
        && outer.prefix_len() <= inner.prefix_len()
        && bounds(outer).0 <= bounds(inner).0
        && bounds(inner).1 <= bounds(outer).1
}

/// The network whose halves `a` and `b` are.
fn joined(a: &Network, b: &Network) -> Option<Network> {
    let shortest = if a.is_v4() { u32::from(FAMILY_BITS) } else { 0 };
    if a.is_v4() != b.is_v4() || a.prefix_len() != b.prefix_len() || a.prefix_len() <= shortest {
        return None;
    }
    let prefix_len = u8::try_from(a.prefix_len() - 1).ok()?;
    let both = Network::new(a.first(), prefix_len)?;
    (both.first() == a.first() && both.last() == b.last()).then_some(both)
}

/// The addresses that are judged as one of the network, in every spelling of theirs, as
/// prefixes: leading bits of the 128 and the first address, none within another.
pub fn spellings(network: &Network) -> Vec<(u32, [u8; 16])> {
    let mut found = Vec::new();
    for interval in intervals(network) {
        prefixes(interval, &mut found);
    }
    found
}

fn intervals(network: &Network) -> Vec<cells::Interval> {
    let held = [bounds(network)];
    if !network.is_v4() {
        let v4 = [(cells::V4_FIRST, cells::V4_LAST)];
        return cells::without(&cells::without(&held, &v4), &cells::NAT64);
    }
    let through_nat64 = held.map(|(first, last)| {
        let low = |addr: u128| NAT64 | addr & 0xffff_ffff;
        (low(first), low(last))
    });
    let through_nat64 = cells::without(&through_nat64, &nat64_kept());
    cells::joined([&held[..], &through_nat64].concat())
}

/// Cuts an interval into the fewest prefixes.
fn prefixes((first, last): cells::Interval, found: &mut Vec<(u32, [u8; 16])>) {
    let mut at = first;
    loop {
        // As large as the place allows and as what is left allows.
        let aligned = at.trailing_zeros();
        let left = (last - at).checked_add(1).map_or(128, u128::ilog2);
        let host_bits = aligned.min(left);
        found.push((128 - host_bits, at.to_be_bytes()));
        let size_less_one = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        match (at | size_less_one).checked_add(1) {
            Some(next) if next <= last => at = next,
            _ => return,
        }
    }
}
