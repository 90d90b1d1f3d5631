//! Who has a listening socket open, as the eBPF programs of the tracepoint backend tell it:
//! to whom a connection came in is asked when it comes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{event::Owner, numbered::bits};

bits! {
    u32 {
        /// [`Holder::flags`]: the owner filters let it pass.
        HOLDER_PASSES = 0,
        /// [`Holder::flags`]: whoever closed it, or exits with it, is the process that made it
        /// listen.
        HOLDER_OPENED = 1,
        /// [`Holder::flags`]: the monitor closed it, which looked at it in the moment in which
        /// the process that had it open let go of it: the one that it has told of last.
        HOLDER_LOOKED = 2,
    }
}

/// A process that has a listening socket open, or has closed it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Holder {
    /// The process; all zeroes where the kernel itself or the monitor closed the socket.
    pub owner: Owner,
    /// When it closed the socket, `CLOCK_BOOTTIME` ns; zero: it has it open.
    pub closed_ns: u64,
    /// The listener, by its number: `TcpEvent::detail` of an accept.
    pub listener: u32,
    /// Its port: numbers alone are not quite unique.
    pub port: u32,
    /// The process that the process was forked by, or given to since.
    pub parent_tgid: u32,
    /// `HOLDER_*` bits.
    pub flags: u32,
    /// Which of the listener's sockets: there are several with `SO_REUSEPORT`.
    pub socket: u32,
    /// How often the process has executed a program.
    pub exec_id: u32,
}

const _: () = assert!(size_of::<Holder>() == 112);
