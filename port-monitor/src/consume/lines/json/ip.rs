//! Addresses, rendered once: a host speaks with few at a time, and from fewer.

use std::net::IpAddr;

use super::line::Line;
use crate::base::{ascii, memo::Memo};

/// Room for the text of any address.
const ROOM: usize = 40;

/// The texts of the addresses last seen.
#[derive(Debug)]
pub(crate) struct IpTexts(Memo<IpText, 64>);

#[derive(Debug)]
struct IpText {
    ip: IpAddr,
    text: [u8; ROOM],
    /// How much of the room is none of it.
    unused: usize,
}

impl IpTexts {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self(Memo::new())
    }

    /// Appends an address, without quotes.
    pub(crate) fn push(&mut self, line: &mut Line<'_>, ip: IpAddr) {
        let ip = self
            .0
            .get(hash(ip), |text| text.ip == ip, || IpText::new(ip));
        // A copy of fixed length is a few instructions, one of any length a call.
        line.0.extend_from_slice(&ip.text);
        line.0.truncate(line.0.len() - ip.unused);
    }
}

impl IpText {
    fn new(ip: IpAddr) -> Self {
        let mut room = Vec::new();
        ascii::push_ip(&mut room, ip);
        let unused = ROOM.saturating_sub(room.len());
        room.resize(ROOM, 0);
        let text = room.first_chunk().copied().unwrap_or([0; ROOM]);
        Self { ip, text, unused }
    }
}

/// Hosts of a network differ in their last bytes.
fn hash(ip: IpAddr) -> usize {
    let [.., high, low] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
    };
    usize::from(high ^ low)
}
