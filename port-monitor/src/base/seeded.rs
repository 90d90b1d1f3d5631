//! Random numbers of tests, from a seed by which a run can be repeated.

#[cfg(test)]
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{SystemTime, UNIX_EPOCH},
};

/// The seed of a run to repeat.
const SEED: &str = "PORT_MONITOR_TEST_SEED";

/// Runs a test with a seed, which is printed, and named whatever the test fails with.
#[track_caller]
#[expect(clippy::print_stdout, reason = "the output of a test")]
pub(crate) fn seeded(test: impl FnOnce(u64)) {
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = given.unwrap_or_else(|| u64::from(now.subsec_nanos()) << 32 | now.as_secs());
    println!("{SEED}={seed}");
    assert!(
        catch_unwind(AssertUnwindSafe(|| test(seed))).is_ok(),
        "failed, as said above, with {SEED}={seed}"
    );
}

/// Numbers that are the same for the same seed.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// Below `limit`, by `SplitMix64`.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// True once in so many times.
    pub(crate) fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// An index of a list of this length.
    pub(crate) fn index(&self, length: usize) -> usize {
        let length = u64::try_from(length).unwrap();
        usize::try_from(self.below(length)).unwrap()
    }

    /// One of the values.
    pub(crate) fn one_of<T: Copy>(&self, values: &[T]) -> T {
        values[self.index(values.len())]
    }
}
