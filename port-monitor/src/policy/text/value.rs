//! The values of conditions: ports, peers, names, times. Each reader takes one
//! value and knows nothing of the rest of the policy.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
};

use port_monitor_common::{
    addr::{as_v4, v4_mapped},
    policy::{PortRange, Transport},
};

use super::{
    parse::{Value, integer, text, wrong_type},
    problem::Problem,
};
use crate::{events::record::PortClass, host::units};

/// A number, `"8000-8100"` or a class.
pub(crate) fn ports(value: &Value<'_>) -> Result<PortRange, Problem> {
    match integer(value) {
        Some(Ok(number)) => port(&number.to_string()).map(only),
        Some(Err(number)) => Err(Problem::PortOutOfRange(number)),
        None => {
            let text = text(value).map_err(|_| wrong_type(value, "a port, a range or a class"))?;
            let named = |class: &PortClass| class.name() == text;
            match PortClass::ALL.into_iter().find(named).map(PortClass::ports) {
                Some(ports) => Ok(PortRange {
                    first: (*ports.start()).into(),
                    last: (*ports.end()).into(),
                }),
                None => port_range(text),
            }
        }
    }
}

/// `"5432/tcp"` or `"8000-8100/udp"`.
pub(crate) fn service_ports(value: &Value<'_>) -> Result<PortRange, Problem> {
    let text = text(value)?;
    let malformed = || Problem::NotAServicePort(text.to_owned());
    let (ports, name) = text.split_once('/').ok_or_else(malformed)?;
    let range = port_range(ports)?;
    let mut transports = Transport::ALL.into_iter();
    let transport = transports.find(|transport| transport.name() == name);
    Ok(carried_by(transport.ok_or_else(malformed)?, range))
}

/// Ports of a transport, by a range that names no transport yet.
pub(crate) const fn carried_by(transport: Transport, range: PortRange) -> PortRange {
    let first = transport.ports().first;
    PortRange {
        first: first + range.first,
        last: first + range.last,
    }
}

fn port_range(text: &str) -> Result<PortRange, Problem> {
    let Some((first, last)) = text.split_once('-') else {
        return port(text).map(only);
    };
    let (Ok(first), Ok(last)) = (port(first), port(last)) else {
        // The end that is a wrong number says more than "not a range".
        return match (port(first), port(last)) {
            (Err(problem @ Problem::PortOutOfRange(_)), _)
            | (_, Err(problem @ Problem::PortOutOfRange(_))) => Err(problem),
            _ => Err(Problem::NotAPort(text.to_owned())),
        };
    };
    if first > last {
        return Err(Problem::ReversedRange { first, last });
    }
    Ok(PortRange {
        first: first.into(),
        last: last.into(),
    })
}

fn port(text: &str) -> Result<u16, Problem> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::NotAPort(text.to_owned()));
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(Problem::PortOutOfRange(text.to_owned())),
        Ok(port) => Ok(port),
    }
}

pub(crate) fn only(port: u16) -> PortRange {
    PortRange {
        first: port.into(),
        last: port.into(),
    }
}

/// Sorts ranges and joins those that touch.
pub(crate) fn joined(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touch = next.first <= kept.last + 1;
        if touch {
            kept.last = kept.last.max(next.last);
        }
        touch
    });
    ranges
}

/// `ip` as the decision function takes it, IPv4 as IPv4-mapped.
pub(crate) fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address in `octets`, IPv4-mapped as IPv4.
pub(crate) fn address(octets: [u8; 16]) -> IpAddr {
    match as_v4(&octets) {
        Some(v4) => v4.into(),
        None => Ipv6Addr::from(octets).into(),
    }
}

/// A name for a rule, network or service: fit for a column, a metric's label
/// and a search, and never mistaken for an address.
pub(crate) fn name(text: &str) -> Result<&str, Problem> {
    let fits = text.len() <= 64
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text != SELF;
    fits.then_some(text)
        .ok_or_else(|| Problem::BadName(text.to_owned()))
}

/// The peer that is this host.
pub(crate) const SELF: &str = "self";

/// The whole name of a systemd unit, or a pattern of such names.
pub(crate) fn unit<'t>(value: &'t Value<'_>) -> Result<Cow<'t, str>, Problem> {
    let name = text(value)?;
    units::completed(name).ok_or_else(|| Problem::NotAUnit(name.to_owned()))
}

/// The text names one systemd unit, with its type, and is no pattern.
pub(crate) fn is_unit(name: &str) -> bool {
    units::completed(name).is_some_and(|whole| whole == name) && units::pattern(name).is_none()
}

/// An absolute path.
pub(crate) fn path<'t>(value: &'t Value<'_>) -> Result<&'t str, Problem> {
    let path = text(value)?;
    if !path.starts_with('/') {
        return Err(Problem::RelativePath(path.to_owned()));
    }
    Ok(path)
}

/// `ns` in the 64 bits of the decision function, enough until the year 2262.
pub(crate) fn saturating_ns(ns: i128) -> i64 {
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use crate::policy::text::value::*;

    #[test]
    fn touching_ranges_become_one() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(
            joined(vec![
                range(90, 95),
                range(1, 5),
                range(6, 9),
                range(3, 4),
                range(96, 65535)
            ]),
            [range(1, 9), range(90, 65535)]
        );
    }

    #[test]
    fn names_are_fit_for_a_column() {
        for good in ["ssh-internal", "a", "3com.v2_x"] {
            assert_eq!(name(good), Ok(good));
        }
        for bad in ["", "10.0.0.1", "a b", "self", "a\u{1b}[0m", &"x".repeat(65)] {
            assert_eq!(name(bad), Err(Problem::BadName(bad.to_owned())));
        }
    }
}
