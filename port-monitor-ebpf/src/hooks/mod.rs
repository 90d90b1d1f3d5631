//! One file per place in the kernel.

pub(crate) mod accept;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod graft;
pub(crate) mod groups;
pub(crate) mod inbound;
pub(crate) mod left;
pub(crate) mod listen;
pub(crate) mod listeners;
pub(crate) mod outcome;
pub(crate) mod progress;
pub(crate) mod snapshot;
pub(crate) mod socket;
pub(crate) mod state;
pub(crate) mod tree;
pub(crate) mod unsent;
