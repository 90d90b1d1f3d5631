//! `cargo xtask soak`: a service with all of its consumers at once, for hours.

use std::time::Duration;

use anyhow::Result;

use crate::{process, time};

/// Environment variable: for how many seconds the test goes on.
const SECONDS: &str = "PORT_MONITOR_TEST_SOAK";
/// The test. `cargo xtask test` runs it for some seconds.
const TEST: &str = "soak::";

/// Arguments of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it goes on: 90s, 10m, 2h. Memory is looked at from half an hour on
    #[arg(long, default_value = "2h", value_parser = time::parse)]
    time: Duration,
}

/// Runs the test, as root.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut cargo = process::cargo();
    cargo
        .args([
            "test",
            "--profile",
            "guest",
            "--locked",
            "-p",
            "port-monitor",
        ])
        .args(["--test", "native", TEST, "--", "--nocapture"])
        .env(SECONDS, args.time.as_secs().to_string());
    process::run(&mut cargo)
}
