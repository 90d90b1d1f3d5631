//! `cargo xtask soak`: a service with all of its consumers at once, or the live view, for hours.

use std::time::Duration;

use anyhow::Result;

use crate::{process, time};

/// A test, and the environment variable that says for how many seconds it goes on. `cargo xtask
/// test` runs both for some seconds.
type Test = (&'static str, &'static str);

const SERVICE: Test = ("soak::", "PORT_MONITOR_TEST_SOAK");
const VIEW: Test = ("long_view::", "PORT_MONITOR_TEST_SOAK_TOP");

/// Arguments of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it goes on: 90s, 10m, 2h. Memory is looked at from half an hour on
    #[arg(long, default_value = "2h", value_parser = time::parse)]
    time: Duration,
    /// The live view on a terminal, and not the service
    #[arg(long)]
    top: bool,
}

/// Runs the test, as root.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (test, seconds) = if args.top { VIEW } else { SERVICE };
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
        .args(["--test", "native", test, "--", "--nocapture"])
        .env(seconds, args.time.as_secs().to_string());
    process::run(&mut cargo)
}
