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
    /// What becomes of the policy when nobody follows it.
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

/// What becomes of a policy that nobody follows any more, and how long after the last
/// sign of whoever did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDaemonExit {
    /// It stays in force.
    Enforce,
    /// It ends.
    Open(Duration),
    /// Nothing but its failsafe is allowed any more.
    Closed(Duration),
}

impl OnDaemonExit {
    /// How soon it may come: whoever follows a policy gives a sign every second.
    pub const SOONEST: Duration = Duration::from_secs(3);
    /// How late.
    pub const LATEST: Duration = Duration::from_hours(24);
    /// How long `closed` waits.
    pub const CLOSED_AFTER: Duration = Duration::from_secs(10);
}
