//! Wall-clock times as text: local `HH:MM:SS` for the table, RFC 3339 for JSON.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Serialize, Serializer};

const NS_PER_SECOND: i128 = 1_000_000_000;

/// A time outside the years ±9999, which no clock gives, becomes their end.
fn timestamp(wall_ns: i128) -> Timestamp {
    Timestamp::from_nanosecond(wall_ns).unwrap_or(if wall_ns < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// The time of day in one time zone. Remembers the last second: events come in
/// bursts, and the time zone's rules cost more than the rest of a line.
#[derive(Debug)]
pub(super) struct LocalClock {
    zone: TimeZone,
    second: Option<i128>,
    text: String,
}

impl LocalClock {
    pub(super) const fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            second: None,
            text: String::new(),
        }
    }

    /// `HH:MM:SS`.
    pub(super) fn time_of_day(&mut self, wall_ns: i128) -> &str {
        let second = wall_ns.div_euclid(NS_PER_SECOND);
        if self.second != Some(second) {
            let time = timestamp(wall_ns).to_zoned(self.zone.clone()).time();
            self.text = format!(
                "{:02}:{:02}:{:02}",
                time.hour(),
                time.minute(),
                time.second()
            );
            self.second = Some(second);
        }
        &self.text
    }
}

/// A wall-clock time, ns since the Unix epoch, as RFC 3339 in UTC with all nine
/// digits, so that lines sort as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rfc3339(pub(super) i128);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", timestamp(self.0))
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;

    const NOON: i128 = 1_795_348_801 * NS_PER_SECOND;

    #[test]
    fn time_of_day_is_local_and_follows_the_second() {
        let mut clock = LocalClock::new(TimeZone::fixed(Offset::constant(2)));
        assert_eq!(clock.time_of_day(NOON), "14:00:01");
        assert_eq!(clock.time_of_day(NOON + NS_PER_SECOND - 1), "14:00:01");
        assert_eq!(clock.time_of_day(NOON + NS_PER_SECOND), "14:00:02");
        assert_eq!(clock.time_of_day(-1), "01:59:59");
    }

    #[test]
    fn rfc3339_keeps_every_nanosecond() {
        assert_eq!(
            Rfc3339(NOON + 417).to_string(),
            "2026-11-22T12:00:01.000000417Z"
        );
        assert_eq!(Rfc3339(0).to_string(), "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn impossible_times_do_not_panic() {
        assert!(Rfc3339(i128::MAX).to_string().starts_with("9999-"));
        assert!(Rfc3339(i128::MIN).to_string().starts_with('-'));
    }
}
