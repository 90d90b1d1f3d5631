//! One cell of the table: text written straight into the output buffer, and
//! what is cut when it does not fit.

use std::{fmt, io::Write as _, net::IpAddr};

use unicode_width::UnicodeWidthChar as _;

use crate::{
    base::{ascii, memo::Memo, sanitize, time::LocalClock},
    events::record::Endpoint,
};

/// Room for the text of an IPv4 endpoint and its service, and of most others.
const ROOM: usize = 64;

/// Room that a service has to have after an address and a port, its space among it.
const LEAST_SERVICE: usize = 3;

/// Columns of the terminal that `text` takes.
fn width(text: &[u8]) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    // Cells hold UTF-8 only: names are escaped on their way in.
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| c.width().unwrap_or(0))
        .sum()
}

/// A cell being written.
pub(crate) struct Cell<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    width: usize,
    budget: usize,
    clock: &'a mut LocalClock,
    /// `None` where it remembers nothing.
    endpoints: Option<&'a mut Endpoints>,
    signs: Signs,
    has_services: bool,
}

/// The texts of the endpoints last written: that of a service is in all rows that have to do with
/// it, a client's in those of its connection.
pub(crate) type Endpoints = Memo<EndpointText, 256>;

/// What an endpoint is written as where there is room.
#[derive(Debug)]
pub(crate) struct EndpointText {
    /// All that the text depends on.
    endpoint: Endpoint,
    service: Option<&'static str>,
    text: Vec<u8>,
    width: usize,
}

/// What stands for a value that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signs {
    Shown,
    LeftOut,
}

impl<'a> Cell<'a> {
    /// A cell at the end of `out` that has room for `budget` columns.
    pub(crate) fn new(out: &'a mut Vec<u8>, budget: usize, clock: &'a mut LocalClock) -> Self {
        Self {
            start: out.len(),
            width: 0,
            out,
            budget,
            clock,
            endpoints: None,
            signs: Signs::Shown,
            has_services: true,
        }
    }

    /// The cell with a memory of what it has written.
    pub(crate) fn remembering(self, endpoints: &'a mut Endpoints) -> Self {
        Self {
            endpoints: Some(endpoints),
            ..self
        }
    }

    /// The cell with ports as numbers alone.
    #[cfg(feature = "top")]
    pub(crate) fn without_services(self) -> Self {
        Self {
            has_services: false,
            ..self
        }
    }

    /// The cell without signs: what is not there is nothing.
    pub(crate) fn without_signs(self) -> Self {
        Self {
            signs: Signs::LeftOut,
            ..self
        }
    }

    fn sign(&mut self, sign: &str) {
        if self.signs == Signs::Shown {
            self.put(sign);
        }
    }

    /// Columns written so far.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }

    /// Columns left.
    pub(crate) fn room(&self) -> usize {
        self.budget.saturating_sub(self.width)
    }

    /// ASCII words of our own; never cut.
    pub(crate) fn put(&mut self, text: &str) {
        debug_assert!(text.is_ascii(), "{text:?} has another width");
        self.out.extend_from_slice(text.as_bytes());
        self.width += text.len();
    }

    /// A number; never cut, because half a number is another number.
    pub(crate) fn number(&mut self, number: impl itoa::Integer) {
        self.put(itoa::Buffer::new().format(number));
    }

    /// A value no stage could find out.
    pub(crate) fn unknown(&mut self) {
        self.sign("?");
    }

    /// A value that does not exist here.
    pub(crate) fn none(&mut self) {
        self.sign("-");
    }

    /// A port; `*` while the kernel has not chosen it.
    pub(crate) fn port(&mut self, port: Option<u16>) {
        match port {
            Some(port) => {
                let from = self.out.len();
                ascii::push_u16(self.out, port);
                self.width += self.out.len() - from;
            }
            None => self.sign("*"),
        }
    }

    /// Anything else of our own; never cut.
    pub(crate) fn display(&mut self, value: &impl fmt::Display) {
        let from = self.out.len();
        // Writing into a Vec cannot fail.
        let _ = write!(self.out, "{value}");
        self.width += width(self.out.get(from..).unwrap_or_default());
    }

    /// The local time of day.
    pub(crate) fn time_of_day(&mut self, wall_ns: i128) {
        let time = self.clock.time_of_day(wall_ns).as_bytes();
        self.out.extend_from_slice(time);
        self.width += time.len();
    }

    /// A name from outside: escaped, and cut to the room that is left.
    pub(crate) fn name(&mut self, name: &[u8]) {
        let (from, room) = (self.out.len(), self.room());
        if name.len() <= room && sanitize::is_plain(name) {
            self.out.extend_from_slice(name);
            self.width += name.len();
            return;
        }
        sanitize::push(self.out, name);
        self.width += cut(self.out, from, room);
    }

    /// A span of time in the largest unit that keeps two digits.
    pub(crate) fn duration_us(&mut self, us: u64) {
        let (number, unit, tenths) = match us {
            0..1_000 => (us, "µs", None),
            1_000..10_000 => (us / 1_000, "ms", Some(us / 100 % 10)),
            10_000..1_000_000 => (us / 1_000, "ms", None),
            1_000_000..10_000_000 => (us / 1_000_000, "s", Some(us / 100_000 % 10)),
            _ => (us / 1_000_000, "s", None),
        };
        self.number(number);
        if let Some(tenths) = tenths {
            self.put(".");
            self.number(tenths);
        }
        self.out.extend_from_slice(unit.as_bytes());
        self.width += unit.chars().count();
    }

    /// A number of bytes in the largest unit (of 1,024) that keeps two digits.
    pub(crate) fn size(&mut self, bytes: u64) {
        const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
        let mut unit = "";
        let mut whole = bytes;
        let mut tenths = 0;
        for next in UNITS {
            if whole < 1_024 {
                break;
            }
            tenths = whole % 1_024 * 10 / 1_024;
            whole /= 1_024;
            unit = next;
        }
        self.number(whole);
        if whole < 10 && !unit.is_empty() {
            self.put(".");
            self.number(tenths);
        }
        self.put(unit);
    }

    /// An address; never cut.
    pub(crate) fn ip(&mut self, ip: IpAddr) {
        let from = self.out.len();
        ascii::push_ip(self.out, ip);
        self.width += self.out.len() - from;
    }

    /// `10.0.0.1:80 http`, `[::1]:80`, `[fe80::1%3]:80`, `10.0.0.1:*`. Cut where
    /// there is no room: first the service, then the address, never the port.
    pub(crate) fn endpoint(&mut self, endpoint: Endpoint, service: Option<&'static str>) {
        let service = service.filter(|_| self.has_services);
        let room = self.room();
        let known = match &mut self.endpoints {
            Some(endpoints) => remembered(endpoints, self.clock, endpoint, service),
            None => return self.write_endpoint(endpoint, service),
        };
        if known.width + LEAST_SERVICE > room {
            return self.write_endpoint(endpoint, service);
        }
        self.out.extend_from_slice(&known.text);
        self.width += known.width;
    }

    fn write_endpoint(&mut self, endpoint: Endpoint, service: Option<&'static str>) {
        let Endpoint { ip, port, ifindex } = endpoint;
        let v6 = ip.is_ipv6();
        if v6 {
            self.put("[");
        }
        self.ip(ip);
        if let (IpAddr::V6(ip), Some(ifindex)) = (ip, ifindex)
            && ip.is_unicast_link_local()
        {
            self.put("%");
            self.number(ifindex);
        }
        let address_end = self.out.len();
        self.put(if v6 { "]:" } else { ":" });
        self.port(port);
        self.cut_address(address_end);
        if let Some(service) = service
            && self.room() > LEAST_SERVICE
        {
            self.put(" ");
            self.name(service.as_bytes());
        }
    }

    /// Shortens the address that ends at `address_end` until address and port
    /// fit, leaving at least one character of it.
    fn cut_address(&mut self, address_end: usize) {
        let excess = self.width.saturating_sub(self.budget);
        if excess == 0 {
            return;
        }
        // One more, for the ellipsis.
        let kept = address_end
            .saturating_sub(excess + 1)
            .max(self.start + 2)
            .min(address_end);
        self.out.splice(kept..address_end, "…".bytes());
        self.width = self.width + 1 + kept - address_end;
    }

    /// Cuts the whole cell to its budget; for the last one of a row.
    pub(crate) fn cut_to_budget(&mut self) {
        if self.width > self.budget {
            self.width = cut(self.out, self.start, self.budget);
        }
    }
}

/// The text of an endpoint, as a cell without limits has it.
fn remembered<'e>(
    endpoints: &'e mut Endpoints,
    clock: &mut LocalClock,
    endpoint: Endpoint,
    service: Option<&'static str>,
) -> &'e EndpointText {
    let low = match endpoint.ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    let port = endpoint.port.unwrap_or_default();
    endpoints.get_or_remake(
        usize::from(port ^ u16::from(low)),
        |known| known.endpoint == endpoint && known.service == service,
        |other| {
            let mut text = other.map_or_else(|| Vec::with_capacity(ROOM), |other| other.text);
            text.clear();
            let mut cell = Cell::new(&mut text, usize::MAX, clock);
            cell.write_endpoint(endpoint, service);
            EndpointText {
                width: cell.width(),
                endpoint,
                service,
                text,
            }
        },
    )
}

/// Cuts the text of `out` from byte `from` on to `room` columns, of which the
/// last is then an ellipsis. Says how wide the text is now.
fn cut(out: &mut Vec<u8>, from: usize, room: usize) -> usize {
    let text = out.get(from..).unwrap_or_default();
    let whole = width(text);
    if whole <= room {
        return whole;
    }
    let mut kept = 0;
    let mut columns = 0;
    for c in String::from_utf8_lossy(text).chars() {
        let next = columns + c.width().unwrap_or(0);
        if next >= room {
            break;
        }
        columns = next;
        kept += c.len_utf8();
    }
    out.truncate(from + kept);
    out.extend_from_slice("…".as_bytes());
    columns + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_written() {
        let end = |ip: &str, port, ifindex| Endpoint {
            ip: ip.parse().unwrap(),
            port,
            ifindex,
        };
        let ends = [
            (end("192.0.2.7", Some(443), None), Some("https")),
            (end("192.0.2.7", Some(443), None), None),
            (end("192.0.2.8", Some(443), None), Some("ab")),
            (end("2001:db8::7", None, Some(3)), None),
            (end("fe80::7", Some(443), Some(3)), Some("https")),
            (end("fe80::7", Some(443), Some(4)), Some("https")),
        ];
        let mut endpoints = Endpoints::new();
        let mut clock = LocalClock::new(jiff::tz::TimeZone::UTC);
        for budget in (0..40).chain([usize::MAX]).cycle().take(82) {
            for (end, service) in ends {
                let mut direct = Vec::new();
                let mut cell = Cell::new(&mut direct, budget, &mut clock);
                cell.endpoint(end, service);
                let width = cell.width();
                let mut text = Vec::new();
                let mut cell = Cell::new(&mut text, budget, &mut clock).remembering(&mut endpoints);
                cell.endpoint(end, service);
                assert_eq!(cell.width(), width, "{end:?} in {budget}");
                assert_eq!(text, direct, "{end:?} in {budget}");
            }
        }
    }
}
