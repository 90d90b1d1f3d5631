//! Addresses as the wire carries them: 16 bytes, IPv4 in its IPv4-mapped form.
//!
//! One spelling for both families is what makes `::ffff:10.0.0.1` and
//! `10.0.0.1` the same peer to filters, policy and output (RFC 4291 §2.5.5.2).

/// The 12 bytes before the IPv4 address in `::ffff:a.b.c.d`.
pub const V4_MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// `::ffff:a.b.c.d` for the IPv4 address `a.b.c.d`, network byte order.
#[inline(always)]
pub const fn v4_mapped(v4: [u8; 4]) -> [u8; 16] {
    let [high, second, third, low] = v4;
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, high, second, third, low,
    ]
}

/// The IPv4 address inside `addr`, when it is an IPv4-mapped one.
#[inline(always)]
pub fn as_v4(addr: &[u8; 16]) -> Option<[u8; 4]> {
    let [prefix @ .., high, second, third, low] = *addr;
    (prefix == V4_MAPPED_PREFIX).then_some([high, second, third, low])
}

/// An address in words as it lies in memory: in eBPF, bytes would be copied and
/// verified one by one.
pub type Words = [u32; 4];

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
/// The first word of `64:ff9b::/96`, through which NAT64 leads to IPv4 (RFC 6052).
const NAT64: u32 = u32::from_ne_bytes([0, 0x64, 0xff, 0x9b]);
const LOOPBACK_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const LOOPBACK_V6: Words = [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];

/// `::ffff:a.b.c.d` for `a.b.c.d`, both in network byte order.
#[inline(always)]
pub const fn mapped(v4: u32) -> Words {
    [0, 0, MAPPED, v4]
}

/// The address is an IPv4-mapped one.
#[inline(always)]
pub const fn is_mapped(addr: &Words) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == MAPPED
}

/// The address a connection to `addr` really reaches, in the one spelling that
/// rules and facts share: the unspecified address leads to loopback
/// (`ip_route_output_key_hash`,
/// `tcp_v6_connect`), the well-known prefix
/// of NAT64 to the IPv4 address in it.
#[inline(always)]
pub const fn canonical(addr: Words) -> Words {
    let [first, second, third, v4] = addr;
    if second != 0 {
        return addr;
    }
    match (first, third) {
        (0, MAPPED) if v4 == 0 => mapped(LOOPBACK_V4),
        (0, 0) if v4 == 0 => LOOPBACK_V6,
        // What the prefix may not hold is left as it is: no translator takes it.
        (NAT64, 0) if !matches!(v4.to_ne_bytes()[0], 0 | 127) => mapped(v4),
        _ => addr,
    }
}

/// `addr` (canonical) is a loopback address.
#[inline(always)]
pub const fn is_loopback(addr: &Words) -> bool {
    let [v4, v6] = beyond_loopback(addr);
    v4 == 0 || v6 == 0
}

/// How `addr` (canonical) differs from a loopback address of IPv4, and from that of IPv6:
/// one of them is zero where it is a loopback address, and only there. For programs in
/// which every branch costs the verifier another way through all that follows.
#[inline(always)]
pub const fn beyond_loopback(addr: &Words) -> [u32; 2] {
    let [first, second, third, last] = *addr;
    let network = last.to_ne_bytes()[0] as u32;
    [
        first | second | (third ^ MAPPED) | (network ^ 127),
        first | second | third | (last ^ LOOPBACK_V6[3]),
    ]
}

/// The words of an address.
pub const fn to_words(addr: [u8; 16]) -> Words {
    zerocopy::transmute!(addr)
}

/// The bytes of an address.
pub const fn to_bytes(words: Words) -> [u8; 16] {
    zerocopy::transmute!(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_survives_the_round_trip() {
        assert_eq!(as_v4(&v4_mapped([10, 1, 2, 3])), Some([10, 1, 2, 3]));
    }

    /// The spelling of what a connection to `addr` reaches.
    fn reaches(addr: [u8; 16]) -> [u8; 16] {
        to_bytes(canonical(to_words(addr)))
    }

    fn nat64(v4: [u8; 4]) -> [u8; 16] {
        let mut addr = [0; 16];
        addr[..4].copy_from_slice(&[0, 0x64, 0xff, 0x9b]);
        addr[12..].copy_from_slice(&v4);
        addr
    }

    #[test]
    fn every_spelling_of_an_endpoint_is_one() {
        let one = 1_u128.to_be_bytes();
        assert_eq!(reaches([0; 16]), one);
        assert_eq!(reaches(v4_mapped([0; 4])), v4_mapped([127, 0, 0, 1]));
        assert_eq!(reaches(nat64([10, 1, 2, 3])), v4_mapped([10, 1, 2, 3]));
        for same in [one, v4_mapped([10, 1, 2, 3]), v4_mapped([127, 9, 9, 9])] {
            assert_eq!(reaches(same), same);
        }
    }

    #[test]
    fn no_translator_leads_to_loopback() {
        for v4 in [[127, 0, 0, 1], [0, 0, 0, 0]] {
            assert_eq!(reaches(nat64(v4)), nat64(v4));
        }
    }

    #[test]
    fn loopback_is_known_by_its_words() {
        for (addr, is) in [
            (v4_mapped([127, 9, 9, 9]), true),
            (1_u128.to_be_bytes(), true),
            (2_u128.to_be_bytes(), false),
            (v4_mapped([126, 0, 0, 1]), false),
            ([0; 16], false),
        ] {
            assert_eq!(is_loopback(&to_words(addr)), is);
        }
    }

    #[test]
    fn v4_compatible_address_is_not_mapped() {
        let mut compatible = v4_mapped([10, 1, 2, 3]);
        compatible[10] = 0;
        assert_eq!(as_v4(&compatible), None);
    }
}
