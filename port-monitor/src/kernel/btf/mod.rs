//! Reads the kernel's BTF: where a struct's field lies, and how many parameters
//! a function has.
//!
//! Rust has no CO-RE relocation, so the loader resolves every offset here and
//! hands them to the object ([`offsets`]). Starting up must be quick: one pass
//! notes the few types that are asked for, names are compared in place, and what
//! outlasts the bytes is small ([`Btf::function`]). The input is not trusted: bad
//! bytes are an error, never a panic.

use std::ops::Deref;

use thiserror::Error;

use self::names::Names;

mod names;
mod offsets;

pub use offsets::{Found, functions, offsets};
pub use port_monitor_common::offsets::Need;

pub(super) const MAGIC: u16 = 0xeb9f;
pub(super) const VERSION: u8 = 1;
pub(super) const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// Members looked at for one field before giving up: the largest kernel struct
/// has a few hundred, only a forged cycle has more.
const MEMBER_LIMIT: usize = 65_536;
/// Typedefs and qualifiers in a row before giving up.
const MODIFIER_LIMIT: usize = 64;
/// Of how many types the place of one is noted: the others are a short walk away.
const STRIDE: usize = 64;

const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
pub(super) const KIND_TYPEDEF: u8 = 8;
const KIND_VOLATILE: u8 = 9;
const KIND_CONST: u8 = 10;
const KIND_RESTRICT: u8 = 11;
pub(super) const KIND_FUNC: u8 = 12;
const KIND_FUNC_PROTO: u8 = 13;
const KIND_TYPE_TAG: u8 = 18;

/// Why the BTF does not answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The first two bytes are not BTF's.
    #[error("kernel BTF has a wrong magic number: not a BTF file")]
    Magic,
    /// A format version this program does not know.
    #[error("kernel BTF has format version {0}, this program reads {VERSION}")]
    Version(u8),
    /// Something lies beyond the end.
    #[error("kernel BTF is truncated: nothing at byte {0}")]
    Truncated(usize),
    /// A kind of type whose size is unknown, so that it cannot be skipped.
    #[error("kernel BTF has a type of unknown kind {kind} at byte {at}")]
    UnknownKind {
        /// The kind's number.
        kind: u8,
        /// Where the type begins.
        at: usize,
    },
    /// Types that contain themselves.
    #[error("kernel BTF has a type that contains itself")]
    Cycle,
    /// No struct of that name.
    #[error("kernel BTF has no struct {0}")]
    NoStruct(String),
    /// No such field.
    #[error("kernel BTF has no field {0}")]
    NoField(String),
    /// The field is a bit field and has no address.
    #[error("kernel BTF has field {0} as a bit field")]
    BitField(String),
    /// Several structs of that name, which disagree.
    #[error("kernel BTF has field {0} at two different offsets")]
    Ambiguous(String),
}

/// A kernel's type information, in bytes that are a `Vec<u8>` or the like.
#[derive(Debug)]
pub struct Btf<B> {
    bytes: B,
    big_endian: bool,
    /// Where the strings begin and end.
    strings: (usize, usize),
    /// Where every [`STRIDE`]th type begins, from type id 1 on; id 0 is `void` and has
    /// no bytes.
    places: Vec<usize>,
    /// How many types there are.
    count: usize,
    /// Those that [`offsets`] looks into.
    structs: Vec<Named>,
    /// Those that were asked for.
    functions: Vec<Named>,
}

/// A function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its type's id.
    pub id: u32,
    /// How many parameters it has; `None` when its type is not a function's.
    pub params: Option<usize>,
}

/// A type with a name.
#[derive(Clone, Copy, Debug)]
struct Named {
    name: u32,
    id: u32,
}

/// The part every type begins with.
#[derive(Clone, Copy)]
struct Head {
    kind: u8,
    /// Members or parameters that follow.
    count: usize,
    /// Member offsets carry a bit-field size in their top byte.
    has_bit_fields: bool,
    /// The type referred to, for kinds that refer to one.
    target: u32,
    /// Where the members or parameters begin.
    body: usize,
}

impl Head {
    /// Where the next type begins; this one begins at `at`.
    #[inline]
    fn end(&self, at: usize) -> Result<usize, BtfError> {
        let kind = self.kind;
        let body = body_bytes(kind, self.count).ok_or(BtfError::UnknownKind { kind, at })?;
        Ok(self.body + body)
    }
}

struct Member {
    type_id: u32,
    offset_bits: u32,
    is_bit_field: bool,
}

impl<B: Deref<Target = [u8]>> Btf<B> {
    /// Takes the bytes of `/sys/kernel/btf/vmlinux`; of its functions, these will be
    /// asked for.
    pub fn parse(bytes: B, functions: &[&str]) -> Result<Self, BtfError> {
        let magic = bytes.first_chunk().ok_or(BtfError::Truncated(0))?;
        let big_endian = match (u16::from_le_bytes(*magic), u16::from_be_bytes(*magic)) {
            (MAGIC, _) => false,
            (_, MAGIC) => true,
            _ => return Err(BtfError::Magic),
        };
        match bytes.get(2) {
            Some(&VERSION) => {}
            Some(&other) => return Err(BtfError::Version(other)),
            None => return Err(BtfError::Truncated(2)),
        }
        let mut btf = Self {
            bytes,
            big_endian,
            strings: (0, 0),
            places: Vec::new(),
            count: 0,
            structs: Vec::new(),
            functions: Vec::new(),
        };
        // The sections' positions count from the end of the header.
        let header = btf.word(4)? as usize;
        let types = btf.section(header, 8)?;
        btf.strings = btf.section(header, 16)?;
        let structs = offsets::structs();
        btf.index(types, &Names::new(&structs), &Names::new(functions))?;
        Ok(btf)
    }

    /// Byte offset of a field: `sock.sk_err`, or `cgroup.self.parent` through a
    /// struct inside a struct. Members of anonymous structs and unions count as
    /// the outer struct's, as in C.
    pub fn member_offset(&self, path: &str) -> Result<u32, BtfError> {
        let (bits, is_bit_field) = self.position(path)?;
        if is_bit_field || bits % 8 != 0 {
            return Err(BtfError::BitField(path.to_owned()));
        }
        Ok(bits / 8)
    }

    /// The byte that a bit field begins in, and the number of its first bit there.
    pub fn bit_offset(&self, path: &str) -> Result<(u32, u32), BtfError> {
        let (bits, _) = self.position(path)?;
        Ok((bits / 8, bits % 8))
    }

    /// The lock of a BPF ring buffer is one that sleeps (`struct bpf_ringbuf`,
    /// `kernel/bpf/ringbuf.c`): with `PREEMPT_RT`, a `spinlock_t` is an `rt_mutex`, and the
    /// kernel takes it where it must not sleep, until it became a `raw_spinlock_t`.
    pub fn ring_sleeps(&self) -> bool {
        self.position("bpf_ringbuf.spinlock.lock.wait_lock").is_ok()
    }

    /// Where a field begins, in bits, and whether it is a bit field.
    fn position(&self, path: &str) -> Result<(u32, bool), BtfError> {
        let (name, members) = path
            .split_once('.')
            .ok_or_else(|| BtfError::NoField(path.to_owned()))?;
        let mut is_known = false;
        let mut found = None;
        // A driver may have a struct of the same name: it has other fields.
        for id in self.ids(&self.structs, name) {
            is_known = true;
            let Some(member) = self.descend(id, members)? else {
                continue;
            };
            match found.replace((member.offset_bits, member.is_bit_field)) {
                Some(other) if found != Some(other) => {
                    return Err(BtfError::Ambiguous(path.to_owned()));
                }
                _ => {}
            }
        }
        found.ok_or_else(|| {
            if is_known {
                BtfError::NoField(path.to_owned())
            } else {
                BtfError::NoStruct(name.to_owned())
            }
        })
    }

    /// A function of that name; `None` when BTF has none, or was not told that it would
    /// be asked for.
    pub fn function(&self, name: &str) -> Option<Function> {
        let id = self.ids(&self.functions, name).next()?;
        let prototype = self.head(self.head(id).ok()?.target);
        Some(Function {
            id,
            params: prototype
                .ok()
                .filter(|prototype| prototype.kind == KIND_FUNC_PROTO)
                .map(|prototype| prototype.count),
        })
    }

    /// The ids of those with a name.
    fn ids<'a>(&'a self, types: &'a [Named], name: &'a str) -> impl Iterator<Item = u32> + 'a {
        types
            .iter()
            .filter(|named| self.has_name(named.name, name))
            .map(|named| named.id)
    }

    /// Notes the types of these names.
    fn index(
        &mut self,
        section: (usize, usize),
        structs: &Names<'_>,
        functions: &Names<'_>,
    ) -> Result<(), BtfError> {
        if self.big_endian {
            self.walk(section, u32::from_be_bytes, structs, functions)
        } else {
            self.walk(section, u32::from_le_bytes, structs, functions)
        }
    }

    /// Walks through the types, whose numbers `number` reads. There are very many: of most
    /// only their size is looked at.
    fn walk(
        &mut self,
        (start, end): (usize, usize),
        number: impl Fn([u8; 4]) -> u32,
        structs: &Names<'_>,
        functions: &Names<'_>,
    ) -> Result<(), BtfError> {
        let types = self.bytes.get(..end).unwrap_or_default();
        let strings = self.bytes.get(..self.strings.1).unwrap_or_default();
        let mut at = start;
        while at < end {
            if self.count.is_multiple_of(STRIDE) {
                self.places.push(at);
            }
            self.count += 1;
            let rest = types.get(at..).and_then(<[u8]>::first_chunk);
            let Some(&[n0, n1, n2, n3, i0, i1, i2, i3, ..]) = rest as Option<&[u8; TYPE_BYTES]>
            else {
                return Err(BtfError::Truncated(at));
            };
            let (kind, count, _) = kind_and_count(number([i0, i1, i2, i3]));
            // The arguments of a tracepoint have a name of their own.
            if matches!(kind, KIND_STRUCT | KIND_FUNC | KIND_TYPEDEF) {
                let name = number([n0, n1, n2, n3]);
                let text = strings.get(self.strings.0.saturating_add(name as usize)..);
                let (names, noted) = match kind {
                    KIND_STRUCT => (structs, &mut self.structs),
                    _ => (functions, &mut self.functions),
                };
                if text.is_some_and(|text| names.have(text)) {
                    let id = u32::try_from(self.count).map_err(|_| BtfError::Truncated(at))?;
                    noted.push(Named { name, id });
                }
            }
            let body = body_bytes(kind, count).ok_or(BtfError::UnknownKind { kind, at })?;
            at += TYPE_BYTES + body;
        }
        if at > end {
            return Err(BtfError::Truncated(end));
        }
        Ok(())
    }

    fn descend(&self, struct_id: u32, members: &str) -> Result<Option<Member>, BtfError> {
        let mut at = Member {
            type_id: struct_id,
            offset_bits: 0,
            is_bit_field: false,
        };
        for name in members.split('.') {
            let Some(member) = self.member(self.unqualified(at.type_id)?, name)? else {
                return Ok(None);
            };
            at = Member {
                offset_bits: add(at.offset_bits, member.offset_bits)?,
                ..member
            };
        }
        Ok(Some(at))
    }

    /// The member of that name, directly or through anonymous members.
    fn member(&self, struct_id: u32, name: &str) -> Result<Option<Member>, BtfError> {
        let mut seen = 0;
        let mut pending = vec![(struct_id, 0)];
        while let Some((id, base_bits)) = pending.pop() {
            let head = self.head(id)?;
            if head.kind != KIND_STRUCT && head.kind != KIND_UNION {
                continue;
            }
            seen += head.count;
            if seen > MEMBER_LIMIT {
                return Err(BtfError::Cycle);
            }
            for index in 0..head.count {
                let at = head.body + index * MEMBER_BYTES;
                let (member_name, type_id) = (self.word(at)?, self.word(at + 4)?);
                let position = self.word(at + 8)?;
                let (bits, is_bit_field) = if head.has_bit_fields {
                    (position & 0xff_ffff, position >> 24 != 0)
                } else {
                    (position, false)
                };
                let offset_bits = add(base_bits, bits)?;
                if member_name == 0 {
                    pending.push((self.unqualified(type_id)?, offset_bits));
                } else if self.has_name(member_name, name) {
                    return Ok(Some(Member {
                        type_id,
                        offset_bits,
                        is_bit_field,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// The type behind typedefs, `const`, `volatile` and tags.
    fn unqualified(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..MODIFIER_LIMIT {
            if id == 0 {
                return Ok(id);
            }
            let head = self.head(id)?;
            match head.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = head.target;
                }
                _ => return Ok(id),
            }
        }
        Err(BtfError::Cycle)
    }

    fn head(&self, id: u32) -> Result<Head, BtfError> {
        // `void` and unknown ids have no kind.
        let Some(index) = (id as usize)
            .checked_sub(1)
            .filter(|&index| index < self.count)
        else {
            return Ok(Head {
                kind: 0,
                count: 0,
                has_bit_fields: false,
                target: 0,
                body: 0,
            });
        };
        let mut at = self.places[index / STRIDE];
        for _ in 0..index % STRIDE {
            at = self.head_at(at)?.end(at)?;
        }
        self.head_at(at)
    }

    #[inline]
    fn head_at(&self, at: usize) -> Result<Head, BtfError> {
        let Some(&[_, _, _, _, i0, i1, i2, i3, t0, t1, t2, t3]) =
            self.bytes.get(at..).and_then(<[u8]>::first_chunk)
        else {
            return Err(BtfError::Truncated(at));
        };
        let (kind, count, has_bit_fields) = kind_and_count(self.number([i0, i1, i2, i3]));
        Ok(Head {
            kind,
            count,
            has_bit_fields,
            target: self.number([t0, t1, t2, t3]),
            body: at + TYPE_BYTES,
        })
    }

    fn section(&self, header: usize, at: usize) -> Result<(usize, usize), BtfError> {
        let start = header.saturating_add(self.word(at)? as usize);
        let end = start.saturating_add(self.word(at + 4)? as usize);
        if end > self.bytes.len() {
            return Err(BtfError::Truncated(end));
        }
        Ok((start, end))
    }

    #[inline]
    fn has_name(&self, name: u32, wanted: &str) -> bool {
        let (strings, end) = self.strings;
        let start = strings.saturating_add(name as usize);
        let Some(rest) = self.bytes.get(start..end) else {
            return false;
        };
        // Most names differ in their first byte, and there are many.
        rest.first() == wanted.as_bytes().first()
            && rest.starts_with(wanted.as_bytes())
            && rest.get(wanted.len()) == Some(&0)
    }

    fn word(&self, at: usize) -> Result<u32, BtfError> {
        match self.bytes.get(at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => Ok(self.number(*bytes)),
            None => Err(BtfError::Truncated(at)),
        }
    }

    const fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }
}

fn add(base_bits: u32, bits: u32) -> Result<u32, BtfError> {
    base_bits.checked_add(bits).ok_or(BtfError::Cycle)
}

/// What the word `info` of a type says: its kind, how many members or parameters it has,
/// and whether offsets of members carry sizes of bit fields.
#[inline]
const fn kind_and_count(info: u32) -> (u8, usize, bool) {
    // The kernel requires unused bits of `info` to be zero, so reading the count and the
    // kind wider than version 1 defines them is harmless today and turns a future meaning
    // of those bits into an unknown kind.
    let [kind, ..] = info.to_be_bytes();
    (kind & 0x7f, (info & 0xff_ffff) as usize, kind & 0x80 != 0)
}

/// Bytes after the head of a type: so many, and so many for each member; by kind.
const BODIES: [Option<(u8, u8)>; 20] = {
    let mut bodies = [Some((0, 0)); 20];
    // There is no kind 0; PTR, FWD to FUNC, FLOAT and TYPE_TAG are nothing but heads.
    bodies[0] = None;
    // INT, VAR, DECL_TAG
    bodies[1] = Some((4, 0));
    bodies[14] = Some((4, 0));
    bodies[17] = Some((4, 0));
    // ARRAY
    bodies[3] = Some((12, 0));
    // ENUM, FUNC_PROTO
    bodies[6] = Some((0, 8));
    bodies[13] = Some((0, 8));
    // STRUCT, UNION, DATASEC, ENUM64
    bodies[4] = Some((0, 12));
    bodies[5] = Some((0, 12));
    bodies[15] = Some((0, 12));
    bodies[19] = Some((0, 12));
    bodies
};

/// Bytes after the head of a type, `None` for a kind this program does not know.
#[inline]
fn body_bytes(kind: u8, count: usize) -> Option<usize> {
    let (fixed, each) = (*BODIES.get(usize::from(kind))?)?;
    Some(usize::from(fixed) + usize::from(each) * count)
}

#[cfg(test)]
mod tests;
