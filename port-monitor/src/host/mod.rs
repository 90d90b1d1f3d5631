//! What this host is: its control groups, units, users, processes and clocks.
//!
//! Reads /proc, /sys and the user database; knows no eBPF and no policy.

pub(crate) mod cgroup;
pub mod clock;
pub(crate) mod container;
pub mod executables;
pub mod file_id;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod groups;
pub mod holding;
#[cfg(target_env = "gnu")]
pub mod nss;
pub(crate) mod process;
pub(crate) mod secrets;
mod stat;
pub(crate) mod threads;
pub(crate) mod unit;
pub mod units;
pub mod users;
