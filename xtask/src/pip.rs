//! Programs of the Python package index, each by its version and its digest.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{paths, process};

/// Unpacks what the file `requirements` of the workspace names into `dir`, and nothing else
/// is there.
pub(crate) fn unpack(requirements: &str, dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
    ])
    .args(["--disable-pip-version-check", "--root-user-action=ignore"])
    .args(["--only-binary=:all:", "--target"])
    .arg(dir)
    .arg("--requirement")
    .arg(paths::workspace().join(requirements));
    process::run(&mut pip)
}
