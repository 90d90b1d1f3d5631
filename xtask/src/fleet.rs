//! `cargo xtask test-fleet`: the tests that send to real servers. `ClickHouse` is Debian's, with
//! its own libraries, unpacked into the cache and never installed, because its package starts
//! a server. The engine of today is chDB's, of the Python package index, and so are the collector and the server of NATS.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    apt::Apt, artifacts, oracle::SUITE, paths, pip, process, report::Tally, rust_tests, tools,
};

const PACKAGE: &str = "clickhouse-server";

/// Starts the server by the loader and the libraries of its own release.
const START: &str = r#"#!/bin/sh
root=${0%/*}/root
name=x86_64-linux-gnu
exec "$root/lib/$name/ld-linux-x86-64.so.2" --library-path "$root/lib/$name:$root/usr/lib/$name" \
    "$root/usr/sbin/clickhouse-server" "$@"
"#;

/// What is of the Python package index.
struct Wheel {
    name: &'static str,
    version: &'static str,
    /// Name, version and digests, as pip takes them.
    requirements: &'static str,
}

/// The engine of today, as Python imports it.
const CHDB: Wheel = Wheel {
    name: "chdb",
    version: "26.9.0",
    requirements: "port-monitor/tests/fleet/chdb.txt",
};
/// A collector of OpenTelemetry; of its digests, each is for one version of Python.
const ROTEL: Wheel = Wheel {
    name: "rotel",
    version: "0.0.1a15",
    requirements: "port-monitor/tests/fleet/rotel.txt",
};

/// A server of NATS with `JetStream`.
const NATS: Wheel = Wheel {
    name: "nats",
    version: "2.15.1",
    requirements: "port-monitor/tests/fleet/nats.txt",
};

/// Arguments of `cargo xtask test-fleet`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose names contain one of these
    filters: Vec<String>,
    /// How many hosts send to the cluster, in a test that tells how long that takes
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(50..)
    )]
    hosts: u64,
}

/// Fetches the servers, and runs the tests one after the other: each has several servers.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    tools::ensure(&tools::FLEET_PACKAGES)?;
    let (clickhouse, chdb) = (clickhouse()?, CHDB.unpacked()?);
    let collector = ROTEL.unpacked()?.join("rotel/rotel-agent");
    let nats = NATS.unpacked()?.join("bin/nats-server");
    // What changes the user may keep no variable.
    let mut tests = process::elevated("env")?;
    tests
        .arg(format!("PORT_MONITOR_CLICKHOUSE={}", clickhouse.display()))
        .arg(format!("PORT_MONITOR_CHDB={}", chdb.display()))
        .arg(format!("PORT_MONITOR_COLLECTOR={}", collector.display()))
        .arg(format!("PORT_MONITOR_NATS={}", nats.display()))
        .arg(format!("PORT_MONITOR_HOSTS={}", args.hosts))
        .arg(artifacts::build_fleet_tests()?)
        .args(["--test-threads=1", "--nocapture"])
        .args(&args.filters)
        .current_dir(paths::workspace().join("port-monitor"));
    let tally = rust_tests::run(&mut tests, |_| ())?;
    println!("{tally}");
    Ok(tally)
}

/// The program of the server; fetched where the cache has none.
fn clickhouse() -> Result<PathBuf> {
    let dir = paths::cache_dir("clickhouse")?.join(SUITE);
    let program = dir.join(PACKAGE);
    if program.exists() {
        return Ok(program);
    }
    let apt = Apt::with_suites("clickhouse", &[SUITE])?;
    let staging = paths::cache_dir("clickhouse/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let ready = staging.join("ready");
    fs::create_dir_all(&ready).context("create the staging directory")?;
    apt.unpack_whole(PACKAGE, &staging, &ready.join("root"))?;
    let start = ready.join(PACKAGE);
    fs::write(&start, START).context("write how the server is started")?;
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755))?;
    paths::replace(&ready, &dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")?;
    Ok(program)
}

impl Wheel {
    /// Where it is; fetched where the cache has none.
    fn unpacked(&self) -> Result<PathBuf> {
        let dir = paths::cache_dir(self.name)?.join(self.version);
        if !dir.exists() {
            let staging = paths::cache_dir(&format!("{}/staging", self.name))?;
            pip::unpack(self.requirements, &staging)?;
            paths::replace(&staging, &dir)?;
        }
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_one_that_pip_is_asked_for() {
        for wheel in [CHDB, ROTEL, NATS] {
            let text = fs::read_to_string(paths::workspace().join(wheel.requirements)).unwrap();
            assert!(text.contains(&format!("=={} ", wheel.version)), "{text}");
        }
    }
}
