//! Cuts what one rule accepts, or two rules both accept, into cells, within which
//! every other rule matches all or nothing, and joins the cells that the same rules
//! match.

use std::collections::{BTreeSet, HashMap, HashSet};

use port_monitor_common::{
    addr::v4_mapped,
    policy::{Accepts, MAX_RULES, Network, OwnerCondition, Peer, Rule, Rules},
};

use crate::base::order;

const WORDS: usize = MAX_RULES / 64;

/// A set of rules, by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RuleSet([u64; WORDS]);

impl RuleSet {
    pub(crate) fn set(&mut self, rule: usize, member: bool) {
        if let Some(word) = self.0.get_mut(rule / 64) {
            let bit = 1 << (rule % 64);
            *word = if member { *word | bit } else { *word & !bit };
        }
    }

    /// The members for which `keep` holds.
    pub(crate) fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut kept = *self;
        for rule in self.iter().filter(|&rule| !keep(rule)) {
            kept.set(rule, false);
        }
        kept
    }

    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        (0..).zip(self.0).flat_map(|(index, word)| {
            let without_lowest = |bits: &u64| Some(bits & (bits - 1)).filter(|&bits| bits != 0);
            std::iter::successors(Some(word).filter(|&word| word != 0), without_lowest)
                .map(move |bits| index * 64 + bits.trailing_zeros() as usize)
        })
    }
}

/// A representative of a cell, and the rules that match in it.
pub(crate) type CellOf<T> = (T, RuleSet);

/// A peer's address, and whether it is this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) addr: [u8; 16],
    pub(crate) is_self: bool,
}

/// The uids `rule` accepts; `None` is one that no rule names.
pub(crate) fn uids(rules: &Rules<'_>, rule: &Rule, others: &RuleSet) -> Vec<CellOf<Option<u32>>> {
    let named = |rule: &Rule| rule.owner(OwnerCondition::User).of(rules.owners);
    let uids: BTreeSet<Option<u32>> = match named(rule) {
        Some(uids) => uids.iter().copied().map(Some).collect(),
        None => members(rules, others)
            .filter_map(|(_, other)| named(other))
            .flatten()
            .copied()
            .map(Some)
            .chain([None])
            .collect(),
    };
    let cells = uids.into_iter().map(|uid| {
        let matching = others.filtered(|index| {
            rules.rules.get(index).is_some_and(|other| {
                named(other).is_none_or(|uids| uid.is_some_and(|uid| uids.contains(&uid)))
            })
        });
        (uid, matching)
    });
    distinct(cells.collect())
}

/// The ports `rule` accepts.
pub(crate) fn ports(rules: &Rules<'_>, rule: &Rule, others: &RuleSet) -> Vec<CellOf<u32>> {
    let mut sweep = Sweep::over(port_intervals(rules, rule));
    for (index, other) in members(rules, others) {
        sweep.add(index, port_intervals(rules, other));
    }
    let cells = sweep.cells().into_iter();
    distinct(
        cells
            .filter_map(|(port, matching)| Some((u32::try_from(port).ok()?, matching)))
            .collect(),
    )
}

/// The peers `rule` accepts.
pub(crate) fn peers(rules: &Rules<'_>, rule: &Rule, others: &RuleSet) -> Vec<CellOf<Place>> {
    let mut cells = Vec::new();
    for is_self in [false, true] {
        let intervals = |accepts: Accepts| peer_intervals(accepts.of(rules.peers), is_self);
        let mut sweep = Sweep::over(intervals(rule.peers));
        sweep.exclude(&NO_PEER);
        if !is_self {
            sweep.exclude(&LOOPBACK);
        }
        for (index, other) in members(rules, others) {
            sweep.add(index, intervals(other.peers));
        }
        cells.extend(sweep.cells().into_iter().map(|(addr, matching)| {
            let addr = addr.to_be_bytes();
            (Place { addr, is_self }, matching)
        }));
    }
    distinct(cells)
}

/// The ports both rules of `pair` accept, by the `others` that match there.
pub(crate) fn common_ports(
    rules: &Rules<'_>,
    pair: [&Rule; 2],
    others: &RuleSet,
) -> Vec<(Vec<Interval>, RuleSet)> {
    let [a, b] = pair.map(|rule| port_intervals(rules, rule));
    let mut sweep = Sweep::over(common(&a, &b));
    for (index, other) in members(rules, others) {
        sweep.add(index, port_intervals(rules, other));
    }
    grouped(sweep.stretches())
        .into_iter()
        .map(|(ports, matching)| (joined(ports), matching))
        .collect()
}

/// The addresses, of peers on this host or elsewhere, that both rules of `pair`
/// accept and none of `others`.
pub(crate) fn free_peers(
    rules: &Rules<'_>,
    pair: [&Rule; 2],
    others: &RuleSet,
    is_self: bool,
) -> Vec<Interval> {
    let intervals = |rule: &Rule| peer_intervals(rule.peers.of(rules.peers), is_self);
    let [a, b] = pair.map(intervals);
    let mut sweep = Sweep::over(common(&a, &b));
    sweep.exclude(&NO_PEER);
    if !is_self {
        sweep.exclude(&LOOPBACK);
    }
    for (index, other) in members(rules, others) {
        sweep.add(index, intervals(other));
    }
    let mut free = Vec::new();
    sweep.walk(|interval, matching| {
        if matching.is_empty() {
            free.push(interval);
        }
    });
    joined(free)
}

/// The values of cells that the same rules match, together.
pub(crate) fn grouped<T>(cells: Vec<CellOf<T>>) -> Vec<(Vec<T>, RuleSet)> {
    let mut groups: Vec<(Vec<T>, RuleSet)> = Vec::new();
    let mut places = HashMap::new();
    for (value, matching) in cells {
        let place = *places.entry(matching).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((values, _)) => values.push(value),
            None => groups.push((vec![value], matching)),
        }
    }
    groups
}

/// Sorts intervals and joins those that touch.
pub(crate) fn joined(mut intervals: Vec<Interval>) -> Vec<Interval> {
    // Whatever is made of lists is in order in parts, which a stable sort finds.
    intervals.sort_by_key(|interval| *interval);
    intervals.dedup_by(|next, kept| {
        let touch = next.0 <= kept.1.saturating_add(1);
        if touch {
            kept.1 = kept.1.max(next.1);
        }
        touch
    });
    intervals
}

/// What lies in both.
pub(crate) fn common(a: &[Interval], b: &[Interval]) -> Vec<Interval> {
    let (a, b) = (joined(a.to_vec()), joined(b.to_vec()));
    let (mut at_a, mut at_b) = (0, 0);
    let mut found = Vec::new();
    while let (Some(in_a), Some(in_b)) = (a.get(at_a), b.get(at_b)) {
        let part = (in_a.0.max(in_b.0), in_a.1.min(in_b.1));
        if part.0 <= part.1 {
            found.push(part);
        }
        // What ends first meets nothing more.
        if in_a.1 < in_b.1 {
            at_a += 1;
        } else {
            at_b += 1;
        }
    }
    found
}

/// What lies in `a` and not in `b`.
pub(crate) fn without(a: &[Interval], b: &[Interval]) -> Vec<Interval> {
    let mut sweep = Sweep::over(a.to_vec());
    sweep.exclude(b);
    let mut left = Vec::new();
    sweep.walk(|interval, _| left.push(interval));
    joined(left)
}

/// Some connection may have a peer that `peers` accepts.
pub(crate) fn some_peer(peers: Option<&[Peer]>) -> bool {
    let is_peer = |interval: &Interval| {
        let lies_in = |hole: &Interval| hole.0 <= interval.0 && interval.1 <= hole.1;
        !NO_PEER.iter().any(lies_in)
    };
    peer_intervals(peers, true).iter().any(is_peer)
}

fn port_intervals(rules: &Rules<'_>, rule: &Rule) -> Vec<Interval> {
    match rule.ports.of(rules.ports) {
        None => {
            let transports = rules.transports(rule.direction).iter();
            transports
                .map(|transport| transport.ports())
                .map(|range| (range.first.into(), range.last.into()))
                .collect()
        }
        Some(ranges) => ranges
            .iter()
            .map(|range| (range.first.into(), range.last.into()))
            .collect(),
    }
}

/// Loopback addresses always are this host's.
pub(crate) const LOOPBACK: [Interval; 2] = [
    (1, 1),
    (
        u128::from_be_bytes(v4_mapped([127, 0, 0, 0])),
        u128::from_be_bytes(v4_mapped([127, 255, 255, 255])),
    ),
];

/// Never a peer: a connection to the unspecified address reaches loopback, and one
/// through NAT64 an address of IPv4.
pub(crate) const NO_PEER: [Interval; 4] = [(0, 0), (V4_FIRST, V4_FIRST), NAT64[0], NAT64[1]];

/// The addresses of NAT64 that are judged as the IPv4 address they lead to: all but those
/// for 0.0.0.0/8 and 127.0.0.0/8.
pub(crate) const NAT64: [Interval; 2] = {
    const FIRST: u128 = 0x0064_ff9b << 96;
    [
        (FIRST | 1 << 24, FIRST | 126 << 24 | 0xff_ffff),
        (FIRST | 128 << 24, FIRST | 0xffff_ffff),
    ]
};

pub(crate) const V4_FIRST: u128 = u128::from_be_bytes(v4_mapped([0; 4]));
pub(crate) const V4_LAST: u128 = u128::from_be_bytes(v4_mapped([255; 4]));

/// The addresses of peers that are accepted, on this host or elsewhere.
pub(crate) fn peer_intervals(peers: Option<&[Peer]>, is_self: bool) -> Vec<Interval> {
    let Some(peers) = peers else {
        return vec![(0, u128::MAX)];
    };
    let mut intervals = Vec::new();
    for peer in peers {
        match peer {
            Peer::ThisHost if is_self => intervals.push((0, u128::MAX)),
            Peer::ThisHost => {}
            Peer::Network(network) => intervals.extend(network_intervals(network)),
        }
    }
    intervals
}

/// An IPv6 network may lie around the IPv4-mapped addresses, which it does not
/// hold.
fn network_intervals(network: &Network) -> impl Iterator<Item = Interval> {
    let first = u128::from_be_bytes(network.first());
    let last = u128::from_be_bytes(network.last());
    let split = !network.is_v4() && first <= V4_FIRST && V4_LAST <= last;
    let parts = if split {
        [(first, V4_FIRST - 1), (V4_LAST.saturating_add(1), last)]
    } else {
        // The second part is empty.
        [(first, last), (1, 0)]
    };
    parts.into_iter().filter(|(first, last)| first <= last)
}

/// First and last, both included.
pub(crate) type Interval = (u128, u128);

/// Walks a number line and tells who covers which stretch of it.
struct Sweep {
    /// Where, who, and whether it begins or ends to cover.
    borders: Vec<(u128, usize, bool)>,
}

/// The rule whose cells are wanted.
const SELF: usize = MAX_RULES;
/// What does not exist.
const HOLE: usize = MAX_RULES + 1;

impl Sweep {
    fn over(intervals: Vec<Interval>) -> Self {
        let mut sweep = Self {
            borders: Vec::new(),
        };
        sweep.add(SELF, intervals);
        sweep
    }

    fn exclude(&mut self, intervals: &[Interval]) {
        self.add(HOLE, intervals.to_vec());
    }

    fn add(&mut self, who: usize, intervals: Vec<Interval>) {
        for (first, last) in intervals {
            self.borders.push((first, who, true));
            // Nothing comes after the highest number.
            if let Some(end) = last.checked_add(1) {
                self.borders.push((end, who, false));
            }
        }
    }

    /// The first number of each set of rules.
    fn cells(self) -> Vec<CellOf<u128>> {
        let mut cells = Vec::new();
        let mut seen = HashSet::new();
        self.walk(|(first, _), covering| {
            let is_as_before = cells.last().is_some_and(|(_, last)| last == covering);
            if !is_as_before && seen.insert(*covering) {
                cells.push((first, *covering));
            }
        });
        cells
    }

    fn stretches(self) -> Vec<CellOf<Interval>> {
        let mut stretches = Vec::new();
        self.walk(|interval, covering| stretches.push((interval, *covering)));
        stretches
    }

    /// Tells `each` stretch and who else covers it.
    fn walk(mut self, mut each: impl FnMut(Interval, &RuleSet)) {
        // Those of each rule are in order mostly, which a stable sort finds.
        self.borders.sort_by_key(|border| *border);
        // Intervals of one rule may overlap, so they are counted.
        let mut depth = [0_i32; MAX_RULES + 2];
        let mut covering = RuleSet::default();
        let mut borders = self.borders.chunk_by(|a, b| a.0 == b.0).peekable();
        while let Some(border) = borders.next() {
            for &(_, who, begins) in border {
                if let Some(depth) = depth.get_mut(who) {
                    *depth += if begins { 1 } else { -1 };
                    covering.set(who, *depth > 0);
                }
            }
            let [.., own, hole] = depth;
            if let (Some(&(first, ..)), true) = (border.first(), own > 0 && hole == 0) {
                let next = borders.peek().and_then(|next| next.first());
                let last = next.map_or(u128::MAX, |&(next, ..)| next - 1);
                each((first, last), &covering);
            }
        }
    }
}

fn members<'a>(rules: &Rules<'a>, set: &RuleSet) -> impl Iterator<Item = (usize, &'a Rule)> {
    let all = rules.rules;
    set.iter()
        .filter_map(|index| Some((index, all.get(index)?)))
}

/// One cell for each set of rules, those with the fewest rules first: there the
/// search ends soonest.
fn distinct<T>(mut cells: Vec<CellOf<T>>) -> Vec<CellOf<T>> {
    let mut seen = HashSet::new();
    cells.retain(|(_, matching)| seen.insert(*matching));
    order::sort_by_key(&mut cells, |(_, matching)| matching.len());
    cells
}
