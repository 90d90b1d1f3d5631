//! The kernel's TCP states, by number (`include/net/tcp_states.h`).

/// A TCP state as the kernel numbers it. An unknown number is a legal value: a
/// newer kernel may have more states than this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpState(pub u8);

impl TcpState {
    /// The handshake is complete.
    pub const ESTABLISHED: Self = Self(1);
    /// A SYN is about to be sent, or has been.
    pub const SYN_SENT: Self = Self(2);
    /// A passive socket whose handshake is not complete.
    pub const SYN_RECV: Self = Self(3);
    /// We have sent a FIN first; the peer has not acknowledged it.
    pub const FIN_WAIT1: Self = Self(4);
    /// We have sent a FIN, which the peer has acknowledged.
    pub const FIN_WAIT2: Self = Self(5);
    /// The peer has sent a FIN first.
    pub const CLOSE_WAIT: Self = Self(8);
    /// No connection.
    pub const CLOSE: Self = Self(7);
    /// Both have sent a FIN, the peer first.
    pub const LAST_ACK: Self = Self(9);
    /// Both have sent a FIN at once.
    pub const CLOSING: Self = Self(11);
    /// Accepting connections.
    pub const LISTEN: Self = Self(10);

    /// The state as RFC 9293 names it, in lower case; `None` for a number this
    /// list does not have.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::ESTABLISHED => Some("established"),
            Self::SYN_SENT => Some("syn-sent"),
            Self::SYN_RECV => Some("syn-received"),
            Self::FIN_WAIT1 => Some("fin-wait-1"),
            Self::FIN_WAIT2 => Some("fin-wait-2"),
            Self::CLOSE_WAIT => Some("close-wait"),
            Self::CLOSE => Some("closed"),
            Self::LAST_ACK => Some("last-ack"),
            Self::CLOSING => Some("closing"),
            Self::LISTEN => Some("listen"),
            _ => None,
        }
    }
}
