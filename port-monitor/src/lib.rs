//! port-monitor: who talks to what on this host, live, held to a policy.
//!
//! Two one-way streets. **Events go up**: kernel hook → ring buffer ([`kernel`]) →
//! [`pipeline`] (decode, enrich, pair, classify, verdict) → [`consume`]. **Policy goes
//! down**: text → [`policy`] → tables that the kernel decides by.
//!
//! Each folder is a room. Which room may use which is a list in `xtask/src/tidy/graph.rs`;
//! `cargo xtask tidy` holds the code to it, finds modules that lead in a circle, and prints
//! the rooms, as `ARCHITECTURE.md` shows them. It checks too that
//! - only `kernel/` imports aya;
//! - only `consume/`, `commands/` and what starts them print;
//! - every module starts with `//!`, no file is longer than 600 lines.

pub mod base;
pub mod cli;
pub mod commands;
pub mod consume;
pub mod dispatch;
pub mod events;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod kernel;
pub mod logging;
pub mod pipeline;
pub mod policy;
pub mod ports;
pub mod usage;
