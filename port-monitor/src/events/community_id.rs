//! Community ID, version 1: the flow hash that joins our events with those of
//! network sensors, which know the flow but not the process.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::{Digest as _, Sha1};

use crate::base::from_text::from_text;

const TCP: u8 = 6;

/// The id of a TCP flow with the usual seed, 0; the same from both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommunityId([u8; 20]);

impl CommunityId {
    /// Bytes of its text: `1:`, and 20 bytes in base64.
    pub(crate) const LEN: usize = 30;

    /// The id of the flow between two endpoints of one address family.
    pub(crate) fn of(a: (IpAddr, u16), b: (IpAddr, u16)) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let mut hash = Sha1::new();
        hash.update([0, 0]);
        for (ip, _) in [low, high] {
            match ip {
                IpAddr::V4(ip) => hash.update(ip.octets()),
                IpAddr::V6(ip) => hash.update(ip.octets()),
            }
        }
        let ([a, b], [c, d]) = (low.1.to_be_bytes(), high.1.to_be_bytes());
        hash.update([TCP, 0, a, b, c, d]);
        Self(hash.finalize().into())
    }

    /// The id as text, as [`fmt::Display`] has it.
    pub(crate) fn text(self) -> [u8; Self::LEN] {
        let mut text = [0; Self::LEN];
        text[..2].copy_from_slice(b"1:");
        let result = STANDARD.encode_slice(self.0, &mut text[2..]);
        debug_assert!(result.is_ok(), "{result:?}");
        text
    }
}

impl fmt::Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1:{}", Base64Display::new(&self.0, &STANDARD))
    }
}

impl Serialize for CommunityId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CommunityId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a community ID of version 1", |text| {
            // One more than fits: what the decoder asks for.
            let mut hash = [0; 21];
            let count = STANDARD.decode_slice(text.strip_prefix("1:")?, &mut hash);
            let hash = hash.first_chunk().filter(|_| count == Ok(20))?;
            Some(Self(*hash))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::events::community_id::*;

    fn id(a: &str, a_port: u16, b: &str, b_port: u16) -> String {
        CommunityId::of((a.parse().unwrap(), a_port), (b.parse().unwrap(), b_port)).to_string()
    }

    #[test]
    fn the_specification_s_vector_holds_from_both_ends() {
        let expected = "1:LQU9qZlK+B5F3KDmev6m5PMibrg=";
        assert_eq!(id("128.232.110.120", 34855, "66.35.250.204", 80), expected);
        assert_eq!(id("66.35.250.204", 80, "128.232.110.120", 34855), expected);
    }

    #[test]
    fn equal_addresses_are_ordered_by_port() {
        assert_eq!(id("::1", 80, "::1", 49152), id("::1", 49152, "::1", 80));
        assert_ne!(id("::1", 80, "::1", 49152), id("::1", 81, "::1", 49152));
    }
}
