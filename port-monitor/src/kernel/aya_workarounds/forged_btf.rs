//! BTF that has nothing but the functions and tracepoints which programs are attached to.
//!
//! Works around: to load a trampoline or an iterator, aya asks for a parsed BTF, in which it
//! looks for the id of a function. Parsing all of the kernel's takes longer than all the rest
//! of a start, and the ids are known already. It is made when first asked for.
//!
//! Since: this program loads such programs with aya; `FEntry::load`, `BtfTracePoint::load` and
//! `Iter::load` of aya,
//! `Btf::id_by_type_name_kind` of aya-obj.
//!
//! Until: a program can be loaded by the id of a function.
//!
//! Looked at: aya 0.14.0

use std::cell::OnceCell;

use aya::{Btf, BtfError, Endianness};

use crate::kernel::btf::{KIND_FUNC, KIND_TYPEDEF, MAGIC, TYPE_BYTES, VERSION};

const HEADER_BYTES: usize = 24;

/// What the name of the type of a tracepoint's arguments begins with. It is no function.
const TRACEPOINT: &str = "btf_trace_";

/// Functions to be looked up.
pub(in crate::kernel) struct LazyBtf {
    /// Their names and ids.
    functions: Vec<(&'static str, u32)>,
    made: OnceCell<Btf>,
}

impl LazyBtf {
    /// These functions of the kernel.
    pub(in crate::kernel) const fn new(functions: Vec<(&'static str, u32)>) -> Self {
        Self {
            functions,
            made: OnceCell::new(),
        }
    }

    /// All of the kernel's types would take longer to parse than all the rest of
    /// a start takes.
    pub(in crate::kernel) fn get(&self) -> Result<&Btf, BtfError> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let bytes = only_functions(&self.functions);
        let made = Btf::parse(&bytes, Endianness::default())?;
        Ok(self.made.get_or_init(|| made))
    }
}

/// BTF, in this machine's byte order, in which these functions have these ids, and all
/// other types are of no kind: zeros, which take no memory where nobody has written.
/// Readers that only look for a function's id are many times faster with it.
fn only_functions(functions: &[(&str, u32)]) -> Vec<u8> {
    let last = functions.iter().map(|&(_, id)| id).max().unwrap_or(0) as usize;
    let names: usize = functions.iter().map(|(name, _)| name.len() + 1).sum();
    let strings_at = HEADER_BYTES + last * TYPE_BYTES;
    let mut bytes = vec![0; strings_at + 1 + names];
    let types = len(last * TYPE_BYTES);
    bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[2] = VERSION;
    let sections = [len(HEADER_BYTES), 0, types, types, len(1 + names)];
    put(&mut bytes, 4, sections.map(u32::to_ne_bytes).as_flattened());
    let mut name_at = 1;
    for &(name, id) in functions.iter().filter(|(_, id)| *id > 0) {
        let kind = if name.starts_with(TRACEPOINT) {
            KIND_TYPEDEF
        } else {
            KIND_FUNC
        };
        let entry = [len(name_at), u32::from(kind) << 24, 0];
        let at = HEADER_BYTES + (id as usize - 1) * TYPE_BYTES;
        put(&mut bytes, at, entry.map(u32::to_ne_bytes).as_flattened());
        put(&mut bytes, strings_at + name_at, name.as_bytes());
        name_at += name.len() + 1;
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

/// A length as BTF counts: its sections are shorter than 4 GiB.
fn len(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use crate::kernel::aya_workarounds::forged_btf::*;

    #[test]
    fn only_the_functions_asked_for_have_a_name_and_their_ids() {
        let bytes = only_functions(&[("btf_trace_second", 70), ("sought", 3)]);
        Btf::parse(&bytes, Endianness::default()).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let [header, types_at, types, strings_at, strings] = [4, 8, 12, 16, 20].map(word);
        assert_eq!((header, types_at, types, strings_at), (24, 0, 840, 840));
        assert_eq!(bytes.len(), (24 + strings_at + strings) as usize);
        for id in 1..=70_usize {
            let at = 24 + (id - 1) * TYPE_BYTES;
            let name = &bytes[(24 + strings_at + word(at)) as usize..];
            let name = name.split(|&byte| byte == 0).next().unwrap();
            let expected: (&[u8], _) = match id {
                3 => (b"sought", 12 << 24),
                70 => (b"btf_trace_second", 8 << 24),
                _ => (b"", 0),
            };
            assert_eq!((name, word(at + 4)), expected, "{id}");
        }
        Btf::parse(&only_functions(&[]), Endianness::default()).unwrap();
    }
}
