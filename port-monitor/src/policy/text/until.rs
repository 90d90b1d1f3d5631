//! Points in time, as `until` takes them.

use jiff::{Timestamp, Zoned, civil::DateTime, fmt::temporal::Pieces};
use toml::de::DeValue;

use super::{
    parse::{Value, wrong_type},
    problem::Problem,
    value::saturating_ns,
};

/// A TOML offset date-time or RFC 3339 text, as ns since the Unix epoch. What lies
/// beyond the 64 bits is the farthest there is, which never comes.
pub(crate) fn time_ns(value: &Value<'_>) -> Result<i64, Problem> {
    let text = match value.get_ref() {
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::String(text) => text.to_string(),
        _ => return Err(wrong_type(value, "a date and time")),
    };
    match instant(&text) {
        Some(ns) if agrees_with_its_zone(&text, ns)? => Ok(saturating_ns(ns)),
        _ => Err(Problem::NotATime(text)),
    }
}

/// Nanoseconds since the Unix epoch. Not by way of [`Timestamp`], which ends before the
/// year 9999 does.
fn instant(text: &str) -> Option<i128> {
    let pieces = Pieces::parse(text).ok()?;
    let offset = pieces.offset()?.to_numeric_offset();
    let local = DateTime::from_parts(pieces.date(), pieces.time()?);
    // RFC 3339 has none of a day or more.
    if offset.seconds().unsigned_abs() >= 86_400 {
        return None;
    }
    let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    let offset_ns = i128::from(offset.seconds()) * 1_000_000_000;
    Some(epoch.duration_until(local).as_nanos() - offset_ns)
}

/// A time may name its zone too: then the zone must be one, and have that offset then.
fn agrees_with_its_zone(text: &str, ns: i128) -> Result<bool, Problem> {
    let Some((time, zone)) = text.split_once('[') else {
        return Ok(true);
    };
    let disagrees = |reason: String| Problem::ZoneDisagrees {
        time: text.to_owned(),
        reason,
    };
    // Known on a host without a database of time zones too.
    if ["UTC]", "Etc/UTC]"].contains(&zone) {
        return match offset_s(time) {
            Some(0) => Ok(true),
            _ => Err(disagrees("the offset is not that of UTC".to_owned())),
        };
    }
    if Timestamp::from_nanosecond(ns).is_err() {
        return Err(disagrees("no zone is known that far ahead".to_owned()));
    }
    match text.parse::<Zoned>() {
        Ok(zoned) => Ok(zoned.timestamp().as_nanosecond() == ns),
        Err(error) => Err(disagrees(error.to_string())),
    }
}

fn offset_s(time: &str) -> Option<i32> {
    let pieces = Pieces::parse(time).ok()?;
    Some(pieces.offset()?.to_numeric_offset().seconds())
}

#[cfg(test)]
mod tests {
    use crate::policy::text::until::*;

    fn read(text: &str) -> Result<i64, Problem> {
        let value = toml::Spanned::new(0..0, DeValue::String(text.into()));
        time_ns(&value)
    }

    #[test]
    fn no_offset_is_a_day_long() {
        for (text, is_time) in [
            ("2027-01-31T00:00:00+23:59", true),
            ("2027-01-31T00:00:00-23:59", true),
            ("2027-01-31T00:00:00+24:00", false),
            ("2027-01-31T00:00:00-25:00", false),
        ] {
            assert_eq!(read(text).is_ok(), is_time, "{text}");
        }
    }

    #[test]
    fn times_beyond_the_64_bits_never_come() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999999-23:59",
            "9999-12-30T22:00:01Z",
            "2262-04-11T23:47:16.854775808Z",
            "3000-01-01T00:00:00+14:00",
        ] {
            assert_eq!(read(text), Ok(i64::MAX), "{text}");
        }
        assert_eq!(read("2262-04-11T23:47:16.854775806Z"), Ok(i64::MAX - 1));
        assert_eq!(read("0001-01-01T00:00:00Z"), Ok(i64::MIN));
        assert_eq!(read("1969-12-31T23:59:59Z"), Ok(-1_000_000_000));
    }

    #[test]
    fn an_offset_counts_and_must_be_there() {
        assert_eq!(
            read("2027-01-31T02:00:00+02:00"),
            read("2027-01-31T00:00:00Z")
        );
        for text in ["2027-01-31T00:00:00", "2027-01-31", "00:00:00", "soon", ""] {
            assert_eq!(
                read(text),
                Err(Problem::NotATime(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_zone_must_be_one_and_have_that_offset() {
        let berlin = "2027-01-31T01:00:00+01:00[Europe/Berlin]";
        // Without the host's time zones nothing can be said for the zone.
        if jiff::tz::TimeZone::get("Europe/Berlin").is_ok() {
            assert_eq!(read(berlin), read("2027-01-31T00:00:00Z"));
        }
        assert_eq!(
            read("2027-01-31T00:00:00+00:00[UTC]"),
            read("2027-01-31T00:00:00Z")
        );
        for wrong in [
            "2027-01-31T02:00:00+02:00[UTC]",
            "2027-07-31T01:00:00+01:00[Europe/Berlin]",
            "2027-01-31T01:00:00+01:00[Europe/Nowhere]",
            "2027-01-31T01:00:00+01:00[+02:00]",
            "9999-12-31T23:59:59+01:00[UTC]",
            "9999-12-31T23:59:59Z[Europe/Berlin]",
        ] {
            let problem = read(wrong).unwrap_err();
            assert!(
                matches!(problem, Problem::ZoneDisagrees { .. }),
                "{wrong}: {problem}"
            );
        }
    }
}
