//! The backends there are, and why one was refused.

use thiserror::Error;

/// A backend: a set of hooks that yields the same records as the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rung {
    /// BPF trampolines on `tcp_connect`, `inet_csk_accept`,
    /// `security_sock_graft`: cheapest and most complete
    Fentry,
    /// Kprobes on `tcp_connect` and `security_sock_graft`: where there are no
    /// trampolines
    Kprobe,
    /// The raw tracepoint `inet_sock_set_state` alone: where there are neither
    Tracepoint,
}

impl Rung {
    /// Every rung, best first.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// Why a rung was refused.
#[derive(Debug, Error)]
#[error("{}: {reason}", rung.name())]
pub struct RungError {
    /// The rung.
    pub rung: Rung,
    /// The hook that failed and the kernel's answer, one line.
    pub(super) reason: String,
}

impl RungError {
    /// The hook that failed and the kernel's answer, without the rung's name.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
