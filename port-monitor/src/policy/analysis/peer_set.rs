//! A set of peers, as exact as rules can tell them apart: by address, and by
//! whether the address is this host's.

use std::fmt;

use super::cells::{
    Interval, LOOPBACK, NAT64, NO_PEER, Place, V4_FIRST, V4_LAST, common, joined, without,
};
use crate::policy::text::value;

/// Peers. Never holds an address that no peer has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerSet {
    /// Addresses of peers elsewhere, so none of loopback.
    elsewhere: Vec<Interval>,
    /// Addresses of peers on this host.
    this_host: Vec<Interval>,
}

impl PeerSet {
    pub(crate) const fn new(elsewhere: Vec<Interval>, this_host: Vec<Interval>) -> Self {
        Self {
            elsewhere,
            this_host,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.elsewhere.is_empty() && self.this_host.is_empty()
    }

    /// A peer of the set: one of documentation (RFC 5737, RFC 3849) where there is
    /// one, and one elsewhere rather than on this host.
    pub(crate) fn example(&self) -> Place {
        const NICE: [u128; 3] = [
            u128::from_be_bytes(port_monitor_common::addr::v4_mapped([192, 0, 2, 1])),
            0x2001_0db8_0000_0000_0000_0000_0000_0001,
            u128::from_be_bytes(port_monitor_common::addr::v4_mapped([127, 0, 0, 1])),
        ];
        let is_self = self.elsewhere.is_empty();
        let intervals = if is_self {
            &self.this_host
        } else {
            &self.elsewhere
        };
        let nice = NICE.into_iter().find(|&addr| holds(intervals, addr));
        let addr = nice.unwrap_or_else(|| {
            let (first, last) = intervals.first().copied().unwrap_or_default();
            // The address of a network itself is nobody's.
            first.saturating_add(1).min(last)
        });
        Place {
            addr: addr.to_be_bytes(),
            is_self,
        }
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, place: Place) -> bool {
        let intervals = if place.is_self {
            &self.this_host
        } else {
            &self.elsewhere
        };
        holds(intervals, u128::from_be_bytes(place.addr))
    }

    /// The set in words, one for each network or range of addresses.
    pub fn words(&self) -> Vec<String> {
        let mut alike = common(&self.elsewhere, &self.this_host);
        let only_elsewhere = without(&self.elsewhere, &alike);
        let mut only_here = without(&self.this_host, &alike);
        if without(&only_here, &LOOPBACK).is_empty() {
            // Of loopback, the address alone tells whose it is.
            alike = joined([alike, std::mem::take(&mut only_here)].concat());
        }
        let loopback_too = joined([&alike[..], &LOOPBACK].concat());
        if is_all(&loopback_too) && common(&alike, &LOOPBACK).is_empty() {
            return vec!["any but loopback".to_owned()];
        }
        let any = without(&ALL, &NO_PEER);
        let remote = without(&any, &LOOPBACK);
        [
            named("any", &alike, &any, str::to_owned),
            named("any but self", &only_elsewhere, &remote, |name| {
                format!("{name} but self")
            }),
            named("self", &only_here, &any, |name| format!("self at {name}")),
        ]
        .concat()
    }
}

impl fmt::Display for PeerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(", "))
    }
}

fn holds(intervals: &[Interval], addr: u128) -> bool {
    intervals
        .iter()
        .any(|&(first, last)| first <= addr && addr <= last)
}

const ALL: [Interval; 1] = [(0, u128::MAX)];

/// A part of `all`, which is called `whole`, in words: what it holds, each as
/// `part` puts it, or what it lacks, where that is less.
fn named(
    whole: &str,
    intervals: &[Interval],
    all: &[Interval],
    part: impl Fn(&str) -> String,
) -> Vec<String> {
    let held = networks(intervals);
    let lacking = networks(&without(all, intervals));
    if lacking.is_empty() {
        vec![whole.to_owned()]
    } else if lacking.len() < held.len() {
        vec![format!("{whole} outside {}", lacking.join(" and "))]
    } else {
        held.iter().map(|name| part(name)).collect()
    }
}

/// Every address but those that no peer has.
fn is_all(intervals: &[Interval]) -> bool {
    filled(intervals, &NO_PEER) == [(0, u128::MAX)]
}

/// The intervals with those `holes` that they touch, which hold nothing. NAT64's are filled
/// together, and only where all around them is held: a part of them means IPv4.
fn filled(intervals: &[Interval], holes: &[Interval]) -> Vec<Interval> {
    let is_filled = |hole: &&Interval| {
        if NAT64.contains(hole) {
            return is_around_nat64(intervals);
        }
        intervals.iter().any(|&(first, last)| {
            // `::1` is an address, not the network `::/127`.
            let follows = hole.1.checked_add(1) == Some(first) && first < last;
            follows || last.checked_add(1) == Some(hole.0)
        })
    };
    let parts = intervals.iter().chain(holes.iter().filter(is_filled));
    joined(parts.copied().collect())
}

/// All of NAT64's network that it does not translate is held, and what lies before the
/// network or behind it.
fn is_around_nat64(intervals: &[Interval]) -> bool {
    let [low, high] = NAT64;
    let first = low.0 - (1 << 24);
    let holds_all = |around| without(&without(&[around], &NAT64), intervals).is_empty();
    holds_all((first - 1, high.1)) || holds_all((first, high.1 + 1))
}

/// The networks and ranges of the intervals, IPv4 first.
fn networks(intervals: &[Interval]) -> Vec<String> {
    const V4: [Interval; 1] = [(V4_FIRST, V4_LAST)];
    let [unspecified_v6, unspecified_v4, nat64 @ ..] = NO_PEER;
    let v6_holes = [&[unspecified_v6], &nat64[..]].concat();
    let v4 = filled(&common(intervals, &V4), &[unspecified_v4]);
    let v6 = filled(&without(intervals, &V4), &v6_holes);
    // An IPv6 network around the IPv4-mapped addresses does not hold them.
    let around = v6.iter().any(|interval| interval.1 == V4_FIRST - 1)
        && v6.iter().any(|interval| interval.0 == V4_LAST + 1);
    let v6 = if around {
        joined([&v6[..], &V4].concat())
    } else {
        v6
    };
    v4.into_iter()
        .map(|interval| network(interval, 96))
        .chain(v6.into_iter().map(|interval| network(interval, 0)))
        .collect()
}

/// An address, a CIDR or a range; `family_len` leading bits are the family's.
fn network((first, last): Interval, family_len: u32) -> String {
    let address = |addr: u128| value::address(addr.to_be_bytes());
    let differing = first ^ last;
    let is_network = differing & differing.wrapping_add(1) == 0 && first & differing == 0;
    let prefix_len = differing.leading_zeros();
    if first == last {
        address(first).to_string()
    } else if is_network && prefix_len >= family_len {
        format!("{}/{}", address(first), prefix_len - family_len)
    } else {
        format!("{}-{}", address(first), address(last))
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::analysis::peer_set::*;

    fn v4(addr: [u8; 4]) -> u128 {
        u128::from_be_bytes(port_monitor_common::addr::v4_mapped(addr))
    }

    fn elsewhere(of: &[Interval]) -> Vec<Interval> {
        without(&without(of, &LOOPBACK), &NO_PEER)
    }

    fn words(elsewhere_of: &[Interval], this_host: &[Interval]) -> String {
        PeerSet::new(elsewhere(elsewhere_of), without(this_host, &NO_PEER)).to_string()
    }

    #[test]
    fn sets_are_told_as_rules_name_them() {
        let ten = [(v4([10, 0, 0, 0]), v4([10, 255, 255, 255]))];
        let all_v4 = [(V4_FIRST, V4_LAST)];
        let all_v6 = [(0, V4_FIRST - 1), (V4_LAST + 1, u128::MAX)];
        assert_eq!(words(&ALL, &ALL), "any");
        assert_eq!(words(&[], &ALL), "self");
        assert_eq!(words(&ALL, &[]), "any but self");
        assert_eq!(words(&ten, &ten), "10.0.0.0/8");
        assert_eq!(words(&ten, &[]), "10.0.0.0/8 but self");
        assert_eq!(words(&[], &ten), "self at 10.0.0.0/8");
        assert_eq!(words(&all_v4, &all_v4), "0.0.0.0/0");
        assert_eq!(words(&all_v6, &all_v6), "::/0");
        assert_eq!(words(&LOOPBACK, &LOOPBACK), "127.0.0.0/8, ::1");
        let remote = without(&ALL, &LOOPBACK);
        assert_eq!(words(&remote, &remote), "any but loopback");
        let rest = without(&ALL, &ten);
        assert_eq!(words(&rest, &rest), "any outside 10.0.0.0/8");
        assert_eq!(words(&[], &rest), "self outside 10.0.0.0/8");
        let nat64 = |low: u128| 0x0064_ff9b << 96 | low;
        let kept = [0, 0x7f00_0000].map(|low| (nat64(low), nat64(low | 0xff_ffff)));
        let names = ["64:ff9b::/104", "64:ff9b::7f00:0/104"];
        assert_eq!(words(&kept, &kept), names.join(", "));
        for (kept, name) in kept.into_iter().zip(names) {
            assert_eq!(words(&[kept], &[kept]), name);
            let rest = without(&ALL, &[kept]);
            assert_eq!(words(&rest, &rest), format!("any outside {name}"));
        }
        for (len, name) in [(95, "64:ff9b::/95"), (32, "64:ff9b::/32"), (16, "64::/16")] {
            let hosts = u128::MAX >> len;
            let around = [(nat64(0) & !hosts, nat64(0) | hosts)];
            assert_eq!(words(&around, &around), name);
        }
        let three = [(v4([10, 0, 0, 1]), v4([10, 0, 0, 3]))];
        assert_eq!(words(&three, &three), "10.0.0.1-10.0.0.3");
    }

    #[test]
    fn example_is_of_the_set_and_of_documentation_where_it_can_be() {
        let one = v4([10, 0, 0, 7]);
        for (set, example) in [
            (PeerSet::new(elsewhere(&ALL), vec![]), "192.0.2.1"),
            (PeerSet::new(vec![], without(&ALL, &NO_PEER)), "192.0.2.1"),
            (PeerSet::new(vec![], LOOPBACK.to_vec()), "127.0.0.1"),
            (PeerSet::new(vec![(one, one)], vec![]), "10.0.0.7"),
            (PeerSet::new(vec![(one, one + 8)], vec![]), "10.0.0.8"),
        ] {
            let place = set.example();
            assert_eq!(value::address(place.addr).to_string(), example);
            assert!(set.contains(place));
        }
    }
}
