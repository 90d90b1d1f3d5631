//! From a record of the ring to an event that is told: decoded, with its process, paired
//! with the other end, classified and judged.

pub mod classify;
pub mod enrich;
pub mod inbound;
pub mod judging;
pub mod pairing;
mod stages;

pub use stages::{Pipeline, Tally, ephemeral_range};
