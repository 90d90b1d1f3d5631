//! The local time zone, as the C library finds it: tzset(3). So times are those of date(1).

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path},
};

use jiff::tz::TimeZone;

use crate::base::sanitize::Escaped;

/// The system's zone.
const SYSTEM: &str = "/etc/localtime";
/// Where zones have their files, unless `TZDIR` says otherwise.
const ZONES: &str = "/usr/share/zoneinfo";
/// When summer time begins and ends where `TZ` has a name for it, but no rule.
const USUAL_SUMMER: &str = ",M3.2.0,M11.1.0";

/// The local time zone: `TZ`, else the system's. As date(1) does, it takes UTC where `TZ`
/// names none that is known, but says so.
pub(crate) fn local() -> TimeZone {
    let Some(name) = env::var_os("TZ") else {
        return of_file(Path::new(SYSTEM)).unwrap_or(TimeZone::UTC);
    };
    let name = name.as_bytes();
    let name = name.strip_prefix(b":").unwrap_or(name);
    if name.is_empty() {
        return TimeZone::UTC;
    }
    named(OsStr::from_bytes(name)).unwrap_or_else(|| {
        let name = Escaped(name);
        log::warn!("TZ={name}: no such time zone here; times are UTC");
        TimeZone::UTC
    })
}

/// A zone that has a file, such as `Europe/Berlin`; a rule, such as
/// `CET-1CEST,M3.5.0,M10.5.0/3`; or a name for summer time without a rule, such as `CET-1CEST`.
fn named(name: &OsStr) -> Option<TimeZone> {
    let path = Path::new(name);
    let mut parts = path.components();
    let is_below = parts.all(|part| matches!(part, Component::Normal(_)));
    let zones = env::var_os("TZDIR").unwrap_or_else(|| ZONES.into());
    let is_place = path.is_absolute() || is_below;
    let zone = is_place.then(|| of_file(&Path::new(&zones).join(path)));
    let by_rule = |rule: &str| TimeZone::posix(rule).ok();
    zone.flatten().or_else(|| {
        let name = name.to_str()?;
        by_rule(name).or_else(|| by_rule(&format!("{name}{USUAL_SUMMER}")))
    })
}

fn of_file(path: &Path) -> Option<TimeZone> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = fs::read(path).ok()?;
    // What is not told of it cannot be read either.
    let _ = count_leap_seconds(&mut file);
    TimeZone::tzif(&path.to_string_lossy(), &file).ok()
}

/// The lengths of a header: of its beginning, and of all of it (RFC 9636 §3.1).
const MAGIC: usize = 20;
const HEADER: usize = 44;

/// Makes the clock of a zone that counts leap seconds, as those below `right/` do, one that is
/// behind by as many as there were in all: whoever reads the file does not know of them.
fn count_leap_seconds(file: &mut Vec<u8>) -> Option<()> {
    /// Of a leap second: when it was, and how many there were with it.
    const LEAP: usize = 8 + 4;
    /// Of a type of local time, which begins with its offset to UTC.
    const TYPE: usize = 6;
    let old = Counts::of(file)?;
    let start = HEADER + old.length(4)?;
    let counts = Counts::of(file.get(start..)?)?;
    if counts.leaps == 0 {
        return Some(());
    }
    let body = start + HEADER;
    let types = body + counts.times * (8 + 1);
    let leaps = types + counts.types * TYPE + counts.names;
    let last = leaps + counts.leaps * LEAP;
    let seconds = number(file, last - 4)?;
    for at in (types..).step_by(TYPE).take(counts.types) {
        let offset = number(file, at)?.wrapping_sub(seconds);
        file.get_mut(at..at + 4)?
            .copy_from_slice(&offset.to_be_bytes());
    }
    // A rule for the time after the last change would not know of them either.
    file.truncate(start + HEADER + counts.length(8)?);
    file.extend(b"\n\n");
    file.drain(leaps..last);
    file.get_mut(start + MAGIC + 8..start + MAGIC + 12)?.fill(0);
    Some(())
}

/// What a header counts.
struct Counts {
    utc_marks: usize,
    standard_marks: usize,
    leaps: usize,
    times: usize,
    types: usize,
    names: usize,
}

impl Counts {
    fn of(header: &[u8]) -> Option<Self> {
        let is_one = header.starts_with(b"TZif") && *header.get(4)? >= b'2';
        let count = |n: usize| usize::try_from(number(header, MAGIC + 4 * n)?).ok();
        is_one.then_some(Self {
            utc_marks: count(0)?,
            standard_marks: count(1)?,
            leaps: count(2)?,
            times: count(3)?,
            types: count(4)?,
            names: count(5)?,
        })
    }

    /// The length of what follows the header, if a time has `size` bytes.
    fn length(&self, size: usize) -> Option<usize> {
        [
            (self.times, size + 1),
            (self.types, 6),
            (self.names, 1),
            (self.leaps, size + 4),
            (self.standard_marks, 1),
            (self.utc_marks, 1),
        ]
        .into_iter()
        .try_fold(0_usize, |sum, (count, each)| {
            sum.checked_add(count.checked_mul(each)?)
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    let number = bytes.get(at..)?.first_chunk()?;
    Some(i32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use crate::base::zone::*;

    /// A zone an hour before UTC, with so many leap seconds.
    fn file(leaps: i32, rule: &str) -> Vec<u8> {
        let counts = [0, 0, leaps, 1, 2, 4];
        let header = |counts: [i32; 6]| {
            let mut header = b"TZif2".to_vec();
            header.resize(MAGIC, 0);
            header.extend(counts.into_iter().flat_map(i32::to_be_bytes));
            header
        };
        let mut file = header([0, 0, 0, 0, 1, 4]);
        file.extend(b"\0\0\0\0\0\0UTC\0UTC\0");
        file.truncate(file.len() - 4);
        file.extend(header(counts));
        file.extend(1_000_i64.to_be_bytes());
        file.push(1);
        for offset in [0, 3_600_i32] {
            file.extend(offset.to_be_bytes());
            file.extend([0, 0]);
        }
        file.extend(b"CET\0");
        for n in 1..=leaps {
            file.extend(i64::from(n * 10_000).to_be_bytes());
            file.extend(n.to_be_bytes());
        }
        file.extend(format!("\n{rule}\n").bytes());
        file
    }

    /// What a clock there says in the first second of 2026.
    fn clock(mut file: Vec<u8>) -> String {
        count_leap_seconds(&mut file).unwrap();
        let zone = TimeZone::tzif("", &file).unwrap();
        let time = Timestamp::from_second(1_767_225_600).unwrap();
        time.to_zoned(zone).strftime("%H:%M:%S").to_string()
    }

    #[test]
    fn a_clock_that_counts_leap_seconds_is_behind() {
        assert_eq!(clock(file(0, "CET-1")), "01:00:00");
        assert_eq!(clock(file(27, "")), "00:59:33");
        assert_eq!(clock(file(2, "CET-1")), "00:59:58");
    }

    #[test]
    fn a_file_that_ends_early_is_none() {
        let whole = file(3, "");
        for length in 0..whole.len() {
            let mut part = whole.get(..length).unwrap().to_vec();
            let _ = count_leap_seconds(&mut part);
        }
    }
}
