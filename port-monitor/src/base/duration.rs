//! Lengths of time as people write them: `30s`, `1h 30m`, `7d`. One reader for the
//! command line and the policy.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use thiserror::Error;

/// The longest that is taken: a hundred years, far from every overflow.
const LONGEST: Duration = Duration::from_hours(24 * 36_525);

/// Why text is no length of time that can be waited for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// A number, but of what?
    #[error("`{given}` has no unit: write {hint}")]
    NoUnit {
        /// The number.
        given: String,
        /// What to write instead.
        hint: String,
    },
    /// Not a number with a unit, nor several.
    #[error("`{}` is not a duration: write {hint}", .given.escape_debug())]
    Malformed {
        /// The text.
        given: String,
        /// What to write instead.
        hint: String,
    },
    /// Months and years are of no fixed length.
    #[error("`{given}` counts in months or years, which are not all as long: write {hint}")]
    Calendar {
        /// The text.
        given: String,
        /// What to write instead.
        hint: String,
    },
    /// Less than nothing.
    #[error("`{0}` is negative: a duration is longer than nothing")]
    Negative(String),
    /// Nothing.
    #[error("`{0}` is no time at all: a duration is longer than nothing")]
    Zero(String),
    /// More than a hundred years.
    #[error("`{0}` is longer than a hundred years")]
    TooLong(String),
}

/// Reads a duration where only some are taken, which `taken` says, such as `1s or less`.
/// An error hints at those, and never at one that is then refused. Whether the duration is
/// one of them is for the caller to look at.
pub fn parse_some(text: &str, taken: &str) -> Result<Duration, DurationError> {
    let hint = taken.to_owned();
    parse(text).map_err(|error| match error {
        DurationError::NoUnit { given, .. } => DurationError::NoUnit { given, hint },
        DurationError::Malformed { given, .. } => DurationError::Malformed { given, hint },
        DurationError::Calendar { given, .. } => DurationError::Calendar { given, hint },
        error => error,
    })
}

/// Reads a duration: units from nanoseconds to weeks, a day of 24 hours.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let given = || text.to_owned();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(if text.bytes().all(|byte| byte == b'0') {
            DurationError::Zero(given())
        } else {
            DurationError::NoUnit {
                given: given(),
                hint: format!("{text}s, {text}m, {text}h or {text}d"),
            }
        });
    }
    let span: Span = text.parse().map_err(|_| match in_small(text) {
        Some(small) if small.is_negative() => DurationError::Negative(given()),
        Some(_) => DurationError::TooLong(given()),
        None => DurationError::Malformed {
            given: given(),
            hint: "30s, 5m, 1h 30m or 7d".to_owned(),
        },
    })?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(DurationError::Calendar {
            given: given(),
            hint: "it in days, such as 30d".to_owned(),
        });
    }
    if span.is_negative() {
        return Err(DurationError::Negative(given()));
    }
    let too_long = || DurationError::TooLong(given());
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| too_long())?;
    let duration = Duration::try_from(signed).map_err(|_| too_long())?;
    if duration.is_zero() {
        return Err(DurationError::Zero(given()));
    }
    if duration > LONGEST {
        return Err(too_long());
    }
    Ok(duration)
}

/// The duration that the text would be if its numbers were small.
fn in_small(text: &str) -> Option<Span> {
    let mut small = String::new();
    for letter in text.chars() {
        if !letter.is_ascii_digit() {
            small.push(letter);
        } else if !small.ends_with('1') {
            small.push('1');
        }
    }
    small.parse().ok()
}

#[cfg(test)]
mod tests {
    use crate::base::duration::*;

    #[test]
    fn every_unit_of_a_fixed_length_is_read() {
        for (text, seconds) in [
            ("30s", 30),
            ("5m", 300),
            ("1h 30m", 5_400),
            ("7d", 604_800),
            ("1d 12h", 129_600),
            ("2w", 1_209_600),
            ("30 days", 2_592_000),
            ("P7D", 604_800),
            ("PT1H", 3_600),
            ("36525d", 36_525 * 86_400),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1_500)));
    }

    #[test]
    fn the_message_names_what_is_wrong() {
        for (text, said) in [
            ("60", "`60` has no unit: write 60s, 60m, 60h or 60d"),
            (
                "soon",
                "`soon` is not a duration: write 30s, 5m, 1h 30m or 7d",
            ),
            ("", "`` is not a duration: write 30s, 5m, 1h 30m or 7d"),
            (
                "7 fortnights",
                "`7 fortnights` is not a duration: write 30s, 5m, 1h 30m or 7d",
            ),
            (
                "-5s",
                "`-5s` is negative: a duration is longer than nothing",
            ),
            (
                "0",
                "`0` is no time at all: a duration is longer than nothing",
            ),
            (
                "0d",
                "`0d` is no time at all: a duration is longer than nothing",
            ),
            ("36526d", "`36526d` is longer than a hundred years"),
            ("99999999w", "`99999999w` is longer than a hundred years"),
            ("100000000d", "`100000000d` is longer than a hundred years"),
            (
                "99999999999999999999s",
                "`99999999999999999999s` is longer than a hundred years",
            ),
            (
                "P99999999999D",
                "`P99999999999D` is longer than a hundred years",
            ),
            (
                "1d 99999999999999h",
                "`1d 99999999999999h` is longer than a hundred years",
            ),
            (
                "-99999999999d",
                "`-99999999999d` is negative: a duration is longer than nothing",
            ),
            (
                "99999999999 fortnights",
                "`99999999999 fortnights` is not a duration: write 30s, 5m, 1h 30m or 7d",
            ),
            (
                "2mo",
                "`2mo` counts in months or years, which are not all as long: write it in days, \
                 such as 30d",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), said, "{text}");
        }
    }
}
