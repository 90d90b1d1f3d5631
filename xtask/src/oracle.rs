//! Monitors of other people, which the tests hold ours against: Debian's
//! `libbpf-tools`, unpacked into the cache, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, kernels::Series, paths};

/// The oldest suite that has them: what is built for its C library runs with
/// every later one.
pub(crate) const SUITE: &str = "bookworm";
const PACKAGE: &str = "libbpf-tools";

/// Those the tests know how to read, and those the measurements run beside ours.
const TOOLS: [&str; 4] = ["tcpconnect", "tcpconnlat", "tcplife", "tcptracer"];

/// The kernel whose guest has them.
const SERIES: Series = Series::V6_12;

/// The programs the guest of `series` needs for the comparison, and their paths
/// in it; fetched where the cache has none.
pub(crate) fn programs(series: Series) -> Result<Vec<(PathBuf, String)>> {
    if series != SERIES {
        return Ok(Vec::new());
    }
    let dir = paths::cache_dir("oracle")?.join(SUITE);
    if !is_complete(&dir) {
        download(&dir)?;
    }
    let program = |name| (dir.join(name), format!("/bin/{name}"));
    Ok(TOOLS.map(program).to_vec())
}

/// Whether `dir` has them all: a cache that is older than one of them has not.
fn is_complete(dir: &Path) -> bool {
    TOOLS.iter().all(|name| dir.join(name).exists())
}

/// Fills `dir`, in one rename at the end.
fn download(dir: &Path) -> Result<()> {
    let apt = Apt::with_suites("oracle", &[SUITE])?;
    let staging = paths::cache_dir("oracle/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let ready = staging.join("ready");
    fs::create_dir_all(&ready).context("create the staging directory")?;
    let unpacked = staging.join("unpacked");
    apt.unpack(PACKAGE, &staging, &unpacked)?;
    for name in TOOLS {
        let program = unpacked.join("usr/sbin").join(name);
        fs::rename(&program, ready.join(name))
            .with_context(|| format!("find {name} in the package {PACKAGE}"))?;
    }
    paths::replace(&ready, dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")
}
