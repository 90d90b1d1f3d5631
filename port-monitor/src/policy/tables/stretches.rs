//! The networks of a policy as the kernel's tables have them: what lies between two
//! addresses at which the rules change, for each family.

use port_monitor_common::pages::{LEAF, Page, PageV4, PageV6};

use crate::policy::analysis::cells::{V4_FIRST, V4_LAST};

/// A network of IPv6, or of IPv4 in its IPv4-mapped form.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "a prefix length is called so")]
pub(crate) struct Prefix {
    pub(crate) first: u128,
    pub(crate) prefix_len: u32,
    /// The mask of what is in no longer prefix.
    pub(crate) mask: u32,
}

impl Prefix {
    fn last(&self) -> u128 {
        self.first | u128::MAX.checked_shr(self.prefix_len).unwrap_or(0)
    }
}

/// The pages of both families; none where every address has the same mask.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Of IPv4.
    pub v4: Vec<PageV4>,
    /// Of IPv6.
    pub v6: Vec<PageV6>,
}

/// Where a stretch begins, and its mask.
type Stretch = (u128, u16);

impl Networks {
    /// Of these prefixes, each of which has the mask of its own addresses; `other` is that
    /// of those in none.
    pub(crate) fn of(prefixes: Vec<Prefix>, other: u32) -> Self {
        let [v4, v6] = by_family(&stretches(prefixes, other));
        let is_one =
            |stretches: &[Stretch]| matches!(stretches, [(_, mask)] if *mask == number(other));
        if is_one(&v4) && is_one(&v6) {
            return Self::default();
        }
        Self {
            v4: pages(&v4, |addr| {
                let [.., a, b, c, d] = addr.to_be_bytes();
                u32::from_be_bytes([a, b, c, d])
            }),
            v6: pages(&v6, |addr| {
                let halves: [[u8; 8]; 2] = zerocopy::transmute!(addr.to_be_bytes());
                halves.map(u64::from_be_bytes)
            }),
        }
    }
}

/// A mask's number, cut where it has more than 16 bits: of so many masks none gets into
/// the kernel.
fn number(mask: u32) -> u16 {
    u16::try_from(mask & 0xffff).unwrap_or_default()
}

/// All addresses, from the first on.
fn stretches(mut prefixes: Vec<Prefix>, other: u32) -> Vec<Stretch> {
    // What lies in another comes after it.
    prefixes.sort_unstable_by_key(|prefix| (prefix.first, prefix.prefix_len));
    let mut stretches = vec![(0, number(other))];
    let mut begin = |first: u128, mask: u32| match stretches.last_mut() {
        Some((begun, last)) if *begun == first => *last = number(mask),
        _ => stretches.push((first, number(mask))),
    };
    // Those that hold what comes next, and where each ends.
    let mut open: Vec<(u128, u32)> = Vec::new();
    for next in prefixes.iter().map(Some).chain([None]) {
        let ends = |(last, _): &mut (u128, u32)| next.is_none_or(|next| *last < next.first);
        while let Some((last, _)) = open.pop_if(ends) {
            // Nothing comes after the highest address.
            if let Some(after) = last.checked_add(1) {
                begin(after, open.last().map_or(other, |(_, mask)| *mask));
            }
        }
        if let Some(next) = next {
            begin(next.first, next.mask);
            open.push((next.last(), next.mask));
        }
    }
    stretches.dedup_by_key(|(_, mask)| *mask);
    stretches
}

/// The stretches of IPv4, and those of IPv6.
fn by_family(stretches: &[Stretch]) -> [Vec<Stretch>; 2] {
    // From this address on.
    let from = |addr: u128| {
        let begun = stretches.partition_point(|(first, _)| *first <= addr);
        let before = stretches.get(begun.saturating_sub(1));
        let mask = before.map_or(0, |(_, mask)| *mask);
        let rest = stretches.get(begun..).unwrap_or_default();
        [(addr, mask)].into_iter().chain(rest.iter().copied())
    };
    let v4 = from(V4_FIRST).take_while(|(first, _)| *first <= V4_LAST);
    let below = stretches.iter().copied();
    let below = below.take_while(|(first, _)| *first < V4_FIRST);
    let mut v6: Vec<Stretch> = below.chain(from(V4_LAST + 1)).collect();
    v6.dedup_by_key(|(_, mask)| *mask);
    [v4.collect(), v6]
}

/// A page that leads to the others, and these.
fn pages<P: Page>(stretches: &[Stretch], key: impl Fn(u128) -> P::Key) -> Vec<P> {
    let stretches: Vec<_> = stretches
        .iter()
        .map(|&(first, mask)| (key(first), mask))
        .collect();
    let leaves = stretches.chunks(LEAF);
    let firsts = leaves.clone().filter_map(|leaf| leaf.first());
    let root: Vec<_> = (1..)
        .zip(firsts)
        .map(|(n, &(first, _))| (first, n))
        .collect();
    [P::of(&root)]
        .into_iter()
        .chain(leaves.map(P::of))
        .collect()
}

#[cfg(test)]
impl Networks {
    /// The mask of an address by the tables; `None` where its family has no table.
    pub(crate) fn found(&self, addr: u128) -> Option<u32> {
        if (V4_FIRST..=V4_LAST).contains(&addr) {
            let v4 = u32::try_from(addr - V4_FIRST).ok()?;
            return port_monitor_common::pages::find(|n| self.v4.get(n as usize), v4);
        }
        let halves: [[u8; 8]; 2] = zerocopy::transmute!(addr.to_be_bytes());
        let halves = halves.map(u64::from_be_bytes);
        port_monitor_common::pages::find(|n| self.v6.get(n as usize), halves)
    }
}

#[cfg(test)]
#[path = "../../../tests/support/numbers.rs"]
mod numbers;

#[cfg(test)]
mod tests {
    use super::numbers::Numbers;
    use crate::policy::tables::stretches::*;

    const V4: u32 = 96;

    impl Numbers {
        /// One of both families, many of which lie within each other or side by side.
        fn prefix(&mut self, mask: u32) -> Prefix {
            let is_v4 = self.below(2) == 0;
            let shortest = if is_v4 { V4 } else { 0 };
            let prefix_len =
                shortest + u32::try_from(self.below(u64::from(129 - shortest))).unwrap();
            let addr = match self.below(3) {
                0 => u128::from(self.next()) << 64 | u128::from(self.next()),
                1 => 0x2001_0db8 << 96 | u128::from(self.below(1 << 12)),
                _ => u128::MAX - u128::from(self.below(1 << 12)),
            };
            let addr = if is_v4 {
                V4_FIRST | addr & u128::from(u32::MAX)
            } else {
                addr
            };
            let host_bits = u128::MAX.checked_shr(prefix_len).unwrap_or(0);
            Prefix {
                first: addr & !host_bits,
                prefix_len,
                mask,
            }
        }
    }

    /// The mask of the longest prefix that holds the address; those of IPv6 hold none of
    /// IPv4, for all of which there is a prefix.
    fn naive(prefixes: &[Prefix], other: u32, addr: u128) -> u32 {
        let holding = prefixes
            .iter()
            .filter(|prefix| prefix.first <= addr && addr <= prefix.last());
        holding
            .max_by_key(|prefix| prefix.prefix_len)
            .map_or(other, |prefix| prefix.mask)
    }

    #[test]
    fn the_longest_prefix_of_every_edge_is_found() {
        let mut numbers = Numbers::new();
        for count in [0, 1, 2, 10, 100, 1_500] {
            let all_v4 = Prefix {
                first: V4_FIRST,
                prefix_len: V4,
                mask: 2,
            };
            let mut prefixes = vec![all_v4];
            prefixes.extend((0..count).map(|n| numbers.prefix(3 + n % 50)));
            prefixes.sort_by_key(|prefix| (prefix.first, prefix.prefix_len));
            prefixes.dedup_by_key(|prefix| (prefix.first, prefix.prefix_len));
            let networks = Networks::of(prefixes.clone(), 1);
            let edges = prefixes.iter().flat_map(|prefix| {
                let (first, last) = (prefix.first, prefix.last());
                [first.saturating_sub(1), first, last, last.saturating_add(1)]
            });
            for addr in edges.chain([0, u128::MAX, V4_FIRST - 1, V4_LAST + 1]) {
                let expected = naive(&prefixes, 1, addr);
                assert_eq!(networks.found(addr), Some(expected), "{addr:#x} of {count}");
            }
        }
    }

    #[test]
    fn a_policy_that_names_no_network_needs_no_table() {
        let all_v4 = Prefix {
            first: V4_FIRST,
            prefix_len: V4,
            mask: 1,
        };
        assert_eq!(Networks::of(vec![all_v4], 1), Networks::default());
    }

    #[test]
    fn there_is_room_for_as_many_as_a_policy_may_name() {
        let most = port_monitor_common::generation::NETWORKS;
        // Apart from each other, so that every one makes two stretches.
        for (base, step) in [(V4_FIRST, 4), (1 << 125, 1 << 64)] {
            let prefixes = (0..most).map(|n| Prefix {
                first: base + u128::from(n) * step,
                prefix_len: 128,
                mask: 7,
            });
            let networks = Networks::of(prefixes.collect(), 1);
            for n in [0, 1, 2, 511, 512, most / 2, most - 2, most - 1] {
                let first = base + u128::from(n) * step;
                assert_eq!(networks.found(first), Some(7), "{n}");
                assert_eq!(networks.found(first + 1), Some(1), "{n}");
            }
        }
    }
}
