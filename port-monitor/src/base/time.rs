//! Wall-clock times as text: local `HH:MM:SS` for the table, RFC 3339 for JSON.

use std::{fmt, io::Write as _};

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ascii, from_text::from_text};

const NS_PER_SECOND: i128 = 1_000_000_000;

/// A time outside the years ±9999, which no clock gives, becomes their end.
fn timestamp(wall_ns: i128) -> Timestamp {
    Timestamp::from_nanosecond(wall_ns).unwrap_or(if wall_ns < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// The day of a wall-clock time, ns since the Unix epoch, in `zone`.
pub(crate) fn date(wall_ns: i128, zone: &TimeZone) -> civil::Date {
    timestamp(wall_ns).to_zoned(zone.clone()).date()
}

/// A time of a day in `zone`, ns since the Unix epoch; `None` far from all that have a name.
#[cfg(feature = "top")]
pub(crate) fn at(day: civil::Date, time: civil::Time, zone: &TimeZone) -> Option<i128> {
    let zoned = day.to_datetime(time).to_zoned(zone.clone()).ok()?;
    Some(zoned.timestamp().as_nanosecond())
}

/// A wall-clock time, ns since the Unix epoch, in `zone`: `2026-11-28 10:00:00`.
pub(crate) fn local(wall_ns: i128, zone: &TimeZone) -> String {
    let time = timestamp(wall_ns).to_zoned(zone.clone());
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The time of day in one time zone. Remembers the last second: events come in
/// bursts, and the time zone's rules cost more than the rest of a line.
#[derive(Debug)]
pub(crate) struct LocalClock {
    zone: TimeZone,
    second_ns: Option<i128>,
    text: String,
}

impl LocalClock {
    pub(crate) const fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            second_ns: None,
            text: String::new(),
        }
    }

    /// `HH:MM:SS`.
    pub(crate) fn time_of_day(&mut self, wall_ns: i128) -> &str {
        let is_known = self
            .second_ns
            .is_some_and(|second_ns| fraction_ns(wall_ns, second_ns).is_some());
        if !is_known {
            let time = timestamp(wall_ns).to_zoned(self.zone.clone()).time();
            self.text = format!(
                "{:02}:{:02}:{:02}",
                time.hour(),
                time.minute(),
                time.second()
            );
            self.second_ns = Some(start_of_second(wall_ns));
        }
        &self.text
    }
}

/// Writes times as [`Rfc3339`] displays them, but remembers the last second.
#[derive(Debug)]
pub(crate) struct UtcClock {
    second_ns: i128,
    /// The second without the closing `Z`.
    text: String,
}

impl Default for UtcClock {
    fn default() -> Self {
        Self {
            second_ns: 0,
            text: "1970-01-01T00:00:00".into(),
        }
    }
}

impl UtcClock {
    /// Appends a wall-clock time, ns since the Unix epoch.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, wall_ns: i128) {
        if fraction_ns(wall_ns, self.second_ns).is_none() {
            let second_ns = start_of_second(wall_ns);
            if let Ok(second) = Timestamp::from_nanosecond(second_ns) {
                self.second_ns = second_ns;
                self.text = format!("{second:.0}");
                self.text.pop();
            }
        }
        if let Some(ns) = fraction_ns(wall_ns, self.second_ns) {
            out.extend_from_slice(self.text.as_bytes());
            out.push(b'.');
            ascii::push_nanoseconds(out, ns);
            out.push(b'Z');
        } else {
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{}", Rfc3339(wall_ns));
        }
    }
}

/// Whether `wall_ns` is in the second that starts at `second_ns`.
pub(crate) fn is_within(wall_ns: i128, second_ns: i128) -> bool {
    fraction_ns(wall_ns, second_ns).is_some()
}

/// How far `wall_ns` is into the second that starts at `second_ns`; `None` when
/// it is in another one.
fn fraction_ns(wall_ns: i128, second_ns: i128) -> Option<u32> {
    // Before the second is, without a sign, far after it.
    let ns = u32::try_from(wall_ns.wrapping_sub(second_ns).cast_unsigned()).ok()?;
    (ns < 1_000_000_000).then_some(ns)
}

/// The second of `wall_ns`, as the time it starts at.
pub(crate) const fn start_of_second(wall_ns: i128) -> i128 {
    wall_ns.saturating_sub(wall_ns.rem_euclid(NS_PER_SECOND))
}

/// A wall-clock time, ns since the Unix epoch, as RFC 3339 in UTC with all nine
/// digits, so that lines sort as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rfc3339(pub(crate) i128);

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

impl<'de> Deserialize<'de> for Rfc3339 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a time, as RFC 3339 has it", |text| {
            let time: Timestamp = text.parse().ok()?;
            Some(Self(time.as_nanosecond()))
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use crate::base::time::*;

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
    fn remembered_second_changes_nothing() {
        let mut clock = UtcClock::default();
        let second = NS_PER_SECOND;
        let limits = [Timestamp::MIN, Timestamp::MAX].map(Timestamp::as_nanosecond);
        for base in [0, NOON, limits[0], limits[1], i128::MAX, i128::MIN] {
            for offset in [0, 1, -1, second - 1, second, -second, 0, 5] {
                let wall_ns = base.saturating_add(offset);
                let mut out = Vec::new();
                clock.push(&mut out, wall_ns);
                assert_eq!(
                    String::from_utf8(out).unwrap(),
                    Rfc3339(wall_ns).to_string()
                );
            }
        }
    }

    #[test]
    fn impossible_times_do_not_panic() {
        assert!(Rfc3339(i128::MAX).to_string().starts_with("9999-"));
        assert!(Rfc3339(i128::MIN).to_string().starts_with('-'));
    }
}
