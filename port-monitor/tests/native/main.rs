//! How the program starts and ends on this machine's kernel, seen from outside:
//! exit status, standard error, what is left behind.
//!
//! It needs root, on any backend; `cargo test -p port-monitor --test native` runs it.
//! Each monitor watches only the command it starts, which stays on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test"
)]

mod aggregated;
mod alert;
mod attached;
mod audit;
#[path = "../kernel/bpf.rs"]
#[expect(dead_code, reason = "what the kernel tests alone ask")]
mod bpf;
mod clients;
mod docs;
mod endings;
mod exe;
mod files;
mod fleet;
mod follow;
mod history;
#[path = "../support/http.rs"]
mod http;
#[cfg(feature = "top")]
mod long_view;
mod metrics;
mod monitor;
mod nft;
#[path = "../docs/pages.rs"]
#[expect(dead_code, reason = "what the tests of the pages alone ask")]
mod pages;
#[path = "../kernel/process.rs"]
#[expect(dead_code, reason = "the workloads of the kernel tests")]
mod process;
#[path = "../support/program.rs"]
mod program;
mod prometheus;
#[path = "../support/receiver.rs"]
mod receiver;
mod record;
mod refusals;
mod reload;
mod serve;
#[path = "../support/service.rs"]
mod service;
#[path = "../support/signals.rs"]
mod signals;
mod soak;
#[cfg(feature = "top")]
#[path = "../support/story.rs"]
mod story;
#[cfg(feature = "top")]
#[path = "../support/terminal.rs"]
mod terminal;
mod tls;
#[cfg(feature = "top")]
mod top;
#[cfg(feature = "top")]
mod top_ends;
#[cfg(feature = "top")]
mod top_files;
