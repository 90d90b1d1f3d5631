//! The peers of rules as packets show them: a packet on its way through NAT64 carries the
//! IPv4 address it is judged by inside `64:ff9b::/96`.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use port_monitor_common::policy::Peer;

use crate::policy::analysis::cells::{Interval, V4_FIRST, V4_LAST, common, joined};

/// The addresses of one family, which no peer but those of the family has.
const ALL_V4: Interval = (V4_FIRST, V4_LAST);
const ALL_V6: Interval = (0, u128::MAX);

/// `64:ff9b::`, before the IPv4 address in it.
const NAT64: u128 = 0x0064_ff9b << 96;
/// What NAT64 translates, as `port_monitor_common::addr::canonical` does: no address of
/// `0.0.0.0/8` and `127.0.0.0/8`.
const TRANSLATED: [Interval; 2] = [
    (NAT64 + 0x0100_0000, NAT64 + 0x7eff_ffff),
    (NAT64 + 0x8000_0000, NAT64 + 0xffff_ffff),
];
/// All other addresses of IPv6.
const UNTRANSLATED: [Interval; 3] = [
    (0, NAT64 + 0x00ff_ffff),
    (NAT64 + 0x7f00_0000, NAT64 + 0x7fff_ffff),
    (NAT64 + 0x1_0000_0000, u128::MAX),
];

/// More ranges than this are a set with a name.
const INLINE: usize = 32;

/// The peers of one rule, by what a packet says.
#[derive(Debug)]
pub(crate) struct Peers {
    v4: Vec<Interval>,
    v6: Vec<Interval>,
    this_host: bool,
}

impl Peers {
    pub(crate) fn of(peers: &[Peer]) -> Self {
        let networks = |is_v4| {
            let of_family = peers.iter().filter_map(|peer| match peer {
                Peer::Network(network) if network.is_v4() == is_v4 => {
                    let ends = [network.first(), network.last()];
                    let [first, last] = ends.map(u128::from_be_bytes);
                    Some((first, last))
                }
                Peer::Network(_) | Peer::ThisHost => None,
            });
            joined(of_family.collect())
        };
        let v4 = networks(true);
        let through_nat64 = |&(first, last): &Interval| {
            let inside = |addr| NAT64 + (addr - V4_FIRST);
            (inside(first), inside(last))
        };
        let translated: Vec<Interval> = v4.iter().map(through_nat64).collect();
        let mut v6 = common(&networks(false), &UNTRANSLATED);
        v6.extend(common(&translated, &TRANSLATED));
        Self {
            v4,
            v6: joined(v6),
            this_host: peers.contains(&Peer::ThisHost),
        }
    }

    #[cfg(test)]
    pub(crate) fn families(self) -> [Vec<Interval>; 2] {
        [self.v4, self.v6]
    }

    /// Some peer may be of both.
    pub(crate) fn meet(&self, other: &Self) -> bool {
        self.this_host
            || other.this_host
            || overlap(&self.v4, &other.v4)
            || overlap(&self.v6, &other.v6)
    }

    /// One of the intervals lies in it, partly at least.
    pub(crate) fn touches(&self, intervals: &[Interval]) -> bool {
        self.this_host || overlap(&self.v4, intervals) || overlap(&self.v6, intervals)
    }

    /// Any of these conditions must hold; `None` holds always. `side` is the address of
    /// the peer, as nftables calls it.
    fn conditions(&self, side: &str, sets: &mut Sets) -> AnyOf {
        if self.v4 == [ALL_V4] && self.v6 == [ALL_V6] {
            return vec![None];
        }
        let families = [(Family::V4, &self.v4), (Family::V6, &self.v6)];
        let mut conditions: Vec<_> = families
            .into_iter()
            .filter(|(_, intervals)| !intervals.is_empty())
            .map(|(family, intervals)| Some(condition(family, side, intervals, sets)))
            .collect();
        if self.this_host {
            conditions.push(Some(format!("fib {side} type local")));
        }
        conditions
    }
}

/// The intervals, sorted and apart, have an address in common.
fn overlap(mut a: &[Interval], mut b: &[Interval]) -> bool {
    while let ([first, later @ ..], [other, others @ ..]) = (a, b) {
        if first.1 < other.0 {
            a = later;
        } else if other.1 < first.0 {
            b = others;
        } else {
            return true;
        }
    }
    false
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// As `meta nfproto`, in front of an address, as the type of a set, and before the
    /// number of a set.
    const fn words(self) -> [&'static str; 4] {
        match self {
            Self::V4 => ["ipv4", "ip", "ipv4_addr", "v4"],
            Self::V6 => ["ipv6", "ip6", "ipv6_addr", "v6"],
        }
    }

    const fn all(self) -> Interval {
        match self {
            Self::V4 => ALL_V4,
            Self::V6 => ALL_V6,
        }
    }

    /// An address, a network or a range.
    fn entry(self, (first, last): Interval) -> String {
        let address = |addr: u128| match self {
            // The mapped address ends in the IPv4 one.
            Self::V4 => Ipv4Addr::from_bits((addr & 0xffff_ffff) as u32).to_string(),
            Self::V6 => Ipv6Addr::from_bits(addr).to_string(),
        };
        let differing = first ^ last;
        let is_network = differing & differing.wrapping_add(1) == 0 && first & differing == 0;
        let (lowest, highest) = self.all();
        let family_len = (lowest ^ highest).leading_zeros();
        if first == last {
            address(first)
        } else if is_network {
            let prefix_len = differing.leading_zeros() - family_len;
            format!("{}/{prefix_len}", address(first))
        } else {
            format!("{}-{}", address(first), address(last))
        }
    }
}

/// The peer is of this family and in one of the intervals. What they lack is named
/// instead, where that is less.
fn condition(family: Family, side: &str, intervals: &[Interval], sets: &mut Sets) -> String {
    let [proto, header, ..] = family.words();
    let lacking = lacking(family.all(), intervals);
    if lacking.is_empty() {
        format!("meta nfproto {proto}")
    } else if lacking.len() < intervals.len() {
        format!("{header} {side} != {}", sets.name(family, &lacking))
    } else {
        format!("{header} {side} {}", sets.name(family, intervals))
    }
}

/// What the intervals, sorted and apart, leave of `all`.
fn lacking(all: Interval, intervals: &[Interval]) -> Vec<Interval> {
    let mut next = Some(all.0);
    let mut lacking = Vec::new();
    for &(first, last) in intervals {
        lacking.extend(
            next.filter(|&next| next < first)
                .map(|next| (next, first - 1)),
        );
        next = last.checked_add(1);
    }
    lacking.extend(next.filter(|&next| next <= all.1).map(|next| (next, all.1)));
    lacking
}

/// Conditions of which any must hold; `None` holds always.
pub(crate) type AnyOf = Vec<Option<String>>;

/// Where the peers of a rule lie in the list of all: start and length. Rules that name the
/// same list have the same place.
pub(crate) type ListPlace = (u32, u32);

/// The sets that have names, each for all rules that ask for the same.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    known: HashMap<(ListPlace, &'static str), AnyOf>,
    numbers: HashMap<(Family, Rc<[Interval]>), usize>,
    /// By number.
    named: Vec<(Family, Rc<[Interval]>)>,
}

impl Sets {
    /// What must hold of a peer for a rule with these; `side` is its address, as nftables
    /// calls it.
    pub(crate) fn conditions(
        &mut self,
        place: ListPlace,
        peers: &Peers,
        side: &'static str,
    ) -> AnyOf {
        if let Some(conditions) = self.known.get(&(place, side)) {
            return conditions.clone();
        }
        let conditions = peers.conditions(side, self);
        self.known.insert((place, side), conditions.clone());
        conditions
    }

    /// What stands for the intervals in a rule.
    fn name(&mut self, family: Family, intervals: &[Interval]) -> String {
        if intervals.len() <= INLINE {
            let entries = intervals.iter().map(|&interval| family.entry(interval));
            return super::set(entries);
        }
        let set = (family, Rc::from(intervals));
        let named = &mut self.named;
        let number = *self
            .numbers
            .entry(set)
            .or_insert_with_key(|(_, intervals)| {
                named.push((family, Rc::clone(intervals)));
                named.len() - 1
            });
        format!("@{}", set_name(family, number))
    }

    /// The sets as a table holds them.
    pub(crate) fn write(&self, text: &mut String) {
        for (number, (family, intervals)) in self.named.iter().enumerate() {
            let [_, _, kind, _] = family.words();
            let name = set_name(*family, number);
            // Writing to a string does not fail.
            _ = writeln!(
                text,
                "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\telements = {{"
            );
            for &interval in intervals.iter() {
                _ = writeln!(text, "\t\t\t{},", family.entry(interval));
            }
            text.push_str("\t\t}\n\t}\n\n");
        }
    }
}

fn set_name(family: Family, number: usize) -> String {
    let [.., prefix] = family.words();
    format!("{prefix}_{}", number + 1)
}

#[cfg(test)]
mod tests {
    use port_monitor_common::{addr::v4_mapped, policy::Network};

    use crate::policy::export::nft::peers::*;

    #[test]
    fn long_list_is_written_once_at_a_line_for_each_entry() {
        const COUNT: u32 = 300_000;
        let network = |index: u32| {
            let first = v4_mapped((0x0b00_0000 + index * 512).to_be_bytes());
            Peer::Network(Network::new(first, 120).unwrap())
        };
        let list: Vec<Peer> = (0..COUNT).rev().map(network).collect();
        let mut sets = Sets::default();
        for start in 0..2 {
            let conditions = sets.conditions((start, COUNT), &Peers::of(&list), "daddr");
            assert_eq!(
                conditions,
                ["ip daddr @v4_1", "ip6 daddr @v6_2"].map(|text| Some(text.to_owned()))
            );
        }
        let mut text = String::new();
        sets.write(&mut text);
        // Of both families.
        assert_eq!(text.matches("/24,\n").count(), COUNT as usize);
        assert_eq!(text.matches("/120,\n").count(), COUNT as usize);
    }

    #[test]
    fn lists_meet_where_they_have_an_address_in_common() {
        let v4 = |addr, len: u8| Peer::Network(Network::new(v4_mapped(addr), 96 + len).unwrap());
        let v6 = |len| Peer::Network(Network::new([0x20; 16], len).unwrap());
        let meet = |a: &[Peer], b: &[Peer]| Peers::of(a).meet(&Peers::of(b));
        assert!(meet(&[v4([1; 4], 32), v4([10; 4], 8)], &[v4([10; 4], 32)]));
        assert!(!meet(
            &[v4([1; 4], 32), v4([10; 4], 8)],
            &[v4([11; 4], 32), v6(3)]
        ));
        assert!(meet(&[v6(128)], &[v4([11; 4], 32), v6(3)]));
        assert!(meet(&[v6(128)], &[Peer::ThisHost]));
    }
}
