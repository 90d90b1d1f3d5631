//! `port-monitor policy` in a directory of its own: files in it, what it answers.

#![allow(
    dead_code,
    reason = "each of the tests that share this uses a part of it"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A directory with these files.
pub(crate) fn with_files(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// A directory with a policy, `policy.toml`.
pub(crate) fn with_policy(text: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), text).unwrap();
    dir
}

/// `port-monitor policy` with these arguments, run there.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_port-monitor"))
        .current_dir(dir)
        .arg("policy")
        .args(args)
        .output()
        .unwrap()
}

/// Runs a command of `policy` in this directory, on its `policy.toml`.
pub(crate) fn run_on_policy(dir: &Path, args: &[&str]) -> Output {
    run(dir, &[args, &["--policy", "policy.toml"]].concat())
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
