//! What rules mean together: which can never decide, where they overlap, how two policies differ.

pub(crate) mod cells;
pub mod diff;
pub(crate) mod meaning;
pub mod peer_set;
pub(crate) mod shadow;
pub(crate) mod surely;
