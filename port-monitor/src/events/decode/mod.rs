//! The event of the kernel in userspace types, and its decoder. Pure: bytes in,
//! [`Event`] out; it never panics and never guesses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    addr::as_v4,
    event::{
        AF_INET, AF_INET6, CLOSE_EVENT_SIZE, CloseStats, ClosedBy, EVENT_SIZE, EventKind,
        FLAG_DENIED, FLAG_ENDED, FLAG_INBOUND, FLAG_JUDGED, FLAG_LOCAL_PORT_UNBOUND,
        FLAG_PREATTACH, FLAG_SELF_TEST, FileId, OWNER_KERNEL, OwnerSource,
    },
    tcp_state::TcpState,
};
use thiserror::Error;
use zerocopy::FromBytes as _;

/// Who opened the connection, seen from the socket the event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A peer connected to this socket's listener.
    Inbound,
    /// This socket connected to the peer.
    Outbound,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A SYN is about to be sent.
    Connect,
    /// The connection was accepted (on the tracepoint backend: established).
    Accept,
    /// The handshake of an attempt is complete.
    Connected {
        /// From the attempt to the established connection, µs, saturating; `None`
        /// when the attempt is older than the monitor.
        handshake_us: Option<u32>,
    },
    /// The attempt came to nothing.
    Failed {
        /// The socket's errno; `None` when it was closed before any answer.
        errno: Option<i32>,
    },
    /// An established connection has ended.
    Close(Close),
    /// The socket was there before the monitor.
    Preexisting {
        /// Who opened it: a peer, where a socket listens at the local port.
        direction: Direction,
        /// Its state when it was found: not closed.
        state: TcpState,
        /// How long it is open or tried by then, ns; `None` unless a service tells it, which
        /// has seen its beginning.
        duration_ns: Option<u64>,
    },
    /// A socket listens from now on.
    Listen,
    /// A socket does not listen any more.
    Unlisten,
    /// A process put a connection into a socket by `TCP_REPAIR`: no packet told its peer.
    Restored,
    /// An established connection is still open, and has carried so much: nobody has closed it.
    Progress(Close),
}

impl Action {
    /// An attempt failed with `EPERM`: a cgroup program or a security module refused it.
    pub fn is_refused(&self) -> bool {
        const EPERM: i32 = 1;
        *self == Self::Failed { errno: Some(EPERM) }
    }
}

/// The end of a connection, and what it was; or what one has been so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// Who opened it.
    pub direction: Direction,
    /// From the attempt or the accept to the event, ns; `None` when the beginning
    /// was not seen.
    pub duration_ns: Option<u64>,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes sent, each once, acknowledged or not.
    pub bytes_sent: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Smoothed round-trip time, µs; `None` when none was measured.
    pub rtt_us: Option<u32>,
    /// Who ended it first.
    pub closed_by: ClosedBy,
    /// The process that closed this end, where that is not its owner: the socket
    /// was passed on, inherited, or destroyed from outside.
    pub closing_pid: Option<u32>,
    /// The socket's errno; `None` for an orderly end.
    pub errno: Option<i32>,
}

impl Close {
    /// An end of which nothing more is known.
    pub const fn new(direction: Direction, closed_by: ClosedBy) -> Self {
        Self {
            direction,
            duration_ns: None,
            bytes_received: 0,
            bytes_sent: 0,
            retransmits: 0,
            rtt_us: None,
            closed_by,
            closing_pid: None,
            errno: None,
        }
    }
}

impl Action {
    /// Its kind.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Connect => EventKind::Connect,
            Self::Accept => EventKind::Accept,
            Self::Connected { .. } => EventKind::Connected,
            Self::Failed { .. } => EventKind::Failed,
            Self::Close(_) => EventKind::Close,
            Self::Preexisting { .. } => EventKind::Preexisting,
            Self::Listen => EventKind::Listen,
            Self::Unlisten => EventKind::Unlisten,
            Self::Restored => EventKind::Restored,
            Self::Progress(_) => EventKind::Progress,
        }
    }

    /// Who opened the connection this event is about.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Accept | Self::Listen | Self::Unlisten => Direction::Inbound,
            Self::Connect | Self::Connected { .. } | Self::Failed { .. } | Self::Restored => {
                Direction::Outbound
            }
            Self::Close(Close { direction, .. })
            | Self::Progress(Close { direction, .. })
            | Self::Preexisting { direction, .. } => direction,
        }
    }

    /// What the connection was, at its end.
    pub const fn close(&self) -> Option<&Close> {
        match self {
            Self::Close(close) => Some(close),
            Self::Connect
            | Self::Accept
            | Self::Connected { .. }
            | Self::Failed { .. }
            | Self::Preexisting { .. }
            | Self::Listen
            | Self::Unlisten
            | Self::Restored
            | Self::Progress(_) => None,
        }
    }

    /// From the attempt or the accept to the event, ns, where the event tells it.
    pub const fn duration_ns(&self) -> Option<u64> {
        match (self, self.carried()) {
            (Self::Preexisting { duration_ns, .. }, _) => *duration_ns,
            (_, Some(carried)) => carried.duration_ns,
            (_, None) => None,
        }
    }

    /// What the connection has carried: at its end, or so far.
    pub const fn carried(&self) -> Option<&Close> {
        match self {
            Self::Progress(so_far) => Some(so_far),
            other => other.close(),
        }
    }

    /// Whether this is about a socket that listens, and has no peer.
    pub const fn is_listener(self) -> bool {
        match self {
            Self::Listen | Self::Unlisten => true,
            Self::Preexisting { state, .. } => matches!(state, TcpState::LISTEN),
            Self::Connect
            | Self::Accept
            | Self::Connected { .. }
            | Self::Failed { .. }
            | Self::Close(_)
            | Self::Restored
            | Self::Progress(_) => false,
        }
    }

    /// Whether this is the end of what another event has begun.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Close(_) | Self::Unlisten)
    }

    /// Whether this says more of what another event has told of already, and judged.
    pub const fn is_told_again(self) -> bool {
        self.is_end() || matches!(self, Self::Progress(_))
    }
}

/// Whose socket it is, captured in process context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// How the owner is known; never [`OwnerSource::Unknown`].
    pub source: OwnerSource,
    /// Process id (thread group) in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Start of the process, `CLOCK_BOOTTIME` ns: with the pid, a name no other
    /// process ever has.
    pub start_ns: u64,
    /// Name of the acting thread: untrusted bytes up to the first NUL.
    pub comm: Comm,
    /// Name of the process, which is its first thread's, at the same moment.
    pub process_comm: Comm,
    /// Real uid in the initial user namespace.
    pub uid: u32,
    /// Real gid in the initial user namespace.
    pub gid: u32,
    /// cgroup v2 id: the inode number of its directory.
    pub cgroup_id: u64,
    /// The file the process executes; `None` where there is none: a thread of the kernel,
    /// or a process that has ended.
    pub exe: Option<FileId>,
    /// The kernel itself acts, which the defaults of a policy spare: a thread of its own,
    /// but for the later subflows of a process's MPTCP connection.
    pub is_kernel: bool,
}

impl Owner {
    /// From the kernel's words.
    pub const fn of(wire: &port_monitor_common::event::Owner, source: OwnerSource) -> Self {
        Self {
            source,
            pid: wire.tgid,
            tid: wire.tid,
            start_ns: wire.start_ns,
            comm: Comm(wire.comm),
            process_comm: Comm(wire.process_comm),
            uid: wire.uid,
            gid: wire.gid,
            cgroup_id: wire.cgroup_id,
            exe: if wire.exe_inode == 0 {
                None
            } else {
                Some(FileId {
                    device: wire.exe_device,
                    inode: wire.exe_inode,
                })
            },
            is_kernel: wire.flags & OWNER_KERNEL != 0,
        }
    }
}

/// A thread name: up to 15 bytes its owner chose freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// The name of these bytes; what is beyond its room is cut off.
    pub fn of(name: &[u8]) -> Self {
        let mut comm = Self::default();
        for (to, from) in comm.0.iter_mut().zip(name) {
            *to = *from;
        }
        comm
    }

    /// The bytes before the first NUL; not necessarily UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(self.0.len());
        self.0.get(..end).unwrap_or_default()
    }
}

/// What the kernel side found that the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The policy does not want it.
    pub is_denied: bool,
    /// The number of the rule that decided, beyond those of all rules where none did.
    pub rule: u16,
}

/// Who listens where an inbound connection has come in, as far as the record tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Its number, to ask who has it open by; zero where the owner is known, or nobody knows
    /// it.
    pub number: u32,
    /// Processes that had it open; zero where nobody asked.
    pub holders: u32,
}

/// One event, host byte order, IPv4-mapped addresses as IPv4.
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of the record, independent of each other"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// Joins the events of one connection end; unique within a run.
    pub id: u64,
    /// When the hook ran, `CLOCK_BOOTTIME` ns.
    pub ts_ns: u64,
    /// The CPU the hook ran on.
    pub cpu: u16,
    /// Whose socket it is; `None` when no hook saw the owner.
    pub owner: Option<Owner>,
    /// The listener of an accept on the tracepoint backend.
    pub listener: Listener,
    /// Local address.
    pub local_ip: IpAddr,
    /// Local port; `None` while the kernel has not chosen one (an attempt on
    /// the tracepoint backend).
    pub local_port: Option<u16>,
    /// Remote address; the unspecified one where the socket listens.
    pub remote_ip: IpAddr,
    /// Remote port; zero where the socket listens.
    pub remote_port: u16,
    /// The socket is an IPv6 one that speaks IPv4 (RFC 4291 §2.5.5.2).
    pub v4_mapped: bool,
    /// Inode number of the socket's network namespace.
    pub netns_ino: u32,
    /// The interface the socket is bound to: the zone of link-local addresses.
    pub ifindex: Option<u32>,
    /// Only `security_sock_graft` saw the accept: the thread was asleep in
    /// accept before the monitor attached, or the kernel skipped the program on
    /// `inet_csk_accept`.
    pub preattach: bool,
    /// An accept: the peer had reset the connection before.
    pub ended: bool,
    /// The event is the start-up self-test's and belongs to no sink.
    pub self_test: bool,
    /// The kernel side's verdict; `None` without a policy, or where that asks for what
    /// only userspace can tell.
    pub stamp: Option<Stamp>,
    /// The number of the policy that this is the word of, or that is to be asked; zero for the
    /// only one there is.
    pub policy: u16,
}

impl Event {
    /// Who opened the connection.
    pub const fn direction(&self) -> Direction {
        self.action.direction()
    }

    /// The port that names the service: the remote one outbound, the local one
    /// inbound. `None` only when the local port is not chosen yet.
    pub const fn service_port(&self) -> Option<u16> {
        match self.direction() {
            Direction::Outbound => Some(self.remote_port),
            Direction::Inbound => self.local_port,
        }
    }
}

/// Why a record is not an event of this version.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Too short or too long.
    #[error("record of {0} bytes")]
    Size(usize),
    /// Another layout version.
    #[error("record of layout {0}, this program reads {ABI_VERSION}")]
    Abi(u8),
    /// A kind this version does not know.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// Neither `AF_INET` nor `AF_INET6`.
    #[error("record of address family {0}")]
    Family(u8),
    /// An owner source this version does not know.
    #[error("record of unknown owner source {0}")]
    OwnerSource(u8),
    /// A state that is none.
    #[error("record of TCP state {0}")]
    State(u32),
    /// A way to end a connection this version does not know.
    #[error("record of unknown closer {0}")]
    ClosedBy(u8),
}

/// Decodes one ring buffer record.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let (wire, rest) =
        TcpEvent::read_from_prefix(bytes).map_err(|_| DecodeError::Size(bytes.len()))?;
    if wire.abi != ABI_VERSION {
        return Err(DecodeError::Abi(wire.abi));
    }
    if wire.family != AF_INET && wire.family != AF_INET6 {
        return Err(DecodeError::Family(wire.family));
    }
    let kind = EventKind::from_raw(wire.kind).ok_or(DecodeError::Kind(wire.kind))?;
    if bytes.len() != record_size(kind) {
        return Err(DecodeError::Size(bytes.len()));
    }
    let errno = || i32::try_from(wire.detail).ok().filter(|&errno| errno != 0);
    let action = match kind {
        EventKind::Connect => Action::Connect,
        EventKind::Accept => Action::Accept,
        EventKind::Connected => Action::Connected {
            handshake_us: (wire.detail != 0).then_some(wire.detail),
        },
        EventKind::Failed => Action::Failed { errno: errno() },
        EventKind::Close => Action::Close(close(&wire, rest, errno())?),
        EventKind::Preexisting => preexisting(&wire)?,
        EventKind::Listen => Action::Listen,
        EventKind::Unlisten => Action::Unlisten,
        EventKind::Restored => Action::Restored,
        EventKind::Progress => Action::Progress(close(&wire, rest, None)?),
    };
    Ok(Event {
        action,
        id: wire.id,
        ts_ns: wire.ts_ns,
        cpu: wire.cpu,
        owner: owner(&wire)?,
        listener: Listener {
            number: match action {
                Action::Accept => wire.detail,
                _ => 0,
            },
            holders: 0,
        },
        local_ip: ip(&wire.local_addr),
        local_port: (wire.flags & FLAG_LOCAL_PORT_UNBOUND == 0).then_some(wire.local_port),
        remote_ip: ip(&wire.remote_addr),
        remote_port: wire.remote_port,
        v4_mapped: wire.family == AF_INET6 && as_v4(&wire.remote_addr).is_some(),
        netns_ino: wire.netns_ino,
        ifindex: (wire.ifindex != 0).then_some(wire.ifindex),
        preattach: wire.flags & FLAG_PREATTACH != 0,
        ended: wire.flags & FLAG_ENDED != 0,
        self_test: wire.flags & FLAG_SELF_TEST != 0,
        stamp: (wire.flags & FLAG_JUDGED != 0).then_some(Stamp {
            is_denied: wire.flags & FLAG_DENIED != 0,
            rule: wire.owner.rule,
        }),
        policy: wire.owner.flags >> 1,
    })
}

/// How long a record of this kind is.
const fn record_size(kind: EventKind) -> usize {
    match kind {
        EventKind::Connect
        | EventKind::Accept
        | EventKind::Connected
        | EventKind::Failed
        | EventKind::Preexisting
        | EventKind::Listen
        | EventKind::Unlisten
        | EventKind::Restored => EVENT_SIZE,
        EventKind::Close | EventKind::Progress => CLOSE_EVENT_SIZE,
    }
}

const fn direction(wire: &TcpEvent) -> Direction {
    if wire.flags & FLAG_INBOUND == 0 {
        Direction::Outbound
    } else {
        Direction::Inbound
    }
}

fn preexisting(wire: &TcpEvent) -> Result<Action, DecodeError> {
    let state = u8::try_from(wire.detail)
        .map(TcpState)
        .map_err(|_| DecodeError::State(wire.detail))?;
    let direction = match state {
        TcpState::LISTEN => Direction::Inbound,
        _ => direction(wire),
    };
    Ok(Action::Preexisting {
        direction,
        state,
        duration_ns: None,
    })
}

fn close(wire: &TcpEvent, rest: &[u8], errno: Option<i32>) -> Result<Close, DecodeError> {
    let stats = CloseStats::read_from_bytes(rest)
        .map_err(|_| DecodeError::Size(EVENT_SIZE + rest.len()))?;
    Ok(Close {
        direction: direction(wire),
        duration_ns: (stats.duration_ns != 0).then_some(stats.duration_ns),
        bytes_received: stats.bytes_received,
        bytes_sent: stats.bytes_sent,
        retransmits: stats.retransmits,
        rtt_us: (stats.srtt_us != 0).then_some(stats.srtt_us),
        closed_by: ClosedBy::from_raw(stats.closed_by)
            .ok_or(DecodeError::ClosedBy(stats.closed_by))?,
        closing_pid: Some(stats.closer_tgid).filter(|&pid| pid != 0 && pid != wire.owner.tgid),
        errno,
    })
}

fn owner(wire: &TcpEvent) -> Result<Option<Owner>, DecodeError> {
    let source = OwnerSource::from_raw(wire.owner_source)
        .ok_or(DecodeError::OwnerSource(wire.owner_source))?;
    let is_known = source != OwnerSource::Unknown;
    Ok(is_known.then(|| Owner::of(&wire.owner, source)))
}

pub(crate) fn ip(addr: &[u8; 16]) -> IpAddr {
    as_v4(addr).map_or_else(
        || Ipv6Addr::from(*addr).into(),
        |v4| Ipv4Addr::from(v4).into(),
    )
}

#[cfg(test)]
mod tests;
