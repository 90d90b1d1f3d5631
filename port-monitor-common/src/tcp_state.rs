//! The kernel's TCP states, by number (`include/net/tcp_states.h`).

/// A TCP state as the kernel numbers it. An unknown number is a legal value: a
/// newer kernel may have more states than this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}
