//! How long something goes on, as it is written behind `--time`.

use std::time::Duration;

use anyhow::{Result, bail};

/// Reads `90s`, `10m` or `2h`.
pub(crate) fn parse(text: &str) -> Result<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3_600)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let digits = text.strip_suffix(*unit)?;
        digits.parse::<u64>().ok()?.checked_mul(*seconds)
    });
    match seconds {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => bail!("`{text}` is not a time: write 60s, 10m or 2h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_seconds_minutes_or_hours() {
        let read = |text: &str| parse(text).ok().map(|time| time.as_secs());
        assert_eq!(
            ["90s", "10m", "2h"].map(read),
            [Some(90), Some(600), Some(7_200)]
        );
        for text in ["", "s", "10", "1d", "-1s", "99999999999999999999m"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
