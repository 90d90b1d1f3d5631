//! How much came in each of the last seconds.

use std::collections::VecDeque;

/// Seconds that are kept.
pub(crate) const SECONDS: usize = 120;

/// What came in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    /// Connections and attempts that were told of first.
    pub(crate) begun: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Those that break the policy.
    pub(crate) violations: u64,
    /// Payload bytes received.
    pub(crate) received: u64,
    /// Payload bytes sent.
    pub(crate) sent: u64,
}

/// The last seconds, the present one last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strip {
    seconds: VecDeque<Second>,
    /// The present one, in seconds since the Unix epoch.
    now: i128,
}

impl Strip {
    /// Time has come to `wall_ns`, ns since the Unix epoch. A clock that is set back does not
    /// take anything away.
    pub(crate) fn advance(&mut self, wall_ns: i128) {
        let second = wall_ns / 1_000_000_000;
        if self.seconds.is_empty() {
            self.now = second;
            self.seconds.push_back(Second::default());
        }
        let passed = (second - self.now).max(0);
        let passed = usize::try_from(passed).unwrap_or(usize::MAX);
        if passed == 0 {
            return;
        }
        self.now = second;
        for _ in 0..passed.min(SECONDS) {
            self.seconds.push_back(Second::default());
        }
        while self.seconds.len() > SECONDS {
            self.seconds.pop_front();
        }
    }

    /// The present second.
    pub(crate) fn present(&mut self) -> &mut Second {
        if self.seconds.is_empty() {
            self.seconds.push_back(Second::default());
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }

    /// The last `count` seconds that are over, the latest last. There may be fewer.
    pub(crate) fn last(&self, count: usize) -> impl Iterator<Item = &Second> {
        let over = self.seconds.len().saturating_sub(1);
        self.seconds.range(over.saturating_sub(count)..over)
    }

    /// What came in the last second that is over.
    pub(crate) fn rate(&self) -> Second {
        self.last(1).next().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i128 = 1_000_000_000;

    fn begun(strip: &Strip) -> Vec<u64> {
        strip.last(SECONDS).map(|second| second.begun).collect()
    }

    #[test]
    fn each_second_has_what_came_in_it() {
        let mut strip = Strip::default();
        strip.advance(100 * SECOND_NS);
        strip.present().begun += 3;
        strip.advance(101 * SECOND_NS + 5);
        strip.present().begun += 4;
        strip.advance(103 * SECOND_NS);
        assert_eq!(begun(&strip), [3, 4, 0]);
        assert_eq!(strip.rate().begun, 0);
    }

    #[test]
    fn a_clock_that_is_set_back_or_far_ahead_takes_nothing_away_and_no_time() {
        let mut strip = Strip::default();
        strip.advance(100 * SECOND_NS);
        strip.present().begun += 3;
        strip.advance(50 * SECOND_NS);
        strip.present().begun += 1;
        strip.advance(i128::MAX);
        assert_eq!(begun(&strip).len(), SECONDS - 1);
        assert!(begun(&strip).iter().all(|&count| count == 0));
    }
}
