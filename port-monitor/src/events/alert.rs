//! What somebody may want to be told of at once, and how loudly.

/// How loud a rule's match is, whatever its action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Not worth waking anybody.
    None,
    /// Worth a look.
    Low,
    /// Worth waking somebody.
    High,
}

impl Alert {
    /// The level as the policy spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::High => "high",
        }
    }
}

/// Why somebody is told of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum AlertKind {
    /// It breaks the policy, and was not stopped
    Violation,
    /// It breaks the policy, and failed with EPERM
    Denied,
    /// A rule allows it, and has `alert` "low" or "high"
    Allowed,
    /// A socket listens where no such one did since the start
    Listener,
    /// The first connection by a port since the start
    FirstUse,
    /// Events were lost
    Loss,
}
