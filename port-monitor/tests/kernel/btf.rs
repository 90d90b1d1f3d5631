//! The kernel's type information, made wrong: BTF in which one member of one
//! struct lies elsewhere, as in another kernel's.

use anyhow::{Context as _, Result, ensure};

/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;

/// Size of a struct's member: name, type, offset.
const MEMBER_BYTES: usize = 12;

/// Moves `member` of struct `name` by `bits`.
pub(crate) fn move_member(btf: &mut [u8], name: &str, member: &str, bits: u32) -> Result<()> {
    let header_bytes = word(btf, 4)? as usize;
    let types = header_bytes + word(btf, 8)? as usize;
    let types_end = types + word(btf, 12)? as usize;
    let strings = header_bytes + word(btf, 16)? as usize;
    let mut at = types;
    while at < types_end {
        let info = word(btf, at + 4)?;
        let members = at + 12;
        let count = (info & 0xffff) as usize;
        let kind = info >> 24 & 0x1f;
        if kind == STRUCT && is_named(btf, strings, at, name)? {
            let place = (0..count)
                .map(|index| members + index * MEMBER_BYTES)
                .find(|&place| is_named(btf, strings, place, member).unwrap_or(false))
                .with_context(|| format!("struct {name} has no {member}"))?;
            let offset = word(btf, place + 8)?;
            let bytes = btf.get_mut(place + 8..place + 12).context("cut off")?;
            bytes.copy_from_slice(&(offset + bits).to_ne_bytes());
            return Ok(());
        }
        at = members + extra_bytes(kind, count)?;
    }
    anyhow::bail!("no struct {name}")
}

/// Bytes after the 12 every type has (`include/uapi/linux/btf.h`).
fn extra_bytes(kind: u32, count: usize) -> Result<usize> {
    ensure!((1..=19).contains(&kind), "BTF kind {kind}");
    Ok(match kind {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Struct, union, data section, 64-bit enum.
        4 | 5 | 15 | 19 => 12 * count,
        // Enum, function prototype.
        6 | 13 => 8 * count,
        _ => 0,
    })
}

/// The type or member at `at` begins with the offset of its name.
fn is_named(btf: &[u8], strings: usize, at: usize, name: &str) -> Result<bool> {
    let from = strings + word(btf, at)? as usize;
    let found = btf.get(from..).context("cut off")?;
    let end = found.get(name.len());
    Ok(found.starts_with(name.as_bytes()) && end == Some(&0))
}

fn word(btf: &[u8], at: usize) -> Result<u32> {
    let bytes = btf.get(at..at + 4).context("cut off")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}
