//! The tables that the kernel decides by, made from rules.

pub(crate) mod index;
pub mod lower;
pub(crate) mod stretches;
