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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_survives_the_round_trip() {
        assert_eq!(as_v4(&v4_mapped([10, 1, 2, 3])), Some([10, 1, 2, 3]));
    }

    #[test]
    fn v4_compatible_address_is_not_mapped() {
        let mut compatible = v4_mapped([10, 1, 2, 3]);
        compatible[10] = 0;
        assert_eq!(as_v4(&compatible), None);
    }
}
