//! The wire record: what the eBPF programs write into the ring buffer.
//!
//! 152 bytes, 160 with the ring's header; the end of a connection has 40 more.
//! Fields are only ever appended and kinds never renumbered; any change of the
//! layout raises [`ABI_VERSION`].

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::numbered::{bits, numbered};

/// [`ABI_VERSION`], where a literal is needed.
#[macro_export]
macro_rules! abi_version {
    () => {
        7
    };
}

/// The layout version in [`TcpEvent::abi`], and the one the loader asks the
/// object for before it loads it.
pub const ABI_VERSION: u8 = abi_version!();

/// The symbol an object of this layout has; the loader asks for it by name, so that an
/// object of another layout is refused.
pub const ABI_SYMBOL: &str = concat!("PM_ABI_", abi_version!());

/// The size of a [`TcpEvent`] in bytes.
pub const EVENT_SIZE: usize = 152;
/// The size of a [`CloseEvent`] in bytes.
pub const CLOSE_EVENT_SIZE: usize = 192;

/// `AF_INET` in [`TcpEvent::family`].
pub const AF_INET: u8 = 2;
/// `AF_INET6` in [`TcpEvent::family`].
pub const AF_INET6: u8 = 10;

numbered! {
    /// What happened; the values of [`TcpEvent::kind`].
    pub enum EventKind: u8 {
        /// A connection attempt by this host.
        Connect = 1,
        /// A connection accepted by this host.
        Accept = 2,
        /// The handshake of an attempt is complete.
        Connected = 3,
        /// An attempt came to nothing.
        Failed = 4,
        /// An established connection has ended: the record is a [`CloseEvent`].
        Close = 5,
        /// A socket was there before the monitor.
        Preexisting = 6,
        /// A socket listens from now on.
        Listen = 7,
        /// A socket does not listen any more.
        Unlisten = 8,
        /// A connection was put into a socket by `TCP_REPAIR`, without a handshake.
        Restored = 9,
        /// An established connection is still open: the record is a [`CloseEvent`] without an end.
        Progress = 10,
    }
}

impl EventKind {
    /// The bit of this kind in [`crate::config::Config::kinds`].
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

const _: () = assert!(EventKind::COUNT < u32::BITS as usize, "a kind has no bit");

numbered! {
    /// How the owner in a record is known; the values of [`TcpEvent::owner`].
    pub enum OwnerSource: u8 {
        /// Not known: the owner fields are zero.
        Unknown = 0,
        /// The thread that called connect.
        Connect = 1,
        /// The thread that called accept.
        Accept = 2,
        /// The thread that made the socket listen; the accepting one may be another.
        Listener = 3,
        /// A process that had the socket open when the monitor started.
        Holder = 4,
    }
}

numbered! {
    /// Who ended a connection first; the values of [`CloseStats::closed_by`].
    pub enum ClosedBy: u8 {
        /// Not known.
        Unknown = 0,
        /// This end: it sent a FIN before it got one.
        Local = 1,
        /// The peer: its FIN came first.
        Peer = 2,
        /// The peer, by RST.
        PeerReset = 3,
        /// This end, by RST: closed with data unread or `SO_LINGER` zero, or
        /// destroyed from outside.
        LocalReset = 4,
        /// Nobody: the peer did not answer any more, or could not be reached.
        Timeout = 5,
        /// Nobody: a process took the socket away by `TCP_REPAIR`, without a packet.
        TakenAway = 6,
    }
}

bits! {
    u16 {
        /// [`TcpEvent::flags`]: the record belongs to the start-up self-test.
        FLAG_SELF_TEST = 0,
        /// [`TcpEvent::flags`]: the local port is not chosen yet, so it is zero.
        FLAG_LOCAL_PORT_UNBOUND = 1,
        /// [`TcpEvent::flags`]: only `security_sock_graft` saw this accept: the thread
        /// was asleep in accept when the return probe was attached, or the kernel
        /// skipped that program.
        FLAG_PREATTACH = 2,
        /// [`TcpEvent::flags`]: a peer opened the connection.
        FLAG_INBOUND = 3,
        /// [`TcpEvent::flags`]: of an accept, the peer had reset the connection before.
        FLAG_ENDED = 4,
        /// [`TcpEvent::flags`]: the policy decided, by [`Owner::rule`]. Without it there is no
        /// policy, or it asks for what only userspace can tell.
        FLAG_JUDGED = 5,
        /// [`TcpEvent::flags`]: the policy does not want it; only with [`FLAG_JUDGED`].
        FLAG_DENIED = 6,
    }
}

bits! {
    u16 {
        /// [`Owner::flags`]: the kernel itself acts, which the defaults of a policy spare: a thread
        /// of its own, but for the later subflows of a process's MPTCP connection.
        OWNER_KERNEL = 0,
    }
}

/// Which file it is, whatever its name: as the kernel numbers it, on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The device: the major number from bit 20 on, the minor one below.
    pub device: u32,
    /// The inode number.
    pub inode: u64,
}

/// The process a socket belongs to, captured in process context, and what the policy says
/// of what it does there.
///
/// All fields are zero when the owner is unknown.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Owner {
    /// Start of the process (its thread group leader), `CLOCK_BOOTTIME` ns.
    pub start_ns: u64,
    /// cgroup v2 id: the inode number of its directory.
    pub cgroup_id: u64,
    /// Inode number of the file the process executes; zero where there is none.
    pub exe_inode: u64,
    /// Name of the acting *thread*, NUL-padded, untrusted bytes.
    pub comm: [u8; 16],
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Real uid in the initial user namespace.
    pub uid: u32,
    /// Real gid in the initial user namespace.
    pub gid: u32,
    /// The device that file is on, as the kernel numbers it: the major number from bit 20
    /// on, the minor one below.
    pub exe_device: u32,
    /// What decided, with [`FLAG_JUDGED`]: a rule's number, or
    /// [`RULES`](crate::generation::RULES) and a [`Tally`](crate::generation::Tally).
    pub rule: u16,
    /// `OWNER_*` bits, and from bit 1 on the number of the policy that judged, or that leaves
    /// it to userspace: see [`Judging`](crate::judging::Judging). Zero: userspace knows of no
    /// other policy than its own.
    pub flags: u16,
    /// Name of the process, which is its first thread's: NUL-padded, untrusted bytes.
    pub process_comm: [u8; 16],
}

/// One event, as it lies in the ring buffer. Integers are in host byte order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct TcpEvent {
    /// [`ABI_VERSION`] of the writer.
    pub abi: u8,
    /// An [`EventKind`] by number.
    pub kind: u8,
    /// The socket's address family: [`AF_INET`] or [`AF_INET6`].
    pub family: u8,
    /// An [`OwnerSource`] by number.
    pub owner_source: u8,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// The CPU the hook ran on.
    pub cpu: u16,
    /// When the hook ran, `CLOCK_BOOTTIME` ns.
    pub ts_ns: u64,
    /// Joins the events of one connection end; unique within a run.
    pub id: u64,
    /// Whose socket it is.
    pub owner: Owner,
    /// Local address, network byte order, IPv4 as IPv4-mapped.
    pub local_addr: [u8; 16],
    /// Remote address, network byte order, IPv4 as IPv4-mapped.
    pub remote_addr: [u8; 16],
    /// Inode number of the socket's network namespace.
    pub netns_ino: u32,
    /// Local port; zero with [`FLAG_LOCAL_PORT_UNBOUND`].
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// By kind: `Connected`: handshake in µs, saturating, zero when its beginning
    /// was not seen; `Failed`: the errno, zero when the socket was closed before
    /// an answer; `Close`: the socket's errno, zero for an orderly end;
    /// `Preexisting`: a [`crate::tcp_state::TcpState`] by number; else zero.
    pub detail: u32,
    /// Interface the socket is bound to (`sk_bound_dev_if`), zero for none: the
    /// zone of a link-local address.
    pub ifindex: u32,
}

/// What a connection was, at its end, or what it has been so far (`struct tcp_sock`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct CloseStats {
    /// From the attempt or the accept to the event, ns; zero when the beginning was
    /// not seen.
    pub duration_ns: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes sent, each once: what the peer acknowledged and what is on its way, not
    /// what the host's own queue or filter refused.
    pub bytes_sent: u64,
    /// Segments sent again, over the connection's life (`total_retrans`).
    pub retransmits: u32,
    /// Smoothed round-trip time, µs; zero when none was measured.
    pub srtt_us: u32,
    /// A [`ClosedBy`] by number.
    pub closed_by: u8,
    /// Non-zero: the connection was put into the socket by `TCP_REPAIR`.
    pub restored: u8,
    /// Explicit padding.
    pub reserved: [u8; 2],
    /// The process that closed this end, in the initial pid namespace; zero when
    /// the other end or nobody did.
    pub closer_tgid: u32,
}

/// The end of a connection, or its progress, as it lies in the ring buffer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct CloseEvent {
    /// Like every event.
    pub event: TcpEvent,
    /// What the connection was.
    pub stats: CloseStats,
}

impl AsMut<Self> for TcpEvent {
    #[inline(always)]
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl AsMut<TcpEvent> for CloseEvent {
    #[inline(always)]
    fn as_mut(&mut self) -> &mut TcpEvent {
        &mut self.event
    }
}

const _: () = {
    assert!(size_of::<CloseEvent>() == CLOSE_EVENT_SIZE);
    assert!(offset_of!(CloseEvent, stats) == EVENT_SIZE);
    assert!(offset_of!(CloseStats, retransmits) == 24);
    assert!(offset_of!(CloseStats, closed_by) == 32);
    assert!(offset_of!(CloseStats, closer_tgid) == 36);
    assert!(size_of::<Owner>() == 80);
    assert!(size_of::<TcpEvent>() == EVENT_SIZE);
    assert!(offset_of!(TcpEvent, ts_ns) == 8);
    assert!(offset_of!(TcpEvent, id) == 16);
    assert!(offset_of!(TcpEvent, owner) == 24);
    assert!(offset_of!(TcpEvent, local_addr) == 104);
    assert!(offset_of!(TcpEvent, remote_addr) == 120);
    assert!(offset_of!(TcpEvent, netns_ino) == 136);
    assert!(offset_of!(TcpEvent, local_port) == 140);
    assert!(offset_of!(TcpEvent, detail) == 144);
    assert!(offset_of!(TcpEvent, ifindex) == 148);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_owner_sources_survive_the_wire() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_raw(kind as u8), Some(kind));
        }
        for source in OwnerSource::ALL {
            assert_eq!(OwnerSource::from_raw(source as u8), Some(source));
        }
        for by in ClosedBy::ALL {
            assert_eq!(ClosedBy::from_raw(by as u8), Some(by));
        }
        assert_eq!(ClosedBy::from_raw(7), None);
        assert_eq!(EventKind::from_raw(0), None);
        assert_eq!(OwnerSource::from_raw(200), None);
    }
}
