//! The notices of the crates that the program contains, which their licences ask to go along.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{arch::Arch, process};

/// What the names of files with a licence or a notice begin with.
const BEGINNINGS: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];

/// Each crate of the program for `arch` with its version and licence, and the notices of all
/// of them, each once. Crates of other systems are not even fetched.
pub(super) fn notices(arch: Arch) -> Result<String> {
    let used = used(arch)?;
    let mut metadata = process::cargo();
    metadata
        .args(["metadata", "--locked", "--format-version=1"])
        .args(["--filter-platform", arch.target()]);
    let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)?;
    let packages = metadata["packages"]
        .as_array()
        .context("read the packages")?;
    let mut list = String::from("The program contains these crates:\n\n");
    let mut texts = BTreeSet::new();
    for package in packages {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let id = format!("{} v{}", field("name"), field("version"));
        // Those without a source are of this workspace.
        if package["source"].is_null() || !used.contains(&id) {
            continue;
        }
        writeln!(list, "{id}: {}", field("license"))?;
        let manifest = Path::new(field("manifest_path"));
        texts.extend(texts_in(manifest.parent().context("find a crate")?)?);
    }
    let rule = "-".repeat(72);
    for text in texts {
        write!(list, "\n{rule}\n\n{}\n", text.trim_end())?;
    }
    Ok(list)
}

/// What the program is linked from, as `name vVERSION`.
fn used(arch: Arch) -> Result<BTreeSet<String>> {
    let mut tree = process::cargo();
    tree.args([
        "tree",
        "--locked",
        "--package=port-monitor",
        "--edges=normal",
    ])
    .args(["--target", arch.target(), "--prefix=none", "--format={p}"]);
    let lines = process::output(&mut tree)?;
    let id = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(lines.lines().map(id).collect())
}

/// The licences and notices in the directory of a crate.
fn texts_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let is_notice = |path: &&PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        path.is_file() && BEGINNINGS.iter().any(|word| name.starts_with(word))
    };
    let text = |path: &PathBuf| {
        fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    paths.iter().filter(is_notice).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_told_with_its_notice_and_what_only_tests_use_is_not() {
        let text = notices(Arch::HOST).unwrap();
        assert!(text.contains("\naya v"), "{text}");
        assert!(text.contains("Permission is hereby granted"));
        assert!(!text.contains("\ntempfile v") && !text.contains("\nport-monitor "));
    }
}
