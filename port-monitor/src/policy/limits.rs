//! How much of something a policy may have, so that the kernel's tables hold it.

use port_monitor_common::generation::{MASKS, NETWORKS, OWNERS};
use thiserror::Error;

/// What there may be so many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What, in the plural.
    pub(crate) what: &'static str,
    /// How many there may be.
    pub(crate) most: usize,
}

/// More of something than the kernel's tables hold.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{count} {what}: the kernel's tables hold {most}")]
pub struct TooMany {
    /// How many.
    pub count: usize,
    /// Of what.
    pub what: &'static str,
    /// How many there may be.
    pub most: usize,
}

/// Networks that a policy may name in all, equal ones counted once: the kernel's table
/// holds no more.
pub(crate) const MAX_NETWORKS: usize = NETWORKS as usize;

/// The sets of rules that a policy tells apart: those that accept one port, network,
/// user and so on, or have not ended yet.
pub(crate) const RULE_SETS: Limit = of("different sets of rules", MASKS);
/// Different users.
pub(crate) const USERS: Limit = of_owners("different users");
/// Cgroups of this host, or of a policy.
pub(crate) const CGROUPS: Limit = of_owners("different cgroups");

/// What rules ask of owners, of one kind.
pub(crate) const fn of_owners(what: &'static str) -> Limit {
    of(what, OWNERS)
}

const fn of(what: &'static str, most: u32) -> Limit {
    Limit {
        what,
        most: most as usize,
    }
}

/// The first of these that there are too many of.
pub(crate) fn check(counts: &[(usize, Limit)]) -> Result<(), TooMany> {
    let found = counts.iter().find(|(count, limit)| *count > limit.most);
    found.map_or(Ok(()), |&(count, Limit { what, most })| {
        Err(TooMany { count, what, most })
    })
}
