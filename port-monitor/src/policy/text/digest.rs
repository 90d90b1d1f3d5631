//! A text in short.

use super::network_list::ListFile;

/// A text in short: SHA-256.
pub fn digest(text: &str) -> [u8; 32] {
    digest_with(text, &[])
}

/// A text in short, and the lists it reads.
pub(crate) fn digest_with(text: &str, lists: &[ListFile]) -> [u8; 32] {
    use sha2::Digest as _;
    let mut digest = sha2::Sha256::new_with_prefix(text);
    for list in lists {
        digest.update(list.digest);
    }
    digest.finalize().into()
}
