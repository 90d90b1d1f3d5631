//! Sorted tables in pages, and the search in them.
//!
//! A table cuts a number line into stretches, each with a value: addresses with the mask
//! of their networks, or time with the masks of the rules that have not ended. A search
//! takes as many steps in a table of one stretch as in one of a million, and no branch
//! depends on what it finds: to a verifier each would be another way through all that
//! follows. So what is counted is a sign, and nothing that a compiler would turn over: the
//! keys that are above what is searched for, and the last stretch comes first.

use core::hint::black_box;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

/// Stretches of one page but its first: where they begin.
pub const KEYS: usize = 1_024;
/// Room for the values of a page: one more than there are keys, in whole words.
const VALUES: usize = KEYS + 4;
/// Stretches of one leaf.
pub const LEAF: usize = KEYS;
/// Leaves of one table: the first page leads to them.
pub const LEAVES: usize = KEYS + 1;

/// A page of the table of IPv4 addresses. Where the last stretch begins comes first, and
/// zero, which is above nothing, where there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PageV4 {
    keys: [u32; KEYS],
    values: [u16; VALUES],
}

/// A page of the table of IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PageV6 {
    /// The upper halves of the keys.
    high: [u64; KEYS],
    /// Their lower halves.
    low: [u64; KEYS],
    values: [u16; VALUES],
}

/// The points in time at which rules of a policy end, and which rules there are between
/// two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Ends {
    keys: [u64; KEYS],
    values: [u64; KEYS + 1],
}

/// Where to search a page.
pub trait Page: Sized {
    /// What is searched for.
    type Key: Copy;

    /// The value of the stretch that holds `key`: of the first page, which has [`LEAVES`]
    /// of them, the number of a leaf.
    fn find(&self, key: Self::Key) -> u32;

    /// A page of these stretches, in order: where each begins, and its value. Where the
    /// first begins does not matter; those beyond the last for which there is room are
    /// left out.
    fn of(stretches: &[(Self::Key, u16)]) -> Self;
}

/// The value of the stretch that holds `key`, in a table of pages by number.
#[inline(always)]
pub fn find<'p, P: Page + 'p>(page: impl Fn(u32) -> Option<&'p P>, key: P::Key) -> Option<u32> {
    let leaf = page(0)?.find(key);
    Some(page(leaf)?.find(key))
}

/// How many keys of a page are above what is searched for: `is_above` is 1 for each of
/// them, else 0.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "at most `KEYS`")]
fn above(is_above: impl Fn(usize) -> u64) -> usize {
    // A compiler that knew it would join bits by `|` in place of `+`, and leave out the
    // remainder: verifiers before Linux 6.8 know nothing of such a number.
    let mut above = black_box(0_u64);
    for bit in (0..KEYS.ilog2()).rev() {
        let at = (above as usize + (1 << bit) - 1) % KEYS;
        above += is_above(at) << bit;
    }
    // The last key, where all others are above.
    let above = above as usize % KEYS;
    above + is_above(above) as usize
}

/// 1 where `a` is less than `b`, or as much where `borrow` is 1; else 0.
#[inline(always)]
const fn borrow(a: u64, b: u64, borrow: u64) -> u64 {
    let difference = a.wrapping_sub(b).wrapping_sub(borrow);
    ((!a & b) | ((!a | b) & difference)) >> 63
}

/// Writes the keys and values of a page, the last stretch first.
fn fill<K: Copy, V: Copy>(
    stretches: &[(K, V)],
    mut set_key: impl FnMut(usize, K),
    values: &mut [V],
) {
    let stretches = stretches.get(..=KEYS).unwrap_or(stretches);
    for (n, &(key, value)) in stretches.iter().rev().enumerate() {
        values[n] = value;
        // Whatever is below all keys is in the first.
        if n + 1 < stretches.len() {
            set_key(n, key);
        }
    }
}

impl PageV4 {
    #[inline(always)]
    fn is_above(&self, addr: u32) -> impl Fn(usize) -> u64 {
        // A compiler that knew that it has 32 bits would make a branch of it.
        let addr = black_box(u64::from(addr));
        // Below zero where the key is more: both are far below 2^63.
        move |n| addr.wrapping_sub(self.keys[n].into()) >> 63
    }
}

impl Page for PageV4 {
    type Key = u32;

    #[inline(always)]
    fn find(&self, addr: u32) -> u32 {
        self.values[above(self.is_above(addr))].into()
    }

    fn of(stretches: &[(u32, u16)]) -> Self {
        let mut page = Self::new_zeroed();
        fill(stretches, |n, key| page.keys[n] = key, &mut page.values);
        page
    }
}

impl PageV6 {
    #[inline(always)]
    fn is_above(&self, [high, low]: [u64; 2]) -> impl Fn(usize) -> u64 {
        move |n| borrow(high, self.high[n], borrow(low, self.low[n], 0))
    }
}

impl Page for PageV6 {
    /// The upper half and the lower one.
    type Key = [u64; 2];

    #[inline(always)]
    fn find(&self, addr: [u64; 2]) -> u32 {
        self.values[above(self.is_above(addr))].into()
    }

    fn of(stretches: &[([u64; 2], u16)]) -> Self {
        let mut page = Self::new_zeroed();
        let (high, low) = (&mut page.high, &mut page.low);
        fill(
            stretches,
            |n, key| [high[n], low[n]] = key,
            &mut page.values,
        );
        page
    }
}

impl Ends {
    /// Ends, in order, and the masks of the rules of each direction from then on, 16 bits
    /// for each; `first` are those before all of them. Of more than [`KEYS`] the first are
    /// left out.
    pub fn of(first: u64, ends: &[(u64, u64)]) -> Self {
        let mut page = Self::new_zeroed();
        for (n, &(end_ns, masks)) in ends.iter().rev().enumerate().take(KEYS) {
            page.keys[n] = end_ns;
            page.values[n] = masks;
        }
        if let Some(value) = page.values.get_mut(ends.len()) {
            *value = first;
        }
        page
    }

    /// The masks of the rules that have not ended at `now_ns`.
    #[inline(always)]
    pub fn find(&self, now_ns: u64) -> u64 {
        // Below zero before the end: times are far below 2^63.
        self.values[above(|n| now_ns.wrapping_sub(self.keys[n]) >> 63)]
    }

    /// The masks where no rule ends.
    #[inline(always)]
    pub const fn endless(&self) -> u64 {
        self.values[0]
    }

    /// Whether both are the same, but for clocks that were read at two moments: no end is
    /// further from the other's than `within_ns`.
    pub fn is_about(&self, other: &Self, within_ns: u64) -> bool {
        let ends = self.keys.iter().zip(&other.keys);
        self.values == other.values
            && ends
                .into_iter()
                .all(|(one, other)| one.abs_diff(*other) < within_ns)
    }
}

const _: () = {
    assert!(size_of::<PageV4>() == 6_152);
    assert!(size_of::<PageV6>() == 18_440);
    assert!(size_of::<Ends>() == 16_392);
};

#[cfg(test)]
#[path = "../../port-monitor/tests/support/numbers.rs"]
mod numbers;

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "halves of an address, and numbers of leaves"
)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::{numbers::Numbers, *};

    /// The value of the last stretch that begins at or before `key`.
    fn naive<K: PartialOrd + Copy>(stretches: &[(K, u16)], key: K) -> u32 {
        let begun = stretches.iter().rev().find(|(first, _)| *first <= key);
        begun.unwrap_or(&stretches[0]).1.into()
    }

    /// As many as `count`, the first of which begins at zero.
    fn stretches(count: usize, numbers: &mut Numbers) -> Vec<(u128, u16)> {
        let mut firsts: Vec<u128> = (1..count)
            .map(|_| match numbers.below(4) {
                0 => u128::from(numbers.below(4_096)),
                1 => u128::MAX - u128::from(numbers.below(4_096)),
                _ => u128::from(numbers.next()) << 64 | u128::from(numbers.below(9)),
            })
            .chain([0])
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        (0..).zip(firsts).map(|(n, first)| (first, n)).collect()
    }

    fn halves(addr: u128) -> [u64; 2] {
        [(addr >> 64) as u64, addr as u64]
    }

    #[test]
    fn every_edge_of_every_stretch_is_found() {
        let mut numbers = Numbers::new();
        for count in [1, 2, 3, 700, 1_023, LEAF] {
            let all = stretches(count, &mut numbers);
            let v6: Vec<_> = all.iter().map(|&(first, n)| (halves(first), n)).collect();
            let page = PageV6::of(&v6);
            let mut v4: Vec<_> = all
                .iter()
                .map(|&(first, n)| ((first >> 96) as u32, n))
                .collect();
            v4.dedup_by_key(|(first, _)| *first);
            let page_v4 = PageV4::of(&v4);
            let near = |first: u128| [first, first.wrapping_sub(1), first.wrapping_add(1)];
            for addr in all
                .iter()
                .flat_map(|&(first, _)| near(first))
                .chain([u128::MAX, 1 << 127])
            {
                assert_eq!(
                    page.find(halves(addr)),
                    naive(&all, addr),
                    "{addr:#x} of {count}"
                );
                let v4_addr = (addr >> 96) as u32;
                for v4_addr in [v4_addr, v4_addr.wrapping_sub(1), v4_addr.wrapping_add(1)] {
                    assert_eq!(page_v4.find(v4_addr), naive(&v4, v4_addr), "{v4_addr:#x}");
                }
            }
        }
    }

    #[test]
    fn the_first_page_leads_to_one_leaf_more_than_a_leaf_has_stretches() {
        let leaves: Vec<_> = (0..LEAVES).map(|n| (n as u32 * 10, n as u16)).collect();
        let root = PageV4::of(&leaves);
        for n in 0..LEAVES as u32 {
            assert_eq!(root.find(n * 10), n);
            assert_eq!(root.find(n * 10 + 9), n);
        }
        assert_eq!(root.find(u32::MAX), KEYS as u32);
        let leaves: Vec<_> = (0..LEAVES).map(|n| ([n as u64, 7], n as u16)).collect();
        let root = PageV6::of(&leaves);
        assert_eq!(root.find([0, 0]), 0);
        assert_eq!(root.find([1, 6]), 0);
        assert_eq!(root.find([1, 7]), 1);
        assert_eq!(root.find([u64::MAX; 2]), KEYS as u32);
    }

    #[test]
    fn rules_end_at_their_time_and_not_before() {
        let ends = Ends::of(7, &[(100, 8), (200, 9)]);
        let found = [0, 99, 100, 199, 200, 1 << 62].map(|now_ns| ends.find(now_ns));
        assert_eq!(found, [7, 7, 8, 8, 9, 9]);
        assert_eq!(Ends::of(7, &[]).find(1 << 62), 7);
        assert_eq!(Ends::of(7, &[]).endless(), 7);
    }

    #[test]
    fn every_rule_may_have_an_end_of_its_own() {
        let all: Vec<_> = (0..KEYS as u64).map(|n| (1 + n * 10, n)).collect();
        let ends = Ends::of(u64::MAX, &all);
        assert_eq!(ends.find(0), u64::MAX);
        for n in 0..KEYS as u64 {
            assert_eq!(ends.find(1 + n * 10), n);
            assert_eq!(ends.find(10 + n * 10), n);
        }
    }

    #[test]
    fn ends_that_only_the_clock_moved_are_the_same() {
        let ends = |end_ns| Ends::of(1, &[(end_ns, 2)]);
        assert!(ends(1_000).is_about(&ends(1_009), 10));
        assert!(!ends(1_000).is_about(&ends(1_010), 10));
        assert!(!ends(1_000).is_about(&Ends::of(1, &[(1_000, 3)]), 10));
    }
}
