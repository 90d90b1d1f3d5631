//! Exports to real servers: three shards of `ClickHouse`, some of which are killed, the engine
//! of today, a collector of OpenTelemetry, and a cluster of NATS.
//!
//! It needs root, and servers that `cargo xtask test-fleet` fetches. The service watches only
//! a shell of the test, which stays on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test"
)]

mod cluster;
mod collector;
mod hosts;
#[path = "../support/http.rs"]
mod http;
mod killed;
mod nats;
#[path = "../docs/pages.rs"]
#[expect(dead_code, reason = "what the tests of the pages alone ask")]
mod pages;
#[path = "../support/program.rs"]
mod program;
mod questions;
#[path = "../support/receiver.rs"]
#[expect(dead_code, reason = "what the soak alone asks")]
mod receiver;
mod series;
#[path = "../support/service.rs"]
#[expect(dead_code, reason = "what the tests of the service alone ask")]
mod service;
#[path = "../support/signals.rs"]
mod signals;
mod today;
