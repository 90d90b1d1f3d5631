//! The backends, and what each is known not to see.

use std::fmt;

use clap::ValueEnum;

/// A way to attach, as `--backend` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Trampolines on the TCP functions.
    Fentry,
    /// Probes on the TCP functions.
    Kprobe,
    /// Raw tracepoints only.
    Tracepoint,
}

/// Something the tracepoint backend does not see. Each is asserted to be exactly
/// so, and to be named in the stream's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blind {
    /// An attempt's local port, where the program did not choose it.
    LocalPort,
    /// The accepting thread: the record names the listener's owner instead.
    Acceptor,
    /// Whether anybody accepted: an established connection counts as accepted.
    NeverAccepted,
    /// An attempt that failed before its SYN.
    Unsent,
    /// A socket that begins to listen is seen before its port is chosen, and
    /// before the kernel may refuse it.
    EarlyListen,
    /// Which of several processes listening at one address is meant, and who
    /// listens without having bound the socket.
    Listener,
}

impl Blind {
    /// Every one of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::LocalPort,
        Self::Unsent,
        Self::EarlyListen,
        Self::Acceptor,
        Self::NeverAccepted,
        Self::Listener,
    ];

    /// What the matrix says of it.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::LocalPort => "the attempt has no local port yet",
            Self::Unsent => "an attempt that fails before its SYN has no errno, or no record",
            Self::EarlyListen => "listen is seen before it has a port, or is refused",
            Self::Acceptor => "the accept names the listener's owner",
            Self::NeverAccepted => "an established connection counts as accepted",
            Self::Listener => "the accept has no owner",
        }
    }

    /// Words the header's sentence about it must contain.
    pub(crate) const fn header_words(self) -> &'static str {
        match self {
            Self::LocalPort => "the local port of an attempt",
            Self::Unsent => "attempts that fail before their SYN",
            Self::EarlyListen => "the port of a listener that never called bind",
            Self::Acceptor => "who accepts",
            Self::NeverAccepted => "established",
            Self::Listener => "who owns a listener",
        }
    }
}

impl Backend {
    /// Every backend, best first.
    pub(crate) const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The backend as `--backend` and the stream's header spell it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }

    /// What the backend sees.
    pub(crate) const fn sight(self) -> Sight {
        match self {
            Self::Fentry => Sight {
                chosen_ports: true,
                unsent: true,
                listens_late: true,
                acceptors: true,
                two_hooks: true,
            },
            Self::Kprobe => Sight {
                chosen_ports: true,
                unsent: true,
                listens_late: true,
                acceptors: true,
                two_hooks: false,
            },
            Self::Tracepoint => Sight {
                chosen_ports: false,
                unsent: false,
                listens_late: false,
                acceptors: false,
                two_hooks: false,
            },
        }
    }
}

/// What is seen where the backends differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each backend has its own set of them"
)]
pub(crate) struct Sight {
    /// The local port of an attempt that the kernel chose.
    pub(crate) chosen_ports: bool,
    /// An attempt that failed before its SYN, and its errno.
    pub(crate) unsent: bool,
    /// A socket that listens, when its port is chosen and nothing is refused any
    /// more.
    pub(crate) listens_late: bool,
    /// Who accepts, and that somebody does.
    pub(crate) acceptors: bool,
    /// Two hooks see an accept, and the record says when only the second did.
    pub(crate) two_hooks: bool,
}

impl Sight {
    /// Whether this is not seen.
    pub(crate) const fn lacks(self, blind: Blind) -> bool {
        match blind {
            Blind::LocalPort => !self.chosen_ports,
            Blind::Unsent => !self.unsent,
            Blind::EarlyListen => !self.listens_late,
            Blind::Acceptor | Blind::NeverAccepted | Blind::Listener => !self.acceptors,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
