//! The first rule that matches, found without looking at the rules one by one.
//!
//! For everything a rule may ask about there is a mask with a bit for each rule: set
//! where the rule accepts what the connection has there, or does not ask. A rule
//! matches where all masks have its bit, and the lowest such bit is the first
//! match. That is the same work for one rule and for [`MAX_RULES`].

use core::hint::black_box;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::policy::MAX_RULES;

/// The words of a [`Mask`].
pub const WORDS: usize = MAX_RULES.div_ceil(64);
/// The words of a part of a [`Mask`].
const PART: usize = 2;
/// The parts of a [`Mask`].
pub const PARTS: usize = WORDS / PART;
const _: () = assert!(PARTS * PART == WORDS);
// `Mask::filled` has a bit for each word.
const _: () = assert!(WORDS <= u64::BITS as usize);

/// A set of rules: bit `n % 64` of word `n / 64` is rule `n`, and bit `n` of `filled` is
/// set where word `n` is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Mask {
    filled: u64,
    words: [[u64; PART]; PARTS],
}

impl Mask {
    /// No rule.
    pub const NONE: Self = Self {
        filled: 0,
        words: [[0; PART]; PARTS],
    };

    /// Adds a rule; one that no policy may have is left out.
    pub fn insert(&mut self, rule: usize) {
        self.change(rule / 64, |word| word | 1 << (rule % 64));
    }

    /// Takes a rule away.
    pub fn remove(&mut self, rule: usize) {
        self.change(rule / 64, |word| word & !(1 << (rule % 64)));
    }

    /// Adds all rules of another set.
    pub fn unite(&mut self, other: &Self) {
        for (n, other) in other.words.as_flattened().iter().enumerate() {
            self.change(n, |word| word | other);
        }
    }

    /// Takes all rules away that are not in another set.
    pub fn intersect(&mut self, other: &Self) {
        for (n, other) in other.words.as_flattened().iter().enumerate() {
            self.change(n, |word| word & other);
        }
    }

    fn change(&mut self, n: usize, into: impl FnOnce(u64) -> u64) {
        if let Some(word) = self.words.as_flattened_mut().get_mut(n) {
            *word = into(*word);
            let is_filled = u64::from(*word != 0);
            self.filled = self.filled & !(1 << n) | is_filled << n;
        }
    }
}

/// The rules that accept a connection, by what they ask about.
#[derive(Clone, Copy, Debug)]
pub struct Accepting<'a> {
    /// Its direction; and they have not expired.
    pub direction: &'a Mask,
    /// Its service port.
    pub port: &'a Mask,
    /// The network of its peer.
    pub network: &'a Mask,
    /// A peer on this host; [`Mask::NONE`] where the peer is elsewhere.
    pub this_host: &'a Mask,
    /// The user of its owner.
    pub user: &'a Mask,
    /// The owner's cgroup, and the unit it is.
    pub group: &'a Mask,
    /// The owner's executable.
    pub exe: &'a Mask,
}

impl Accepting<'_> {
    /// The first rule that accepts all of it. The work is bounded, however many rules there
    /// are: a look at which words may have one, at the first of them, and at all where that
    /// had none.
    #[inline(always)]
    pub fn first(&self) -> Option<usize> {
        self.first_or(|part| {
            let network = Part::of(part, self.network).or(self.this_host);
            let service = network.and(self.direction).and(self.port);
            service.and(self.user).and(self.group).and(self.exe).first()
        })
    }

    /// The first rule of all masks, where `first_in` finds that of each of [`PARTS`] parts.
    #[inline(always)]
    pub fn first_or(&self, first_in: impl FnMut(usize) -> Option<usize>) -> Option<usize> {
        let filled = self.of(|mask| mask.filled);
        if filled == 0 {
            return None;
        }
        let n = filled.trailing_zeros() as usize % WORDS;
        let word = self.of(|mask| mask.words.as_flattened()[n]);
        if word != 0 {
            return Some(n * 64 + word.trailing_zeros() as usize);
        }
        (0..PARTS).find_map(first_in)
    }

    /// What all masks have of a word.
    #[inline(always)]
    fn of(&self, word: impl Fn(&Mask) -> u64) -> u64 {
        word(self.direction)
            & word(self.port)
            & (word(self.network) | word(self.this_host))
            & word(self.user)
            & word(self.group)
            & word(self.exe)
    }
}

/// A part of the rules that accept a connection.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    words: [u64; PART],
    /// Its number.
    part: usize,
}

impl Part {
    /// The rules of a part that are in a mask.
    #[inline(always)]
    pub const fn of(part: usize, mask: &Mask) -> Self {
        let part = part % PARTS;
        Self {
            words: mask.words[part],
            part,
        }
    }

    /// With those of another mask.
    #[inline(always)]
    #[must_use]
    pub const fn or(mut self, mask: &Mask) -> Self {
        let words = &mask.words[self.part];
        let mut n = 0;
        while n < PART {
            self.words[n] |= words[n];
            n += 1;
        }
        self
    }

    /// Without those that are not in another mask.
    #[inline(always)]
    #[must_use]
    pub const fn and(mut self, mask: &Mask) -> Self {
        let words = &mask.words[self.part];
        let mut n = 0;
        while n < PART {
            self.words[n] &= words[n];
            n += 1;
        }
        self
    }

    /// The part as it is, each word of it by way of `held`, which returns what it is given:
    /// where a compiler is not to put off what led to it.
    #[inline(always)]
    #[must_use]
    pub fn held(mut self, held: impl Fn(u64) -> u64) -> Self {
        self.words = self.words.map(held);
        self
    }

    /// The first of them. Looks at every word, whichever decides, and no branch depends on
    /// one: a verifier walks one way through it.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the number of a rule")]
    pub fn first(&self) -> Option<usize> {
        let (mut lowest, mut base) = (0_u64, 0_u64);
        for (n, &word) in self.words.iter().enumerate().rev() {
            // Where the word has a bit, it or its negative is below zero. A compiler
            // that knew would make a branch of it, and so would the verifiers of Linux
            // 6.18 and later of a mask that is all ones or none.
            let negative = black_box(word.wrapping_neg());
            let has_bit = black_box((word | negative) >> 63);
            let has_none = 1_u64.wrapping_sub(has_bit);
            lowest = lowest.wrapping_mul(has_none) | word;
            base = base.wrapping_mul(has_none) | has_bit.wrapping_mul(n as u64 * 64);
        }
        let rule = (self.part * PART * 64) as u64 + base + u64::from(lowest.trailing_zeros());
        (lowest != 0).then_some(rule as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rules: &[usize]) -> Mask {
        let mut mask = Mask::NONE;
        for &rule in rules {
            mask.insert(rule);
        }
        mask
    }

    fn first(port: &Mask, network: &Mask, this_host: &Mask) -> Option<usize> {
        let mut all = Mask::NONE;
        (0..MAX_RULES).for_each(|rule| all.insert(rule));
        let accepting = Accepting {
            direction: &all,
            port,
            network,
            this_host,
            user: &all,
            group: &all,
            exe: &all,
        };
        accepting.first()
    }

    #[test]
    fn lowest_rule_of_all_masks_is_the_first_match() {
        let port = mask(&[3, 64, 70, 1023]);
        assert_eq!(first(&port, &mask(&[2, 70, 1023]), &Mask::NONE), Some(70));
        assert_eq!(first(&port, &mask(&[1023]), &Mask::NONE), Some(1023));
        assert_eq!(first(&port, &mask(&[0, 63]), &Mask::NONE), None);
    }

    #[test]
    fn rule_beyond_a_word_that_all_masks_have_but_no_rule_of_is_found() {
        let (port, network) = (mask(&[3, 100, 700]), mask(&[4, 101, 700]));
        assert_eq!(first(&port, &network, &Mask::NONE), Some(700));
        assert_eq!(first(&port, &mask(&[4, 101]), &Mask::NONE), None);
    }

    #[test]
    fn every_rule_is_found_in_its_part() {
        for rule in 64..MAX_RULES {
            let (port, network) = (mask(&[3, rule, 1_023]), mask(&[4, rule, 1_023]));
            assert_eq!(first(&port, &network, &Mask::NONE), Some(rule));
        }
    }

    #[test]
    fn sets_with_the_same_rules_are_the_same() {
        let mut one = mask(&[3, 100, 700]);
        one.intersect(&mask(&[3, 101, 700]));
        one.remove(700);
        assert_eq!(one, mask(&[3]));
    }

    #[test]
    fn a_peer_on_this_host_is_as_good_as_its_network() {
        let port = mask(&[5, 9]);
        assert_eq!(first(&port, &mask(&[9]), &mask(&[5])), Some(5));
    }

    #[test]
    fn what_is_removed_or_beyond_the_last_rule_matches_nothing() {
        let mut port = mask(&[7, MAX_RULES]);
        port.remove(7);
        assert_eq!(port, Mask::NONE);
        port.unite(&mask(&[8]));
        assert_eq!(port, mask(&[8]));
    }
}
