//! An object in which only some of the programs have a name.
//!
//! Works around: aya copies and relocates every program that it finds by name in an object.
//! Most of them are for other kernels and other runs. And the flags of a map can be set
//! nowhere but in the object.
//!
//! Since: this program loads with aya; `Object::parse` of aya-obj, `EbpfLoader::load` of aya.
//!
//! Until: a loader takes the names of the programs to load, and the flags of a map.
//!
//! Looked at: aya 0.14.0

use std::{iter::StepBy, ops::Range};

use zerocopy::IntoBytes as _;

/// Where the ELF header and what it leads to have what is read here (`elf.h`).
const SECTIONS_AT: usize = 0x28;
const SECTION_COUNT_AT: usize = 0x3c;
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const SYMBOL_INFO_AT: usize = 4;
const SYMBOL_SECTION_AT: usize = 6;
const SYMBOL_VALUE_AT: usize = 8;
const SYMBOL_TABLE: u32 = 2;
const FUNCTION: u8 = 2;

/// The section of the maps that are not described in BTF, and where one has its flags
/// (`struct bpf_map_def` of libbpf).
const MAPS: &[u8] = b"maps";
const MAP_FLAGS_AT: usize = 16;
/// `include/uapi/linux/bpf.h`.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The section of what programs call: they are found by their place.
const CALLED: &[u8] = b".text";

/// A copy of an object, aligned as an ELF file is.
pub(in crate::kernel) struct Few {
    words: Vec<u64>,
    length: usize,
}

impl Few {
    /// `object` without the names of other programs than `wanted`; `None` if it is
    /// broken.
    pub(in crate::kernel) fn of(object: &[u8], wanted: &[&str]) -> Option<Self> {
        let mut few = Self {
            words: vec![0; object.len().div_ceil(size_of::<u64>())],
            length: object.len(),
        };
        let bytes = few.words.as_mut_bytes().get_mut(..object.len())?;
        bytes.copy_from_slice(object);
        let names = Elf::of(object)?.programs()?;
        for (name, symbol) in names {
            if !wanted.iter().any(|wanted| wanted.as_bytes() == name) {
                // An empty one.
                bytes.get_mut(symbol..symbol + 4)?.fill(0);
            }
        }
        Some(few)
    }

    /// Has the kernel allocate the entries of `map` when they are written; `None` if
    /// there is no such map.
    pub(in crate::kernel) fn allocate_late(&mut self, map: &str) -> Option<()> {
        let at = Elf::of(self.bytes())?.map(map.as_bytes())? + MAP_FLAGS_AT;
        let bytes = self.words.as_mut_bytes();
        bytes
            .get_mut(at..at + 4)?
            .copy_from_slice(&BPF_F_NO_PREALLOC.to_le_bytes());
        Some(())
    }

    pub(in crate::kernel) fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.length]
    }
}

/// The parts of an ELF file of 64 bits, little endian, that matter here.
struct Elf<'a> {
    bytes: &'a [u8],
    sections: usize,
    count: usize,
}

impl<'a> Elf<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            bytes,
            sections: offset(bytes, SECTIONS_AT)?,
            count: half(bytes, SECTION_COUNT_AT)?.into(),
        })
    }

    /// The programs' names, and where their symbols are.
    fn programs(&self) -> Option<Vec<(&'a [u8], usize)>> {
        let (symbols, strings) = self.symbols()?;
        let mut programs = Vec::new();
        for symbol in symbols {
            let info = self.bytes.get(symbol + SYMBOL_INFO_AT)?;
            if info & 0xf != FUNCTION || self.section_name(symbol, &strings)? == CALLED {
                continue;
            }
            programs.push((self.string(&strings, symbol)?, symbol));
        }
        Some(programs)
    }

    /// Where the map with this name is defined.
    fn map(&self, name: &[u8]) -> Option<usize> {
        let (mut symbols, strings) = self.symbols()?;
        let symbol = symbols.find(|&symbol| {
            self.string(&strings, symbol) == Some(name)
                && self.section_name(symbol, &strings) == Some(MAPS)
        })?;
        let section = half(self.bytes, symbol + SYMBOL_SECTION_AT)?.into();
        let place = offset(self.bytes, symbol + SYMBOL_VALUE_AT)?;
        self.content(section)?.start.checked_add(place)
    }

    /// Where the symbols are, and their names.
    fn symbols(&self) -> Option<(StepBy<Range<usize>>, Range<usize>)> {
        let mut tables = (0..self.count).filter(|&n| self.kind(n) == Some(SYMBOL_TABLE));
        let table = tables.next()?;
        let strings = self.content(self.link(table)?)?;
        Some((self.content(table)?.step_by(SYMBOL_BYTES), strings))
    }

    /// The name of the section that a symbol lies in.
    fn section_name(&self, symbol: usize, strings: &Range<usize>) -> Option<&'a [u8]> {
        let section = half(self.bytes, symbol + SYMBOL_SECTION_AT)?.into();
        self.name(section, strings)
    }

    /// Where the header of the section with this number begins.
    fn header(&self, section: usize) -> usize {
        self.sections.saturating_add(section * SECTION_BYTES)
    }

    fn kind(&self, section: usize) -> Option<u32> {
        word(self.bytes, self.header(section) + 4)
    }

    fn content(&self, section: usize) -> Option<Range<usize>> {
        let header = self.header(section);
        let start = offset(self.bytes, header + 0x18)?;
        let end = start.checked_add(offset(self.bytes, header + 0x20)?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }

    fn link(&self, section: usize) -> Option<usize> {
        usize::try_from(word(self.bytes, self.header(section) + 0x28)?).ok()
    }

    /// Sections and symbols have their names in the same place.
    fn name(&self, section: usize, strings: &Range<usize>) -> Option<&'a [u8]> {
        self.string(strings, self.header(section))
    }

    /// The string whose place is told at `at`.
    fn string(&self, strings: &Range<usize>, at: usize) -> Option<&'a [u8]> {
        let place = usize::try_from(word(self.bytes, at)?).ok()?;
        let text = self.bytes.get(strings.clone())?.get(place..)?;
        text.split(|&byte| byte == 0).next()
    }
}

fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, sync::LazyLock};

    use crate::kernel::{aya_workarounds::blanked_names::*, object::Object};

    fn object() -> &'static [u8] {
        static OBJECT: LazyLock<Object> = LazyLock::new(Object::unpack);
        OBJECT.bytes()
    }

    fn names(object: &[u8]) -> Vec<String> {
        let programs = Elf::of(object).unwrap().programs().unwrap();
        let names = programs
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name));
        names.map(Cow::into_owned).collect()
    }

    #[test]
    fn only_the_programs_asked_for_have_a_name() {
        let wanted = ["pm_connect_fe", "pm_accept_fe2", "pm_no_such"];
        let few = Few::of(object(), &wanted).unwrap();
        let mut left = names(few.bytes());
        left.retain(|name| !name.is_empty());
        left.sort();
        assert_eq!(left, ["pm_accept_fe2", "pm_connect_fe"]);
        assert_eq!(names(few.bytes()).len(), names(object()).len());
        assert_eq!(few.bytes().len(), object().len());
        let changed = few
            .bytes()
            .iter()
            .zip(object())
            .filter(|(few, all)| few != all);
        assert!(changed.count() <= 4 * names(object()).len());
    }

    #[test]
    fn a_map_is_allocated_when_it_is_written() {
        // Bytes of a key and of a value, entries, flags.
        let definition = |object: &[u8], map: &str| {
            let at = Elf::of(object).unwrap().map(map.as_bytes()).unwrap();
            [4, 8, 12, 16].map(|field| word(object, at + field).unwrap())
        };
        let mut few = Few::of(object(), &[]).unwrap();
        assert_eq!(few.allocate_late("pm_self"), Some(()));
        let entries = port_monitor_common::generation::ADDRESSES;
        assert_eq!(definition(object(), "pm_self"), [16, 1, entries, 0]);
        assert_eq!(definition(few.bytes(), "pm_self"), [16, 1, entries, 1]);
        assert_eq!(definition(few.bytes(), "pm_pids"), [4, 1, 1_024, 0]);
        assert_eq!(few.allocate_late("pm_no_such"), None);
        // It is described in BTF.
        assert_eq!(few.allocate_late("pm_users"), None);
    }

    #[test]
    fn what_programs_call_is_no_program() {
        let all = names(object());
        assert!(all.iter().any(|name| name == "pm_lookup"));
        assert!(
            all.iter()
                .all(|name| name != "pm_judge" && name != "memcpy")
        );
    }

    #[test]
    fn a_broken_object_is_none() {
        for length in [0, 16, 63, 64, object().len() / 2] {
            assert!(Few::of(&object()[..length], &[]).is_none(), "{length}");
        }
    }
}
