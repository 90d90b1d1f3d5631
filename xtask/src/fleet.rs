//! `cargo xtask test-fleet`: the tests that send to real servers. `ClickHouse` is Debian's, with
//! its own libraries, unpacked into the cache and never installed, because its package starts
//! a server. The engine of today is chDB's, of the Python package index.

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

/// Name, version and digest, as pip takes them.
const CHDB: &str = "port-monitor/tests/fleet/chdb.txt";
const CHDB_VERSION: &str = "26.9.0";

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
    let (clickhouse, chdb) = (clickhouse()?, chdb()?);
    // What changes the user may keep no variable.
    let mut tests = process::elevated("env")?;
    tests
        .arg(format!("PORT_MONITOR_CLICKHOUSE={}", clickhouse.display()))
        .arg(format!("PORT_MONITOR_CHDB={}", chdb.display()))
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

/// Where Python finds the engine; fetched where the cache has none.
fn chdb() -> Result<PathBuf> {
    let dir = paths::cache_dir("chdb")?.join(CHDB_VERSION);
    if !dir.exists() {
        let staging = paths::cache_dir("chdb/staging")?;
        pip::unpack(CHDB, &staging)?;
        paths::replace(&staging, &dir)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_one_that_pip_is_asked_for() {
        let text = fs::read_to_string(paths::workspace().join(CHDB)).unwrap();
        assert!(text.contains(&format!("=={CHDB_VERSION} ")), "{text}");
    }
}
