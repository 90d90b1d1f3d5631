//! What a policy asks of whoever applies it: `mode` and `[apply]`, and how a peer
//! is refused.

use std::time::Duration;

use port_monitor_common::policy::Mode;

/// How to apply a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Stop what is denied, or only count it.
    pub mode: Mode,
    /// How a peer is refused.
    pub inbound: Refusal,
    /// What becomes of connections that are open and denied.
    pub established: Established,
    /// What becomes of the policy without the monitor.
    pub on_daemon_exit: OnDaemonExit,
    /// How long to wait for `port-monitor confirm` before the policy is undone.
    pub confirm: Option<Duration>,
}

impl Default for Intent {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            inbound: Refusal::Reset,
            established: Established::Keep,
            on_daemon_exit: OnDaemonExit::Enforce,
            confirm: None,
        }
    }
}

/// What a refused peer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A closed port: RST.
    Reset,
    /// Nothing.
    Drop,
}

/// What becomes of connections that are open when a policy comes that denies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Established {
    /// They stay.
    Keep,
    /// They are reset.
    Kill,
}

/// What becomes of a policy whose monitor is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDaemonExit {
    /// It stays in force.
    Enforce,
    /// It ends after a minute.
    Open,
    /// Nothing is allowed any more.
    Closed,
}
