//! What is told: filtered, remembered until it is over, counted, written as a record.

pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod emit;
pub(crate) mod executable;
pub(crate) mod filter;
pub(crate) mod listeners;
pub(crate) mod listening;
pub(crate) mod once;
pub(crate) mod turn;
