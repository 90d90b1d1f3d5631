//! Who was denied what: the records of the enforcing programs' ring. They are as many as
//! there is room for; what is exact are the counts.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{addr::Words, policy::Direction};

/// [`Denial::direction`]: it is about UDP.
pub const DENIED_UDP: u8 = 1 << 7;

/// One denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Denial {
    /// When, `CLOCK_BOOTTIME` ns.
    pub ts_ns: u64,
    /// Name of the acting thread, NUL-padded, untrusted bytes; all zeroes: nobody's doing
    /// that is known.
    pub comm: [u64; 2],
    /// The peer as it was given, network byte order; all zeroes for a listener.
    pub peer: Words,
    /// Process id in the initial pid namespace; zero: not known.
    pub tgid: u32,
    /// Real uid in the initial user namespace; only with a process.
    pub uid: u32,
    /// What denied: a rule's number, or `RULES` and a `Tally`.
    pub tally: u32,
    /// The service port, host byte order.
    pub port: u16,
    /// A [`Direction`] by number, and [`DENIED_UDP`].
    pub direction: u8,
    /// The generation of the policy.
    pub generation: u8,
}

const _: () = {
    assert!(Direction::COUNT <= DENIED_UDP as usize);
    assert!(size_of::<Denial>() == 56);
    assert!(offset_of!(Denial, tgid) == 40);
};
