//! TCP segments and ICMP messages as they go over a wire: RFC 9293 §3.1, RFC 792,
//! RFC 4443. Numbers are in network order there, and in the host's here.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, bail};

/// Flags of a segment.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// Protocols of the internet.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMP_V6: u8 = 58;

/// Sizes of headers, bytes.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

/// A TCP segment.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// Without PSH, which means nothing to what receives it.
    pub(super) flags: u8,
    pub(super) window: u16,
    /// A multiple of four bytes.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Segment {
    /// How much of the sequence it takes: a byte for each of payload, SYN and FIN.
    #[expect(clippy::cast_possible_truncation, reason = "less than a packet")]
    pub(super) fn length(&self) -> u32 {
        let ends = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.payload.len() as u32 + ends
    }

    /// The segment in a packet.
    pub(super) fn packet(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        body.extend(self.from.port().to_be_bytes());
        body.extend(self.to.port().to_be_bytes());
        body.extend(self.seq.to_be_bytes());
        body.extend(self.ack.to_be_bytes());
        let words = u8::try_from((TCP_HEADER + self.options.len()) / 4)?;
        body.extend([words << 4, self.flags]);
        body.extend(self.window.to_be_bytes());
        // The checksum, and no urgent pointer.
        body.extend([0; 4]);
        body.extend(&self.options);
        body.extend(&self.payload);
        packet(TCP, self.from.ip(), self.to.ip(), body, 16)
    }

    /// The segment in a packet, if there is one.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (from, to, rest) = match packet.first()? >> 4 {
            4 => (v4(packet, 12)?, v4(packet, 16)?, packet.get(IPV4_HEADER..)?),
            6 => (v6(packet, 8)?, v6(packet, 24)?, packet.get(IPV6_HEADER..)?),
            _ => return None,
        };
        if *packet.get(if from.is_ipv4() { 9 } else { 6 })? != TCP {
            return None;
        }
        let header = usize::from(rest.get(12)? >> 4) * 4;
        let short = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            from: SocketAddr::new(from, short(0)?),
            to: SocketAddr::new(to, short(2)?),
            seq: long(4)?,
            ack: long(8)?,
            flags: rest.get(13)? & !PSH,
            window: short(14)?,
            options: rest.get(TCP_HEADER..header)?.to_vec(),
            payload: rest.get(header..)?.to_vec(),
        })
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, name) in [(SYN, "SYN "), (FIN, "FIN "), (RST, "RST "), (ACK, "ACK ")] {
            f.write_str(if self.flags & flag == 0 { "" } else { name })?;
        }
        let (Self { seq, ack, .. }, length) = (self, self.payload.len());
        write!(f, "seq {seq} ack {ack} with {length} bytes to {}", self.to)
    }
}

/// What a router on the way says of a packet, by the numbers of `type` and `code`, with a
/// number that some of them have.
pub(super) fn icmp(
    router: IpAddr,
    (kind, code): (u8, u8),
    number: u32,
    about: &Segment,
) -> Result<Vec<u8>> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(number.to_be_bytes());
    body.extend(about.packet()?);
    let protocol = if router.is_ipv4() { ICMP } else { ICMP_V6 };
    packet(protocol, router, about.from.ip(), body, 2)
}

/// A packet with this body, whose checksum is at a place of it.
fn packet(
    protocol: u8,
    from: IpAddr,
    to: IpAddr,
    mut body: Vec<u8>,
    checksum: usize,
) -> Result<Vec<u8>> {
    const HOPS: u8 = 64;
    let length = u16::try_from(body.len())?;
    let mut pseudo = Vec::new();
    if protocol != ICMP {
        pseudo.extend(octets(from));
        pseudo.extend(octets(to));
        pseudo.extend([0, protocol]);
        pseudo.extend(length.to_be_bytes());
    }
    pseudo.extend(&body);
    let sum = inverted_sum(&pseudo).to_be_bytes();
    if let Some(place) = body.get_mut(checksum..checksum + 2) {
        place.copy_from_slice(&sum);
    }
    let mut packet = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let [high, low] = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0, 0, HOPS, protocol, 0, 0];
            header.extend(octets(from));
            header.extend(octets(to));
            let sum = inverted_sum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(_), IpAddr::V6(_)) => {
            let [high, low] = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, HOPS];
            header.extend(octets(from));
            header.extend(octets(to));
            header
        }
        _ => bail!("{from} and {to} are not of one family"),
    };
    packet.extend(body);
    Ok(packet)
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// The checksum of RFC 1071.
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
fn inverted_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}
