//! The only user of aya: loads the object, tries one backend after another until
//! one attaches, proves it with the self-test, and hands out ring and counters.
//! Dropping [`Kernel`] detaches everything.

mod aya_workarounds;
mod backend;
mod backends;
mod bpf;
pub mod btf;
pub mod counters;
pub mod enforcer;
pub mod error;
mod executables;
pub mod faults;
pub mod filters;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod groups;
mod holders;
mod host_btf;
mod iterator;
pub mod judge;
mod left;
mod mapped;
mod maps;
mod monitor;
mod object;
mod pod;
mod preemption;
pub mod preflight;
pub mod progress;
mod records;
pub mod ring;
mod run;
mod self_test;
pub mod settings;
mod skips;
mod snapshot;

pub use backend::{Backend, BackendError};
pub use error::{KernelError, SYSTEM_BTF, SelfTestError, kernel_release};
pub use executables::Noted;
pub use holders::Holders;
pub use judge::Judge;
pub use monitor::Kernel;
pub use records::Records;
pub use settings::{
    DEFAULT_LATENCY, DEFAULT_MAX_CONNECTIONS, DEFAULT_RING_BYTES, LIMIT_MAX_CONNECTIONS,
    MAX_LATENCY, MIN_MAX_CONNECTIONS, MIN_RING_BYTES, SelfTest, Settings,
};
