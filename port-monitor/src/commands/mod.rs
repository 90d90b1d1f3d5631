//! One module per subcommand: its arguments and its `run`.

pub mod audit;
pub mod child;
pub mod completions;
pub mod doctor;
pub mod enforce;
pub mod exec;
pub mod export;
pub mod filter;
pub mod history;
mod load;
pub mod man;
pub mod policy;
mod recording;
pub mod schema;
pub mod serve;
pub mod service;
pub mod status;
mod systemd;
mod told;
#[cfg(feature = "top")]
pub mod top;
pub mod watch;
