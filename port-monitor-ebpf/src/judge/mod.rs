//! What the policy says of a connection, by the tables that userspace has compiled.

pub(crate) mod tables;
pub(crate) mod verdict;
