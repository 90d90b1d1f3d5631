//! The policy: a text file that says which connections may be, and the verdict
//! on each connection.
//!
//! [`Policy::load`] goes from text to the compiled rules of
//! `port_monitor_common::policy`: `file` (bytes) → `parse` (TOML) → `compile`
//! and `condition` (names to numbers) → `shadow` (rules that never decide).
//! `index` brings the rules into the form that decides, and `lower` that into the
//! form of the kernel's maps. The decision itself is in the common crate. Pure but for `file` and
//! [`rules::environment::Host`].

pub mod analysis;
mod compiled;
pub(crate) mod conditions;
pub mod explain;
pub mod export;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod learn;
pub(crate) mod limits;
pub mod names;
#[cfg(feature = "top")]
pub mod propose;
pub mod rules;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod text;

pub use analysis::surely::Unknown;
pub use compiled::{Facts, Invalid, Policy, PolicyError};
pub use explain::{Explanation, Reason, RuleRef};
pub use rules::environment::{Environment, Host};
pub use rules::intent::Intent;
pub use text::diagnostic::{Diagnostic, Source, Style};
pub use text::file::{FileError, are_one_stream, is_stream, read_bytes};
