//! `cargo xtask fuzz`: has libFuzzer run the fuzz targets of port-monitor.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{paths, process, report::Tally, time};

/// The program that libFuzzer is linked into, below the workspace.
const PACKAGE: &str = "port-monitor/fuzz";

/// Environment variable: the target of a run.
const TARGET: &str = "PORT_MONITOR_FUZZ_TARGET";

/// What makes the compiler count the branches that an input takes, as libFuzzer reads it.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What a run may take: longer inputs, slower ones and those that fill memory are failures.
const LIMITS: [&str; 3] = ["-max_len=65536", "-timeout=10", "-rss_limit_mb=2048"];

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs: 60s, 10m
    #[arg(long, default_value = "60s", value_parser = time::parse)]
    time: Duration,
    /// Targets to run [default: all]
    targets: Vec<String>,
}

/// Runs the targets one after another.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    let corpora = paths::workspace().join(PACKAGE).join("corpus");
    let all = names(&corpora)?;
    for target in &args.targets {
        ensure!(
            all.contains(target),
            "no target `{target}`: there are {}",
            all.join(", ")
        );
    }
    let chosen = match &args.targets[..] {
        [] => &all,
        chosen => chosen,
    };
    let program = build()?;
    let mut tally = Tally::default();
    for name in chosen {
        println!("\n== {name}");
        let outcome = fuzz(&program, name, &corpora.join(name), args.time);
        if let Err(error) = &outcome {
            println!("{name}: {error:#}");
        }
        tally += Tally::one(outcome.is_ok());
    }
    println!("\n{tally}");
    Ok(tally)
}

/// Each target has a corpus of its name.
fn names(corpora: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpora).with_context(|| format!("read {}", corpora.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Builds the program, in versions of what it uses that are the workspace's.
fn build() -> Result<PathBuf> {
    let package = paths::workspace().join(PACKAGE);
    let lock = paths::workspace().join("Cargo.lock");
    fs::copy(lock, package.join("Cargo.lock")).context("copy Cargo.lock")?;
    let directory = paths::workspace().join("target/fuzz");
    // With a target, build scripts and macros are compiled without the flags.
    let target = format!("{ARCH}-unknown-linux-gnu");
    let mut cargo = process::cargo();
    cargo
        .current_dir(&package)
        .env("RUSTFLAGS", COVERAGE)
        .args(["build", "--release", "--target", &target, "--target-dir"])
        .arg(&directory);
    process::run(&mut cargo)?;
    Ok(directory.join(target).join("release/port-monitor-fuzz"))
}

/// Runs a target. What it finds worth keeping goes to `target/fuzz/corpus`, and an input that
/// it fails with to `target/fuzz/found`.
fn fuzz(program: &Path, name: &str, corpus: &Path, time: Duration) -> Result<()> {
    let directory = paths::workspace().join("target/fuzz");
    let own = directory.join("corpus").join(name);
    let found = directory.join("found");
    for directory in [&own, &found] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let mut command = Command::new("nice");
    command
        .args(["-n", "19"])
        .arg(program)
        .env(TARGET, name)
        .args(LIMITS)
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-artifact_prefix={}/{name}-", found.display()))
        .args([&own, corpus]);
    process::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_a_corpus_is_named() {
        let corpora = paths::workspace().join(PACKAGE).join("corpus");
        assert!(names(&corpora).unwrap().contains(&"policy".to_owned()));
    }
}
