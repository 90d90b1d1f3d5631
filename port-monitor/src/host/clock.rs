//! Wall-clock time of kernel events.
//!
//! Order and durations stay on `CLOCK_BOOTTIME`, which never jumps. Wall time is
//! that plus an offset, which changes whenever somebody sets the clock: the
//! caller samples it anew every now and then.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Readings per sample: the quickest one is the most exact.
const READINGS: usize = 5;

/// What to add to `CLOCK_BOOTTIME` to get the time since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    offset_ns: i128,
    /// How far from the truth that may be.
    slack_ns: i128,
}

/// The wall clock read between two readings of the boot clock.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units end the names")]
struct Reading {
    before_ns: i128,
    wall_ns: i128,
    after_ns: i128,
}

impl WallClock {
    /// The offset by now.
    pub fn sample() -> Self {
        Self::from_readings([(); READINGS].map(|()| Reading {
            before_ns: now_ns(ClockId::Boottime),
            wall_ns: now_ns(ClockId::Realtime),
            after_ns: now_ns(ClockId::Boottime),
        }))
    }

    /// The offset by now: the same, unless somebody has set the clock. What differs by no
    /// more than both samples may err is no other time.
    #[must_use]
    pub fn resample(self) -> Self {
        self.or(Self::sample())
    }

    const fn or(self, later: Self) -> Self {
        let difference_ns = (later.offset_ns - self.offset_ns).abs();
        if difference_ns <= self.slack_ns + later.slack_ns {
            self
        } else {
            later
        }
    }

    /// The wall-clock time, ns since the Unix epoch, of a `CLOCK_BOOTTIME` ns.
    pub const fn wall_ns(self, boot_ns: u64) -> i128 {
        boot_ns as i128 + self.offset_ns
    }

    /// The middle of the narrowest bracket: the wall clock was read somewhere in
    /// it, and a wide one means the reader was interrupted.
    fn from_readings(readings: [Reading; READINGS]) -> Self {
        let width_ns = |reading: &Reading| reading.after_ns - reading.before_ns;
        let best = readings.iter().min_by_key(|reading| width_ns(reading));
        best.map_or(
            Self {
                offset_ns: 0,
                slack_ns: 0,
            },
            |best| Self {
                offset_ns: best.wall_ns - i128::midpoint(best.before_ns, best.after_ns),
                slack_ns: width_ns(best),
            },
        )
    }
}

/// `CLOCK_BOOTTIME` ns by now: the clock of the kernel's events.
pub fn boot_ns() -> u64 {
    u64::try_from(now_ns(ClockId::Boottime)).unwrap_or(0)
}

fn now_ns(clock: ClockId) -> i128 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    i128::from(tv_sec) * 1_000_000_000 + i128::from(tv_nsec)
}

#[cfg(test)]
mod tests {
    use crate::host::clock::*;

    const EPOCH_2026_NS: i128 = 1_767_225_600_000_000_000;

    #[test]
    fn quickest_reading_decides() {
        let mut readings = [Reading {
            before_ns: 1000,
            wall_ns: EPOCH_2026_NS,
            after_ns: 900_000,
        }; READINGS];
        readings[3] = Reading {
            before_ns: 2000,
            wall_ns: EPOCH_2026_NS + 2020,
            after_ns: 2040,
        };
        let clock = WallClock::from_readings(readings);
        assert_eq!(clock.wall_ns(5000), EPOCH_2026_NS + 5000);
    }

    #[test]
    fn what_differs_by_less_than_a_sample_errs_is_the_same_time() {
        let sample = |before_ns, wall_ns| {
            WallClock::from_readings(
                [Reading {
                    before_ns,
                    wall_ns,
                    after_ns: before_ns + 40,
                }; READINGS],
            )
        };
        let first = sample(1_000, EPOCH_2026_NS);
        assert_eq!(first.or(sample(2_000, EPOCH_2026_NS + 1_005)), first);
        assert_eq!(first.or(sample(2_000, EPOCH_2026_NS + 1_080)), first);
        let set = sample(2_000, EPOCH_2026_NS + 1_081);
        assert_eq!(first.or(set), set);
        assert_eq!(set.or(first), first);
    }

    #[test]
    fn clock_before_the_epoch_is_negative() {
        let readings = [Reading {
            before_ns: 500,
            wall_ns: 0,
            after_ns: 500,
        }; READINGS];
        assert_eq!(WallClock::from_readings(readings).wall_ns(0), -500);
    }

    #[test]
    fn present_is_the_present_on_both_clocks() {
        let before = now_ns(ClockId::Realtime);
        let wall = WallClock::sample().wall_ns(boot_ns());
        let after = now_ns(ClockId::Realtime);
        let slack = 1_000_000;
        assert!((before - slack..=after + slack).contains(&wall));
    }
}
