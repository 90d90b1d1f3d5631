//! The queue of the loopback device, as `tc qdisc` changes it.

use anyhow::{Context as _, Result};

use crate::diag;

/// `RTM_NEWQDISC`, `RTM_DELQDISC` (`include/uapi/linux/rtnetlink.h`).
const NEW: u16 = 36;
const DELETE: u16 = 37;
/// `NLM_F_REQUEST | NLM_F_ACK`, and with `NLM_F_CREATE | NLM_F_EXCL`.
const ASK: u16 = 5;
const CREATE: u16 = ASK | 0x600;
/// `TCA_KIND`, `TCA_OPTIONS`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// Adds a queue that holds nothing: `pfifo limit 0`.
pub(crate) fn add_of_nothing() -> Result<()> {
    let mut more = attribute(KIND, b"pfifo\0")?;
    more.extend(attribute(OPTIONS, &0_u32.to_ne_bytes())?);
    ask((NEW, CREATE), &more).context("add a queue")
}

/// Takes the queue away that was added.
pub(crate) fn remove() -> Result<()> {
    ask((DELETE, ASK), &[]).context("remove a queue")
}

/// `struct nlmsghdr`, `struct tcmsg` of the root of the first device, then attributes.
fn ask((kind, flags): (u16, u16), attributes: &[u8]) -> Result<()> {
    const FIRST_DEVICE: i32 = 1;
    const HEADERS: usize = 36;
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(HEADERS + attributes.len())?.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender, then the family, unspecified, and padding.
    bytes.extend([0; 12]);
    bytes.extend(FIRST_DEVICE.to_ne_bytes());
    // Handle, parent, information.
    for word in [0, u32::MAX, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(attributes);
    // `NETLINK_ROUTE` is zero.
    diag::ask(None, &bytes)
}

/// Its length, its kind, its value, padded to words.
fn attribute(kind: u16, value: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = u16::try_from(value.len() + 4)?.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}
