//! Builds the programs the kernel tests run, and finds them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{arch::Arch, cross, process};

/// The profile of what runs in guests. The checks use it too: in another, what runs
/// within the compiler would be built once more.
pub(crate) const PROFILE: &str = "--profile=guest";
/// The profile of what is shipped.
pub(crate) const RELEASE: &str = "--profile=release";

/// What the kernel tests run.
#[derive(Debug)]
pub(crate) struct Artifacts {
    /// The tool itself.
    pub(crate) program: PathBuf,
    /// The runner of the kernel tests.
    pub(crate) kernel_tests: PathBuf,
    /// The tests of the tool that attach it on this host.
    pub(crate) native_tests: PathBuf,
}

/// Builds port-monitor in this profile and says where it is.
pub(crate) fn build_program(profile: &str) -> Result<PathBuf> {
    build_program_for(Arch::HOST, profile)
}

/// Builds port-monitor in this profile, for hosts of `arch`, and says where it is.
pub(crate) fn build_program_for(arch: Arch, profile: &str) -> Result<PathBuf> {
    let messages = build_for(arch, &[profile, "--bin=port-monitor"])?;
    executable(&messages, "port-monitor")
}

/// Builds port-monitor without shared libraries, for hosts of `arch`, and says where it is. Only
/// the program itself is built and linked otherwise: what it is made of, it shares with the one
/// that has them.
pub(crate) fn build_static_program(arch: Arch, profile: &str) -> Result<PathBuf> {
    let target = cross::target_dir(arch);
    let mut cargo = cross::cargo(arch)?;
    cargo
        // The program has a place of its own.
        .env("CARGO_BUILD_BUILD_DIR", &target)
        .env("CARGO_TARGET_DIR", target.join("static"))
        .args([
            "rustc",
            "--locked",
            "--package=port-monitor",
            "--bin=port-monitor",
        ])
        .args([profile, "--message-format=json-render-diagnostics"])
        .args(["--", "--codegen=target-feature=+crt-static"]);
    executable(&process::output(&mut cargo)?, "port-monitor")
}

/// Builds the runner of the kernel tests in the guests' profile and says where it is.
pub(crate) fn build_kernel_tests() -> Result<PathBuf> {
    let messages = build(&[PROFILE, "--test=kernel"])?;
    executable(&messages, "kernel")
}

/// Builds port-monitor and the tests of its fleet in the guests' profile, and says where the
/// tests are.
pub(crate) fn build_fleet_tests() -> Result<PathBuf> {
    let messages = build(&[PROFILE, "--bin=port-monitor", "--test=fleet"])?;
    executable(&messages, "fleet")
}

/// Builds port-monitor and the tests that attach it, in the guests' profile.
pub(crate) fn build_all() -> Result<Artifacts> {
    let messages = build(&[
        PROFILE,
        "--bin=port-monitor",
        "--test=kernel",
        "--test=native",
    ])?;
    Ok(Artifacts {
        program: executable(&messages, "port-monitor")?,
        kernel_tests: executable(&messages, "kernel")?,
        native_tests: executable(&messages, "native")?,
    })
}

fn build(targets: &[&str]) -> Result<String> {
    build_for(Arch::HOST, targets)
}

fn build_for(arch: Arch, targets: &[&str]) -> Result<String> {
    let mut cargo = cross::cargo(arch)?;
    cargo
        .args(["build", "--locked", "--package=port-monitor"])
        .arg("--message-format=json-render-diagnostics")
        .args(targets);
    process::output(&mut cargo)
}

/// Where cargo says it put the program of this target.
fn executable(messages: &str, target: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| {
            let is_wanted = message.pointer("/target/name")? == target;
            let path = message.get("executable")?.as_str()?;
            is_wanted.then(|| path.into())
        })
        .with_context(|| format!("find the program {target} in what cargo built"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_program_of_a_target_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"kernel"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}
{"reason":"compiler-artifact","target":{"name":"kernel"},"executable":"/t/kernel-1f"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "kernel").unwrap(),
            Path::new("/t/kernel-1f")
        );
        assert!(executable(messages, "gone").is_err());
    }
}
