//! What the committed eBPF object was built from, as one number: shared by the
//! build script, which refuses a stale object, and by `cargo xtask build-ebpf`,
//! which writes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// Directories and files the object is made of, relative to the workspace.
pub(crate) const INPUTS: [&str; 5] = [
    "Cargo.lock",
    "port-monitor-common/Cargo.toml",
    "port-monitor-common/src",
    "port-monitor-ebpf/Cargo.toml",
    "port-monitor-ebpf/src",
];

/// The SHA-256 of every input's path and content, in hex.
pub(crate) fn of_inputs(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(workspace, Path::new(input), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in &files {
        let content = fs::read(workspace.join(file))?;
        hasher.update(file.to_string_lossy().as_bytes());
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(&content);
    }
    Ok(hex(&hasher.finalize()))
}

/// The SHA-256 of some bytes, in hex.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The value of `key` in a manifest: lines of `key = value`.
pub(crate) fn manifest_value<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
    manifest
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .find_map(|(name, value)| (name == key).then_some(value))
}

fn collect(workspace: &Path, input: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if workspace.join(input).is_dir() {
        for entry in fs::read_dir(workspace.join(input))? {
            collect(workspace, &input.join(entry?.file_name()), files)?;
        }
    } else {
        files.push(input.to_path_buf());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let digits = |&byte: &u8| [digit(byte >> 4), digit(byte & 0xf)];
    bytes.iter().flat_map(digits).collect()
}
