//! The path of what a process executes, as it is when an event of the process is told: the
//! process may be gone before anybody can ask for it.
//!
//! Each CPU has slots of its own, and a process the one that its number leads to. What
//! another process has written over is no longer found.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::numbered::bits;

/// Bytes of one name with the NUL behind it: `NAME_MAX` and one.
pub const NAME_BYTES: usize = 256;
/// Bytes after which no further name is written. A power of two.
pub const NAMES_BYTES: usize = 512;
/// Names and mount points that are climbed at most.
pub const CLIMB: u32 = 32;

bits! {
    u32 {
        /// [`Executable::flags`]: the file is not to be found by this path any more.
        DELETED = 0,
        /// [`Executable::flags`]: the file never had a path, only a name.
        NAMELESS = 1,
        /// [`Executable::flags`]: there is more than was written, or it could not be read.
        CUT = 2,
    }
}

/// What a process executes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Executable {
    /// The [`stamp`] of the three that follow, once all is written.
    pub stamp: u64,
    /// Start of the process, as in [`crate::event::Owner`].
    pub start_ns: u64,
    /// The process and the device of the file: [`process`].
    pub process: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// Where the way up has come to: the address of the name's `dentry`.
    pub dentry: u64,
    /// And of its `mount`.
    pub mount: u64,
    /// Bytes of [`Self::names`] that are written.
    pub length: u32,
    /// [`DELETED`], [`NAMELESS`] and [`CUT`].
    pub flags: u32,
    /// The names of the path, the last one first, a NUL behind each.
    pub names: [u8; NAMES_BYTES + NAME_BYTES],
}

/// The number of a process, and the device of the file that it executes.
#[inline(always)]
pub const fn process(tgid: u32, device: u32) -> u64 {
    (tgid as u64) << 32 | device as u64
}

/// Tells that an entry is whole: two programs may have written it, one in the middle of the
/// other. Never zero.
#[inline(always)]
pub const fn stamp(start_ns: u64, process: u64, inode: u64) -> u64 {
    let mixed = (start_ns ^ process).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32 ^ inode).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed | 1
}

/// The slot of a process among those of a CPU, of which there are `slots`, a power of two.
/// Processes that follow each other have different ones.
#[inline(always)]
pub const fn slot(cpu: u32, slots: u32, tgid: u32) -> u32 {
    cpu.wrapping_mul(slots)
        .wrapping_add(tgid & slots.wrapping_sub(1))
}

const _: () = {
    assert!(NAMES_BYTES.is_power_of_two());
    assert!(offset_of!(Executable, names) == 56);
    assert!(size_of::<Executable>().is_multiple_of(8));
};

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn slots_of_a_cpu_are_its_own_and_neighbours_differ() {
        let mut is_taken = [false; 3 * 64];
        for cpu in 0..3 {
            for tgid in 1_000..1_064 {
                let slot = slot(cpu, 64, tgid);
                assert!((cpu * 64..cpu * 64 + 64).contains(&slot));
                assert!(!core::mem::replace(&mut is_taken[slot as usize], true));
            }
        }
    }

    #[test]
    fn a_stamp_is_that_of_all_three() {
        let of = stamp(1, process(2, 3), 4);
        for other in [
            stamp(2, process(2, 3), 4),
            stamp(1, process(3, 3), 4),
            stamp(1, process(2, 4), 4),
            stamp(1, process(2, 3), 6),
            0,
        ] {
            assert_ne!(of, other);
        }
    }
}
