//! The rules of a policy, compiled from its text.

pub(crate) mod compile;
pub mod environment;
pub(crate) mod info;
pub mod intent;
pub(crate) mod owner;
pub(crate) mod table;
