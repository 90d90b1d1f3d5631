//! What every room may use: it knows nothing of connections, hosts or policies.

pub(crate) mod ascii;
pub mod duration;
pub mod exit_code;
pub(crate) mod from_text;
pub(crate) mod memo;
pub(crate) mod order;
pub mod sanitize;
#[cfg(test)]
pub(crate) mod seeded;
pub(crate) mod time;
pub mod when;
pub(crate) mod zone;
