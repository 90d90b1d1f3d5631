//! Numbers and addresses as ASCII, straight into the output buffer: the text
//! [`std::fmt`] gives, at a fraction of its price.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Appends a decimal number.
pub(crate) fn push_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends sixteen hexadecimal digits.
pub(crate) fn push_hex(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(hex_of(number.to_be_bytes()).as_flattened());
}

/// The two hexadecimal digits of a byte.
pub(crate) fn hex(byte: u8) -> [u8; 2] {
    HEX[byte as usize]
}

/// The two hexadecimal digits of each byte. A loop is a few instructions a byte; `map` of an array
/// is a call.
fn hex_of<const N: usize>(bytes: [u8; N]) -> [[u8; 2]; N] {
    let mut digits = [[0; 2]; N];
    for (pair, byte) in digits.iter_mut().zip(bytes) {
        *pair = hex(byte);
    }
    digits
}

/// The hexadecimal digits of all bytes.
pub(crate) fn hex_text(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|&byte| hex(byte));
    digits.map(char::from).collect()
}

/// The two hexadecimal digits of each byte.
static HEX: [[u8; 2]; 256] = {
    let mut digits = [[0; 2]; 256];
    let mut byte = 0;
    while byte < digits.len() {
        digits[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    digits
};

/// Appends nine digits: the fraction of a second in ns.
pub(crate) fn push_nanoseconds(out: &mut Vec<u8>, ns: u32) {
    // A billion more has a digit before the nine.
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(1_000_000_000 + ns).as_bytes();
    out.extend_from_slice(digits.last_chunk::<9>().unwrap_or(&[b'0'; 9]));
}

/// Appends a decimal number that has five digits at most.
pub(crate) fn push_u16(out: &mut Vec<u8>, number: u16) {
    let digits = |pair: u16| PAIRS[usize::from(pair)];
    let high = digits(number / 10_000);
    let middle = digits(number / 100 % 100);
    let low = digits(number % 100);
    let unused = match number {
        ..10 => 4,
        10..100 => 3,
        100..1_000 => 2,
        1_000..10_000 => 1,
        10_000.. => 0,
    };
    // As for octets: a copy of fixed length, and what is too much of it taken back.
    let digits = u64::from_le_bytes([high[1], middle[0], middle[1], low[0], low[1], 0, 0, 0])
        >> (8 * unused);
    out.extend_from_slice(&digits.to_le_bytes());
    out.truncate(out.len() - 3 - unused);
}

/// The two decimal digits of each number below 100.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [DIGITS[number / 10], DIGITS[number % 10]];
        number += 1;
    }
    pairs
};

/// Appends an address.
pub(crate) fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => push_ipv4(out, ip),
        IpAddr::V6(ip) => push_ipv6(out, ip),
    }
}

fn push_ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    let mut text = [0; 16];
    let mut end = 0;
    for octet in ip.octets() {
        // A copy of fixed length is one instruction, one of any length a call.
        let (digits, unused) = OCTETS[octet as usize];
        if let Some(room) = text.get_mut(end..end + 4) {
            room.copy_from_slice(&digits);
        }
        end += 4 - unused;
    }
    out.extend_from_slice(&text);
    // Without the last dot.
    out.truncate(out.len() + end - 1 - text.len());
}

/// Of each octet, the digits and a dot, and how many bytes after that are none
/// of it.
static OCTETS: [([u8; 4], usize); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut octet = 0;
    while octet < octets.len() {
        let [hundreds, tens, ones] = [
            DIGITS[octet / 100],
            DIGITS[octet / 10 % 10],
            DIGITS[octet % 10],
        ];
        octets[octet] = match octet {
            ..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 1),
            100.. => ([hundreds, tens, ones, b'.'], 0),
        };
        octet += 1;
    }
    octets
};

/// As RFC 5952 asks.
fn push_ipv6(out: &mut Vec<u8>, ip: Ipv6Addr) {
    if let Some(ip) = ip.to_ipv4_mapped() {
        out.extend_from_slice(b"::ffff:");
        return push_ipv4(out, ip);
    }
    let segments = ip.segments();
    let zeros = longest_zeros(segments);
    for (index, segment) in segments.into_iter().enumerate() {
        if zeros.contains(&index) {
            if index == zeros.start {
                out.extend_from_slice(b"::");
            }
            continue;
        }
        if index != 0 && index != zeros.end {
            out.push(b':');
        }
        let digits = hex_of(segment.to_be_bytes());
        let leading_zeros = (segment.leading_zeros() / 4).min(3) as usize;
        out.extend(digits.as_flattened().iter().skip(leading_zeros));
    }
}

/// The longest run of at least two zeros, the first one of equals; else empty.
fn longest_zeros(segments: [u16; 8]) -> Range<usize> {
    let mut longest = 0..0;
    let mut start = 0;
    for (index, segment) in segments.into_iter().enumerate() {
        if segment != 0 {
            start = index + 1;
        } else if index + 1 - start > longest.len().max(1) {
            longest = start..index + 1;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::base::ascii::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn addresses_are_those_of_the_standard_library(
            ip in any::<IpAddr>(),
            // Zeros are rare in addresses made up at random.
            sparse in proptest::array::uniform8(prop_oneof![Just(0), 0..=0xffff_u16]),
        ) {
            let sparse = IpAddr::from(sparse);
            for ip in [ip, sparse] {
                prop_assert_eq!(text(|out| push_ip(out, ip)), ip.to_string());
            }
        }

        #[test]
        fn numbers_are_those_of_the_standard_library(number: u64, ns in 0..1_000_000_000_u32) {
            prop_assert_eq!(text(|out| push_number(out, number)), number.to_string());
            prop_assert_eq!(text(|out| push_hex(out, number)), format!("{number:016x}"));
            prop_assert_eq!(text(|out| push_nanoseconds(out, ns)), format!("{ns:09}"));
        }
    }

    #[test]
    fn every_port_has_its_digits() {
        for port in 0..=u16::MAX {
            assert_eq!(text(|out| push_u16(out, port)), port.to_string());
        }
    }

    #[test]
    fn every_octet_has_its_digits() {
        for octet in 0..=u8::MAX {
            let ip = Ipv4Addr::new(octet, 0, 255, octet);
            assert_eq!(text(|out| push_ip(out, ip.into())), ip.to_string());
        }
    }

    #[test]
    fn mapped_and_unspecified_addresses_have_their_own_forms() {
        for ip in [
            "::",
            "::1",
            "1::",
            "::ffff:10.0.0.1",
            "1:0:0:2::",
            "0:1::",
            "1:0:2::3:0",
        ] {
            assert_eq!(text(|out| push_ip(out, ip.parse().unwrap())), ip);
        }
    }
}
