//! What the flags of `watch` take: text in, values out.

use std::time::Duration;

use port_monitor_common::site::Site;

use crate::{
    base::duration,
    kernel::{LIMIT_MAX_CONNECTIONS, MAX_LATENCY, MIN_MAX_CONNECTIONS, faults::PROGRAMS},
};

/// More often nobody looks at open connections.
const MIN_PROGRESS: Duration = Duration::from_millis(100);

/// The largest ring: the largest power of two that its size can be.
const MAX_RING_BYTES: u32 = 1 << 31;

pub(super) fn parse_site(name: &str) -> Result<Site, String> {
    let mut sites = Site::ALL.into_iter();
    sites
        .find(|site| site.name() == name)
        .ok_or_else(|| format!("no site {name}"))
}

pub(super) fn parse_program(name: &str) -> Result<&'static str, String> {
    let mut programs = PROGRAMS.into_iter();
    programs
        .find(|program| *program == name)
        .ok_or_else(|| format!("no program {name}"))
}

pub(in crate::commands) fn parse_pid(text: &str) -> Result<u32, &'static str> {
    let pid = text.parse().ok().filter(|&pid| pid > 0);
    pid.ok_or("not a process id: write a number as `ps` shows it")
}

pub(super) fn parse_count(text: &str) -> Result<u64, &'static str> {
    let count = text.parse().ok().filter(|&count| count > 0);
    count.ok_or("not a number of events: write 1 or more")
}

pub(super) fn parse_max_connections(text: &str) -> Result<u32, String> {
    let count = text.parse().ok();
    count
        .filter(|count| (MIN_MAX_CONNECTIONS..=LIMIT_MAX_CONNECTIONS).contains(count))
        .ok_or_else(|| {
            format!(
                "not a number of connections: write {MIN_MAX_CONNECTIONS} to {LIMIT_MAX_CONNECTIONS}"
            )
        })
}

pub(super) fn parse_level(text: &str) -> Result<log::Level, &'static str> {
    let level = text.parse();
    level.map_err(|_| "not a level: write error, warn, info, debug or trace")
}

/// A duration that events in the ring can wait.
pub(super) fn parse_latency(text: &str) -> Result<Duration, String> {
    let most = MAX_LATENCY.as_secs();
    let taken = format!("{most}s or less, such as 5ms");
    let latency = duration::parse_some(text, &taken).map_err(|error| error.to_string())?;
    if latency > MAX_LATENCY {
        return Err(format!("more than {most} s: write {most}s or less"));
    }
    Ok(latency)
}

/// How often open connections may be looked at.
pub(super) fn parse_progress(text: &str) -> Result<Duration, String> {
    let least = MIN_PROGRESS.as_millis();
    let taken = format!("{least}ms or more, such as 10s");
    let interval = duration::parse_some(text, &taken).map_err(|error| error.to_string())?;
    if interval < MIN_PROGRESS {
        return Err(format!("less than {least} ms: write {least}ms or more"));
    }
    Ok(interval)
}

/// A number of bytes with an optional K or M (KiB, MiB): a power of two the
/// kernel takes for a ring.
pub(super) fn parse_ring_size(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "b" => Some(1),
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        _ => None,
    };
    let size = digits.parse::<u64>().ok().zip(unit);
    let size = size.map(|(size, unit): (u64, u64)| size.saturating_mul(unit));
    let page_bytes = u32::try_from(rustix::param::page_size()).unwrap_or(4_096);
    match size.map(u32::try_from) {
        Some(Ok(size)) if size.is_power_of_two() && size >= page_bytes => Ok(size),
        Some(Ok(size)) if size <= MAX_RING_BYTES => {
            let next = size.max(page_bytes).next_power_of_two();
            Err(format!(
                "must be a power of two, {page_bytes} or more: try {next}"
            ))
        }
        Some(_) => Err("more than 2 GiB: write 2G or less".to_owned()),
        None => Err("not a size: write 65536, 64K or 4M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::watch::values::*;

    #[test]
    fn events_wait_a_second_at_most() {
        assert_eq!(parse_latency("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_latency("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(
            parse_latency("1001ms"),
            Err("more than 1 s: write 1s or less".to_owned())
        );
        assert!(parse_latency("0s").is_err());
    }

    #[test]
    fn no_hint_names_what_is_refused() {
        for (text, said) in [
            ("5", "`5` has no unit"),
            ("soon", "`soon` is not a duration"),
            (
                "2mo",
                "`2mo` counts in months or years, which are not all as long",
            ),
        ] {
            let latency = parse_latency(text).unwrap_err();
            assert_eq!(latency, format!("{said}: write 1s or less, such as 5ms"));
            let progress = parse_progress(text).unwrap_err();
            assert_eq!(
                progress,
                format!("{said}: write 100ms or more, such as 10s")
            );
        }
    }

    #[test]
    fn progress_is_told_ten_times_a_second_at_most() {
        assert_eq!(parse_progress("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_progress("100ms"), Ok(MIN_PROGRESS));
        let too_often = parse_progress("99ms").unwrap_err();
        assert_eq!(too_often, "less than 100 ms: write 100ms or more");
        for wrong in ["10", "0s", "-1s", "soon", ""] {
            let error = parse_progress(wrong).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn ring_sizes_are_powers_of_two_with_units() {
        assert_eq!(parse_ring_size("65536"), Ok(65_536));
        assert_eq!(parse_ring_size("64K"), Ok(65_536));
        assert_eq!(parse_ring_size("4MiB"), Ok(4 << 20));
        let not_a_power = parse_ring_size("5000").unwrap_err();
        assert_eq!(
            not_a_power,
            "must be a power of two, 4096 or more: try 8192"
        );
        assert_eq!(parse_ring_size("2G"), Ok(1 << 31));
        let too_small = parse_ring_size("0").unwrap_err();
        assert_eq!(too_small, "must be a power of two, 4096 or more: try 4096");
        for large in [
            "8G",
            "3G",
            "64G",
            "2147483649",
            "99999999999",
            "18446744073709551615K",
        ] {
            let error = parse_ring_size(large).unwrap_err();
            assert_eq!(error, "more than 2 GiB: write 2G or less", "{large}");
        }
        for wrong in ["", "K", "64X", "-4096"] {
            let error = parse_ring_size(wrong).unwrap_err();
            assert_eq!(error, "not a size: write 65536, 64K or 4M", "{wrong}");
        }
    }
}
