//! The kernel's functions as aya looks them up: made when first asked for, because
//! only trampolines and iterators ask.

use std::cell::OnceCell;

use aya::{Btf, BtfError, Endianness};

use super::btf;

/// Functions to be looked up.
pub(super) struct LazyBtf<'a> {
    kernel: &'a btf::Btf,
    functions: Vec<&'static str>,
    made: OnceCell<Btf>,
}

impl<'a> LazyBtf<'a> {
    /// Of the kernel's `functions`, these.
    pub(super) const fn new(kernel: &'a btf::Btf, functions: Vec<&'static str>) -> Self {
        Self {
            kernel,
            functions,
            made: OnceCell::new(),
        }
    }

    /// All of the kernel's types would take longer to parse than all the rest of
    /// a start takes.
    pub(super) fn get(&self) -> Result<&Btf, BtfError> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let bytes = self.kernel.only_functions(&self.functions);
        let made = Btf::parse(&bytes, Endianness::default())?;
        Ok(self.made.get_or_init(|| made))
    }
}
