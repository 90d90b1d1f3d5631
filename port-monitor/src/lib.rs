//! port-monitor: who talks to what on this host, live, held to a policy.
//!
//! Two one-way streets. **Events go up**: kernel hook → ring buffer →
//! [`event`] (decode) → [`enrich`] → [`peers`] → [`classify`] → [`policy`]
//! (verdict) → [`sink`]. **Policy goes down**: text → [`policy`] → decision function in
//! `port-monitor-common`.
//!
//! Invariants, checked by `cargo xtask tidy`:
//! - only `kernel/` imports aya;
//! - only `sink/` and `main.rs` print;
//! - [`policy`], [`classify`], [`event`], [`doors`] import neither `enrich`, `sink`
//!   nor `kernel`: they need no kernel, clock or filesystem to test;
//! - every module starts with `//!`, no file is longer than 600 lines.

pub mod child;
pub mod classify;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod doors;
pub mod duration;
pub mod enrich;
pub mod event;
pub mod exit_code;
pub mod file_id;
pub mod filter;
pub mod groups;
pub mod inbound;
pub mod kernel;
pub mod logging;
pub mod peers;
pub mod pipeline;
pub mod policy;
pub mod port_set;
pub mod record;
pub mod sanitize;
#[cfg(test)]
mod seeded;
pub mod services;
pub mod sink;
pub mod units;
pub mod usage;
pub mod users;
