//! Which cgroups the cgroup filter means, so that the kernel side knows a new one when it
//! is made: by the name of a unit, by a pattern of such names, or by its place.
//!
//! Places are nodes of a tree of names; [`ROOT`] is the root cgroup's. Patterns are the
//! rows of one automaton, which reads a name byte by byte.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a cgroup's name with the NUL behind it: `NAME_MAX` and one.
pub const NAME_BYTES: usize = 256;

/// [`Name::node`]: wherever the cgroup is.
pub const ANYWHERE: u64 = u64::MAX;
/// [`Name::node`] of those directly below the root.
pub const ROOT: u64 = 0;

/// A name to look for, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Name {
    /// The node of the cgroup it lies in, or [`ANYWHERE`].
    pub node: u64,
    /// The directory's name, NUL-padded.
    pub name: [u8; NAME_BYTES],
}

/// What a name that was looked for means.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Named {
    /// The node for the names below it; [`ROOT`]: none is looked for there.
    pub node: u64,
    /// Non-zero: the filter means this cgroup.
    pub is_meant: u64,
}

/// The next row of the automaton for each byte. The NUL leads to [`LAST_ROW`] where the
/// name so far is meant.
pub type Row = [u16; 256];

/// The row where a name begins.
pub const FIRST_ROW: u16 = 1;
/// The row that no name leads out of.
pub const NO_ROW: u16 = 0;
/// The row behind the end of a name that is meant: NULs lead back to it.
pub const LAST_ROW: u16 = 2;
/// Rows there can be.
pub const ROWS: usize = 8_192;

const _: () = {
    assert!(size_of::<Name>() == 264);
    assert!(offset_of!(Name, name) == 8);
    assert!(size_of::<Named>() == 16);
};
