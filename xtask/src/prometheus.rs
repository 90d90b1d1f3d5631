//! The Prometheus that the tests let scrape: Debian's, unpacked into the cache, never
//! installed, because its package starts a server.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, oracle::SUITE, paths};

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Where the tests are told the directory of the programs.
pub(crate) const VARIABLE: &str = "PORT_MONITOR_PROMETHEUS";

/// The directory of the programs; fetched where the cache has none.
pub(crate) fn programs() -> Result<PathBuf> {
    let dir = paths::cache_dir(PACKAGE)?.join(SUITE);
    if PROGRAMS.iter().all(|name| dir.join(name).exists()) {
        return Ok(dir);
    }
    let apt = Apt::with_suites(PACKAGE, &[SUITE])?;
    let staging = paths::cache_dir("prometheus/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let ready = staging.join("ready");
    fs::create_dir_all(&ready).context("create the staging directory")?;
    let unpacked = staging.join("unpacked");
    apt.unpack(PACKAGE, &staging, &unpacked)?;
    for name in PROGRAMS {
        let program = unpacked.join("usr/bin").join(name);
        fs::rename(&program, ready.join(name))
            .with_context(|| format!("find {name} in the package {PACKAGE}"))?;
    }
    paths::replace(&ready, &dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")?;
    Ok(dir)
}
