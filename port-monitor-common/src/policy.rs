//! The policy decision: compiled rules and the facts of one connection in,
//! verdict and rule out. Pure, no allocation.

/// What happened to a connection under the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Allowed.
    Allow = 0,
    /// Denied.
    Deny = 1,
    /// Denied by a policy in observe mode: the connection went on.
    AuditDeny = 2,
}
