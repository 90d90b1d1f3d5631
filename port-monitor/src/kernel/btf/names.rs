//! A few names that are looked for among very many others.

/// Bits of the table of beginnings, as a power of two: a few names set a few of them.
const TABLE_BITS: u32 = 10;
const TABLE_WORDS: usize = 1 << (TABLE_BITS - u64::BITS.ilog2());
/// The lowest bit of each byte, and the highest.
const LOWEST: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHEST: u64 = u64::from_ne_bytes([0x80; 8]);
/// Spreads what differs over the upper bits: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The names. Most others are told apart by how they begin.
#[derive(Debug)]
pub(super) struct Names<'a> {
    names: &'a [&'a str],
    /// A bit for each of their beginnings.
    beginnings: [u64; TABLE_WORDS],
}

impl<'a> Names<'a> {
    pub(super) fn new(names: &'a [&'a str]) -> Self {
        let mut beginnings = [0; TABLE_WORDS];
        for name in names {
            let (word, bit) = place(name.as_bytes());
            beginnings[word] |= bit;
        }
        Self { names, beginnings }
    }

    /// Whether they have the one that `text` begins with and a zero ends.
    #[inline]
    pub(super) fn have(&self, text: &[u8]) -> bool {
        let (word, bit) = place(text);
        self.beginnings[word] & bit != 0
            && self
                .names
                .iter()
                .any(|name| text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0))
    }
}

/// The bit of the first eight bytes, or of those before the first zero.
#[inline]
fn place(text: &[u8]) -> (usize, u64) {
    let bytes = text.first_chunk().copied().unwrap_or_else(|| {
        let mut bytes = [0; 8];
        bytes[..text.len()].copy_from_slice(text);
        bytes
    });
    let bytes = u64::from_le_bytes(bytes);
    // The lowest bit that is set is the highest of the first byte that is zero.
    let zeros = bytes.wrapping_sub(LOWEST) & !bytes & HIGHEST;
    let beginning = bytes & (zeros ^ zeros.wrapping_sub(1));
    let place = beginning.wrapping_mul(SPREAD) >> (u64::BITS - TABLE_BITS);
    let word = (place / u64::from(u64::BITS)) as usize;
    (word, 1 << (place % u64::from(u64::BITS)))
}

#[cfg(test)]
mod tests {
    use crate::kernel::btf::names::*;

    #[test]
    fn a_name_is_found_whole_and_alone() {
        let names = Names::new(&["sock", "tcp_sock", "security_sock_graft", "x"]);
        for name in ["sock", "tcp_sock", "security_sock_graft", "x"] {
            assert!(names.have(format!("{name}\0after").as_bytes()), "{name}");
            assert!(names.have(format!("{name}\0").as_bytes()), "{name}");
            assert!(!names.have(format!("{name}s\0").as_bytes()), "{name}");
            assert!(!names.have(name.as_bytes()), "{name}");
        }
        for other in ["", "\0", "soc\0k", "security\0", "security_sock_grab\0"] {
            assert!(!names.have(other.as_bytes()), "{other}");
        }
        assert!(!Names::new(&[]).have(b"sock\0"));
    }

    #[test]
    fn what_follows_a_name_does_not_matter() {
        for byte in 0..=u8::MAX {
            let text = [b'n', b'e', b't', 0, byte, byte, byte, byte];
            assert!(Names::new(&["net"]).have(&text));
            assert!(!Names::new(&["nets", "ne"]).have(&text));
        }
    }
}
