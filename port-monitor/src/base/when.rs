//! Points in time as people write them: `1h` ago, `yesterday`, `2026-11-28T10:00`.

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _, civil, tz::TimeZone};
use thiserror::Error;

use super::duration::{self, DurationError};

/// A point in time, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Now.
    Now,
    /// So long before now.
    Ago(Duration),
    /// When the day before today began, so many days back.
    Day(i8),
    /// A local date and time.
    Local(civil::DateTime),
    /// A time whose zone was written.
    Exact(Timestamp),
}

/// Why text is no point in time.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WhenError {
    /// A number, but of what?
    #[error(transparent)]
    Duration(DurationError),
    /// Something else.
    #[error(
        "`{}` is not a time: write 30m or 1h (ago), today, yesterday, 2026-11-28 or \
         2026-11-28T10:00 (local, or with Z or +01:00 behind it)",
        .0.escape_debug()
    )]
    Malformed(String),
}

/// Reads a point in time.
pub fn parse(text: &str) -> Result<When, WhenError> {
    match text {
        "now" => return Ok(When::Now),
        "today" => return Ok(When::Day(0)),
        "yesterday" => return Ok(When::Day(1)),
        _ => {}
    }
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Ok(When::Exact(exact));
    }
    if let Ok(local) = text.parse::<civil::DateTime>() {
        return Ok(When::Local(local));
    }
    match duration::parse(text) {
        Ok(ago) => Ok(When::Ago(ago)),
        Err(DurationError::Malformed { .. }) => Err(WhenError::Malformed(text.to_owned())),
        Err(error) => Err(WhenError::Duration(error)),
    }
}

impl When {
    /// The time, ns since the Unix epoch, where it is `now_ns` and people live in `zone`. A
    /// local time that a change of clocks has left out is taken as the one after it. What no
    /// clock shows becomes the first or the last time that one does.
    pub fn wall_ns(self, now_ns: i128, zone: &TimeZone) -> i128 {
        let now = Timestamp::from_nanosecond(now_ns).unwrap_or(Timestamp::MAX);
        let local = match self {
            Self::Now => return now_ns,
            Self::Exact(exact) => return exact.as_nanosecond(),
            Self::Ago(ago) => {
                let ago_ns = i128::try_from(ago.as_nanos()).unwrap_or(i128::MAX);
                return now_ns.saturating_sub(ago_ns);
            }
            Self::Day(back) => {
                let today = now.to_zoned(zone.clone()).date();
                let day = today.checked_sub(back.days()).unwrap_or(civil::Date::MIN);
                day.to_datetime(civil::Time::midnight())
            }
            Self::Local(local) => local,
        };
        let time = zone.to_timestamp(local);
        time.map_or(i128::MIN, Timestamp::as_nanosecond)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use crate::base::when::*;

    /// 2026-11-22 12:00:01 UTC.
    const NOON_NS: i128 = 1_795_348_801_000_000_000;

    fn told(text: &str, zone: &TimeZone) -> String {
        let ns = parse(text).unwrap().wall_ns(NOON_NS, zone);
        Timestamp::from_nanosecond(ns).unwrap().to_string()
    }

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        let zone = TimeZone::fixed(Offset::constant(2));
        for (text, time) in [
            ("now", "2026-11-22T12:00:01Z"),
            ("1h", "2026-11-22T11:00:01Z"),
            ("1h 30m", "2026-11-22T10:30:01Z"),
            ("7d", "2026-11-15T12:00:01Z"),
            ("today", "2026-11-21T22:00:00Z"),
            ("yesterday", "2026-11-20T22:00:00Z"),
            ("2026-11-20", "2026-11-19T22:00:00Z"),
            ("2026-11-20T10:00", "2026-11-20T08:00:00Z"),
            ("2026-11-20 10:00:30", "2026-11-20T08:00:30Z"),
            ("2026-11-20T10:00:30.25", "2026-11-20T08:00:30.25Z"),
            ("2026-11-20T10:00Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T10:00:07+01:00", "2026-11-20T09:00:07Z"),
        ] {
            assert_eq!(told(text, &zone), time, "{text}");
        }
    }

    #[test]
    fn a_local_time_follows_the_clocks_of_its_day() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(told("2026-07-01", &zone), "2026-06-30T22:00:00Z");
        assert_eq!(told("2026-11-20", &zone), "2026-11-19T23:00:00Z");
        // The clocks went from two to three.
        assert_eq!(told("2026-03-29T02:30", &zone), "2026-03-29T01:30:00Z");
    }

    #[test]
    fn the_message_names_what_is_wrong() {
        for text in ["", "soon", "2026-13-01", "10:00", "2026-11-28T25:00"] {
            let said = parse(text).unwrap_err().to_string();
            assert!(
                said.starts_with(&format!("`{text}` is not a time: write 30m")),
                "{said}"
            );
        }
        assert_eq!(
            parse("30").unwrap_err().to_string(),
            "`30` has no unit: write 30s, 30m, 30h or 30d"
        );
    }
}
