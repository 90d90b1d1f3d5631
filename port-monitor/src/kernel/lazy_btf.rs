//! The kernel's types as aya reads them: parsed when first asked for, because that
//! takes longer than all the rest, and only trampolines and iterators ask.

use std::cell::OnceCell;

use aya::{Btf, BtfError, Endianness};

/// Types to be parsed.
pub(super) struct LazyBtf<'a> {
    bytes: &'a [u8],
    parsed: OnceCell<Btf>,
}

impl<'a> LazyBtf<'a> {
    /// The bytes of `/sys/kernel/btf/vmlinux`.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            parsed: OnceCell::new(),
        }
    }

    pub(super) fn get(&self) -> Result<&Btf, BtfError> {
        if let Some(parsed) = self.parsed.get() {
            return Ok(parsed);
        }
        let parsed = Btf::parse(self.bytes, Endianness::default())?;
        Ok(self.parsed.get_or_init(|| parsed))
    }
}
