//! How long things took, counted by how long.

use std::time::Duration;

/// Counts of durations, each in the first bucket whose bound it does not exceed.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: &'static [Duration],
    /// By bucket; behind them, what exceeds every bound.
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    /// With the buckets that end at these bounds, which rise.
    pub(super) fn new(bounds: &'static [Duration]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: Duration::ZERO,
        }
    }

    /// Counts one that took so long.
    pub(super) fn observe(&mut self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(took);
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long all of them took, in seconds.
    pub(super) const fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// The bound of each bucket in seconds, and how many are in it alone.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().map(Duration::as_secs_f64);
        let bounds = bounds.chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::consume::metrics::histogram::*;

    #[test]
    fn what_is_as_long_as_a_bound_is_below_it() {
        const BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
        let mut histogram = Histogram::new(&BOUNDS);
        for micros in [1, 1_000, 1_001, 1_000_000, 1_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let expected = [(0.001, 2), (1.0, 2), (f64::INFINITY, 1)];
        assert_eq!(histogram.buckets(), expected);
        assert_eq!((histogram.count(), histogram.sum()), (5, 2.002_003));
    }
}
