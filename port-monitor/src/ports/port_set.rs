//! A set of ports as people write it: `80,443,8000-8100,ssh,well-known`. Pure.

use std::{
    num::{IntErrorKind, ParseIntError},
    ops::RangeInclusive,
    str::FromStr,
};

use port_monitor_common::config::PORT_SET_WORDS;
use thiserror::Error;

use crate::{
    base::order,
    ports::{class::PortClass, services},
};

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet {
    /// Ascending, with a gap between one and the next.
    ranges: Vec<RangeInclusive<u16>>,
}

/// Why a text is not a set of ports.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PortSetError {
    /// Nothing between two commas, or nothing at all.
    #[error(
        "empty entry: write ports, ranges, service names or port classes, as in `80,8000-8100,ssh`"
    )]
    Empty,
    /// A number above 65535.
    #[error("port {0} is out of range: ports are 0-65535")]
    OutOfRange(String),
    /// A range without a first or last port.
    #[error("`{0}` is not a port range: write first-last, as in 8000-8100")]
    NotARange(String),
    /// A range whose last port is before its first.
    #[error("port range {first}-{last} is reversed: write {last}-{first}")]
    Reversed {
        /// The number before the dash.
        first: u16,
        /// The number after it.
        last: u16,
    },
    /// Neither a port nor a class nor a service.
    #[error("unknown service `{name}`{}", .suggestion.map_or_else(
        || ": use its port number".to_owned(),
        |known| format!(": did you mean `{known}`?"),
    ))]
    UnknownService {
        /// What was written.
        name: String,
        /// A known name much like it.
        suggestion: Option<&'static str>,
    },
}

impl PortSet {
    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&port))
    }

    /// The set as ranges: ascending, with a gap between one and the next.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> {
        self.ranges.iter().cloned()
    }

    /// The set as a bit map, port 0 in the lowest bit of the first word: the
    /// form of the kernel's map of port sets.
    pub fn words(&self) -> Box<[u64; PORT_SET_WORDS as usize]> {
        let mut words = Box::new([0; PORT_SET_WORDS as usize]);
        for port in self.ranges().flatten() {
            if let Some(word) = words.get_mut(usize::from(port / 64)) {
                *word |= 1 << (port % 64);
            }
        }
        words
    }
}

impl FromIterator<RangeInclusive<u16>> for PortSet {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<u16>>>(ranges: T) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        order::sort_by_key(&mut ranges, |range| *range.start());
        ranges.dedup_by(|next, range| {
            let touching = *next.start() <= range.end().saturating_add(1);
            if touching {
                *range = *range.start()..=*range.end().max(next.end());
            }
            touching
        });
        Self { ranges }
    }
}

impl FromStr for PortSet {
    type Err = PortSetError;

    fn from_str(text: &str) -> Result<Self, PortSetError> {
        let mut ranges = Vec::new();
        for entry in text.split(',') {
            ranges.append(&mut parse_entry(entry.trim())?);
        }
        Ok(ranges.into_iter().collect())
    }
}

/// The ports of one entry, which has no comma.
fn parse_entry(entry: &str) -> Result<Vec<RangeInclusive<u16>>, PortSetError> {
    if entry.is_empty() {
        return Err(PortSetError::Empty);
    }
    if entry
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b':'))
    {
        return parse_numbers(entry).map(|range| vec![range]);
    }
    let class = PortClass::ALL
        .into_iter()
        .find(|class| class.name().eq_ignore_ascii_case(entry));
    if let Some(class) = class {
        return Ok(vec![class.ports()]);
    }
    let ranges: Vec<_> = services::ports_named(entry)
        .map(|port| port..=port)
        .collect();
    if ranges.is_empty() {
        return Err(PortSetError::UnknownService {
            name: entry.to_owned(),
            suggestion: suggest(entry),
        });
    }
    Ok(ranges)
}

/// A port, or a range `first-last` or `first:last`.
fn parse_numbers(entry: &str) -> Result<RangeInclusive<u16>, PortSetError> {
    let Some((first, last)) = entry.split_once(['-', ':']) else {
        let port = parse_port(entry, entry)?;
        return Ok(port..=port);
    };
    let (first, last) = (parse_port(first, entry)?, parse_port(last, entry)?);
    if first > last {
        return Err(PortSetError::Reversed { first, last });
    }
    Ok(first..=last)
}

fn parse_port(number: &str, entry: &str) -> Result<u16, PortSetError> {
    number.parse().map_err(|error: ParseIntError| {
        if *error.kind() == IntErrorKind::PosOverflow {
            PortSetError::OutOfRange(number.to_owned())
        } else {
            PortSetError::NotARange(entry.to_owned())
        }
    })
}

/// The class or service that `name` most likely is a misspelling of.
fn suggest(name: &str) -> Option<&'static str> {
    let classes = PortClass::ALL.into_iter().map(PortClass::name);
    services::closest(name, classes).or_else(|| services::suggest(name))
}

#[cfg(test)]
mod tests {
    use crate::ports::port_set::*;

    fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
        text.parse::<PortSet>().unwrap().ranges().collect()
    }

    fn error(text: &str) -> String {
        text.parse::<PortSet>().unwrap_err().to_string()
    }

    #[test]
    fn entry_is_a_port_a_range_a_service_or_a_class() {
        assert_eq!(ranges("80"), [80..=80]);
        assert_eq!(ranges("0"), [0..=0]);
        assert_eq!(ranges("65535"), [65535..=65535]);
        assert_eq!(ranges("8000-8100"), [8000..=8100]);
        assert_eq!(ranges("8000:8100"), [8000..=8100]);
        assert_eq!(ranges("ssh"), [22..=22]);
        assert_eq!(ranges("X11"), [6000..=6063]);
        assert_eq!(ranges("http-alt"), [591..=591, 8008..=8008, 8080..=8080]);
        assert_eq!(ranges("Well-Known"), [0..=1023]);
        assert_eq!(ranges("dynamic"), [49152..=65535]);
    }

    #[test]
    fn list_is_sorted_and_joined_where_entries_touch() {
        assert_eq!(
            ranges("443, ssh,80,81-90,85-86,65535,90-95"),
            [22..=22, 80..=95, 443..=443, 65535..=65535]
        );
    }

    #[test]
    fn set_contains_the_ports_of_its_ranges_only() {
        let set: PortSet = "0,80-90".parse().unwrap();
        for (port, expected) in [(0, true), (1, false), (79, false), (80, true), (90, true)] {
            assert_eq!(set.contains(port), expected, "{port}");
        }
        assert!(!set.contains(91));
    }

    #[test]
    fn bit_map_agrees_with_contains_for_every_port() {
        let set: PortSet = "0,63,64,1000-2000,dynamic".parse().unwrap();
        let words = set.words();
        for port in 0..=u16::MAX {
            let bit = words[usize::from(port / 64)] >> (port % 64) & 1 == 1;
            assert_eq!(bit, set.contains(port), "{port}");
        }
    }

    #[test]
    fn port_above_65535_is_named_with_the_range_of_ports() {
        let message = "port 70000 is out of range: ports are 0-65535";
        assert_eq!(error("70000"), message);
        assert_eq!(error("80,1-70000"), message);
    }

    #[test]
    fn incomplete_range_is_an_error() {
        for text in ["80-", "-80", ":", "80--90", "1-2-3"] {
            assert_eq!(
                error(text),
                format!("`{text}` is not a port range: write first-last, as in 8000-8100")
            );
        }
    }

    #[test]
    fn reversed_range_is_an_error_that_shows_the_right_order() {
        assert_eq!(
            error("8100-8000"),
            "port range 8100-8000 is reversed: write 8000-8100"
        );
    }

    #[test]
    fn empty_entry_is_an_error() {
        for text in ["", " ", "80,", ",80", "80,,443"] {
            assert_eq!(text.parse::<PortSet>(), Err(PortSetError::Empty), "{text}");
        }
    }

    #[test]
    fn unknown_service_is_an_error_with_a_suggestion_if_there_is_one() {
        assert_eq!(
            error("htps"),
            "unknown service `htps`: did you mean `https`?"
        );
        assert_eq!(
            error("wellknown"),
            "unknown service `wellknown`: did you mean `well-known`?"
        );
        assert_eq!(
            error("80,qqqqqq"),
            "unknown service `qqqqqq`: use its port number"
        );
    }
}
