//! By which policy the monitor judges, while it may be given another one.

use crate::generation::State;

/// Where the policy lies that the monitor judges by, and its number, in one word: a verdict
/// reads it once, so it is wholly of one policy, and says which.
///
/// | bits | |
/// |---|---|
/// | 0–3 | the generation |
/// | 4 | it has no tables: userspace judges |
/// | 8–22 | the number of the policy among those of a run, from 1 on |
///
/// It lies where enforcement has its [`State`]; no object is used for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judging(pub u64);

/// Generations that the monitor uses: the one it judges by, and the next one.
pub const PLACES: u32 = 2;

/// The number of the first policy of a run.
pub const FIRST_NUMBER: u16 = 1;

/// The highest number of a policy: an event has 15 bits for it.
pub const MAX_NUMBER: u16 = (1 << 15) - 1;

impl Judging {
    const WITHOUT_TABLES: u64 = 1 << 4;
    const NUMBER: u32 = 8;

    /// By the tables in this generation.
    pub const fn by_tables(generation: u32, number: u16) -> Self {
        Self((generation & 0xf) as u64 | ((number & MAX_NUMBER) as u64) << Self::NUMBER)
    }

    /// By userspace alone.
    pub const fn by_userspace(number: u16) -> Self {
        Self(Self::by_tables(0, number).0 | Self::WITHOUT_TABLES)
    }

    /// Its generation.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 & 0xf) as u32
    }

    /// There are tables to judge by.
    #[inline(always)]
    pub const fn has_tables(self) -> bool {
        self.0 & Self::WITHOUT_TABLES == 0
    }

    /// The number, as [`Owner::flags`](crate::event::Owner::flags) have it.
    #[inline(always)]
    pub const fn owner_flags(self) -> u16 {
        const { assert!(Self::NUMBER == 8 && MAX_NUMBER == 0x7fff) };
        ((self.0 >> 8 & 0x7fff) as u16) << 1
    }
}

const _: () = assert!(size_of::<Judging>() == size_of::<State>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::OWNER_KERNEL;

    #[test]
    fn a_word_has_all_that_it_was_made_of_and_leaves_the_other_flags_alone() {
        for number in [FIRST_NUMBER, 2, MAX_NUMBER] {
            let judging = Judging::by_tables(1, number);
            assert!(judging.has_tables());
            assert_eq!(judging.generation(), 1);
            assert_eq!(judging.owner_flags() >> 1, number);
            assert_eq!(judging.owner_flags() & OWNER_KERNEL, 0);
            let judging = Judging::by_userspace(number);
            assert!(!judging.has_tables());
            assert_eq!(judging.owner_flags() >> 1, number);
        }
    }
}
