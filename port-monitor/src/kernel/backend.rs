//! The backends there are, and why one was refused.

use thiserror::Error;

/// A backend: a set of hooks that yields the same records as the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// BPF trampolines on `tcp_connect`, `inet_csk_accept`,
    /// `security_sock_graft`: cheapest and most complete
    Fentry,
    /// Kprobes on `tcp_connect` and `security_sock_graft`: where there are no
    /// trampolines
    Kprobe,
    /// The raw tracepoint `inet_sock_set_state` alone: where there are neither
    Tracepoint,
}

impl Backend {
    /// Every backend, best first.
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

/// Why a backend was refused.
#[derive(Debug, Error)]
#[error("{}: {reason}", backend.name())]
pub struct BackendError {
    /// The backend.
    pub backend: Backend,
    /// The hook that failed and the kernel's answer, one line.
    pub(super) reason: String,
}

impl BackendError {
    /// The hook that failed and the kernel's answer, without the backend's name.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
