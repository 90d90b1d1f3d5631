//! What the maps hold, as far as no other part of the tool reads it.

use core::mem::offset_of;

use port_monitor_common::{
    addr::Words as Addr,
    event::{FLAG_DENIED, FLAG_INBOUND, FLAG_JUDGED, Owner, TcpEvent},
};

/// The flags that all events of a connection have.
pub(crate) const LASTING_FLAGS: u16 = FLAG_INBOUND | FLAG_JUDGED | FLAG_DENIED;

/// An attempt without an outcome, a connection without an end, or a socket that listens.
///
/// Laid out like the beginning of the event that begins it, which is lent to the map: the
/// stack of the programs that make one has no room for a copy.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Connection {
    /// Who closed this end; zero: nobody yet.
    pub(crate) closer_tgid: u32,
    /// [`LASTING_FLAGS`] of its events, [`OPEN`], and in the lowest bits an
    /// [`OwnerSource`](port_monitor_common::event::OwnerSource) by number.
    pub(crate) flags: u8,
    /// A [`ClosedBy`] by number.
    pub(crate) closed_by: u8,
    /// [`OVER`], or what `left` writes there.
    pub(crate) end: u8,
    /// 1: it was put into its socket by `TCP_REPAIR`; else 0.
    pub(crate) restored: u8,
    /// Attempt or accept, `CLOCK_BOOTTIME` ns; zero: not seen.
    pub(crate) ts_ns: u64,
    pub(crate) id: u64,
    pub(crate) owner: Owner,
}

const _: () = {
    assert!(offset_of!(Connection, ts_ns) == offset_of!(TcpEvent, ts_ns));
    assert!(offset_of!(Connection, id) == offset_of!(TcpEvent, id));
    assert!(offset_of!(Connection, owner) == offset_of!(TcpEvent, owner));
    assert!(size_of::<Connection>() <= size_of::<TcpEvent>());
};

/// Where a socket listens.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ListenerKey {
    pub(crate) addr: Addr,
    pub(crate) netns_ino: u32,
    pub(crate) port: u32,
}

/// What listens there. Who has it open is asked when a connection has come: whoever made
/// it listen may have passed it on, or be another program by then. Laid out like a part of
/// an event, which is lent to the map.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Listener {
    /// Who made the first of its sockets listen.
    pub(crate) owner: Owner,
    /// Its name among all there ever were; not zero.
    pub(crate) number: u32,
    /// Listening sockets with this key: several with `SO_REUSEPORT`.
    pub(crate) sockets: u32,
    /// What that process had executed by then: `task::exec_id`.
    pub(crate) exec_id: u32,
    /// One of its sockets could not be counted: nobody knows to which of them a connection
    /// comes.
    pub(crate) is_ambiguous: u16,
    /// Connections have come to it whose owner is asked for: who closes it is to be told.
    pub(crate) is_asked: u16,
}

/// A listening socket that was closed.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LetGo {
    /// When, `CLOCK_BOOTTIME` ns.
    pub(crate) closed_ns: u64,
    /// [`Listener::number`].
    pub(crate) number: u64,
}

/// What a thread's `connect` was called with, until it returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// The `sock`, or the `socket` of the security hook.
    pub(crate) socket: u64,
    /// The `sockaddr`, in kernel memory.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) length: u64,
}
