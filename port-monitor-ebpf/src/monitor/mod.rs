//! One file per place in the kernel that is watched, and what its programs share.

pub(crate) mod accept;
pub(crate) mod connect;
pub(crate) mod graft;
pub(crate) mod groups;
pub(crate) mod holders;
pub(crate) mod left;
pub(crate) mod listen;
pub(crate) mod outcome;
pub(crate) mod progress;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod tree;
pub(crate) mod unsent;
