//! What happened: the one set of types that all rooms speak of events by.

pub mod alert;
pub(crate) mod community_id;
pub(crate) mod compat;
pub mod decode;
pub mod judgement;
pub mod record;
pub mod wire;
