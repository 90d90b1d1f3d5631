//! Transports, and the one line of numbers that the ports of all of them are on.

use crate::numbered::numbered;

numbered! {
    /// What carries a connection.
    #[derive(Default)]
    pub enum Transport: u32 {
        /// TCP, by itself or through MPTCP.
        #[default]
        Tcp = 0,
        /// UDP.
        Udp = 1,
    }
}

impl Transport {
    /// The name of a port beside those of other transports: they are one line of
    /// numbers, TCP's first.
    #[inline]
    pub const fn port(self, port: u16) -> u32 {
        (self as u32) << 16 | port as u32
    }

    /// All its ports.
    pub const fn ports(self) -> PortRange {
        PortRange {
            first: self.port(0),
            last: self.port(u16::MAX),
        }
    }

    /// Transport and port of what [`port`](Self::port) has named.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub const fn of(named: u32) -> (Self, u16) {
        let transport = match Self::from_raw(named >> 16) {
            Some(transport) => transport,
            None => Self::Tcp,
        };
        (transport, named as u16)
    }

    /// As the policy spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Ports from `first` to `last`, both included, as [`Transport::port`] names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest port.
    pub first: u32,
    /// The highest port, never below `first`.
    pub last: u32,
}

impl PortRange {
    /// `port` lies in the range.
    #[inline]
    pub const fn contains(&self, port: u32) -> bool {
        self.first <= port && port <= self.last
    }
}
