//! The unit of the service: systemd takes it, it is confined, and what it runs is what the
//! program knows.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    fs,
    io::ErrorKind,
    path::PathBuf,
    process::{Command, Output},
};

use clap::Parser as _;
use port_monitor::cli::Cli;
use tempfile::TempDir;

/// Tenths that the unit's exposure may have by `systemd-analyze security`.
const MOST_EXPOSURE: &str = "16";

fn text() -> String {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../packaging/port-monitor.service"
    );
    fs::read_to_string(path).unwrap()
}

/// What the unit says under a key, which it has once.
fn value(key: &str) -> String {
    let text = text();
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("{key}=")));
    let value = values.next().unwrap();
    assert_eq!(values.next(), None, "{key}");
    value.to_owned()
}

/// The unit with the program that was built, in a directory of its own.
fn unit() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port-monitor.service");
    let text = text().replace("/usr/bin/port-monitor", env!("CARGO_BIN_EXE_port-monitor"));
    fs::write(&path, text).unwrap();
    (dir, path)
}

/// What `systemd-analyze` says of the unit; `None` where there is none.
fn analyze(args: &[&str]) -> Option<Output> {
    let (_dir, path) = unit();
    let output = Command::new("systemd-analyze")
        .args(args)
        .arg(path)
        .output();
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        output => Some(output.unwrap()),
    }
}

#[test]
fn it_runs_what_the_program_knows_and_waits_for_its_end() {
    let command = value("ExecStart");
    Cli::try_parse_from(command.split(' ')).unwrap();
    assert_eq!(value("ExecReload"), "/bin/sh -c 'kill -HUP $MAINPID'");
    assert_eq!(value("Type"), "notify");
    let seconds = |key| {
        value(key)
            .strip_suffix('s')
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    // Twice the ten seconds that the end waits for consumers, and a sign of life each second
    // at least.
    assert!(seconds("TimeoutStopSec") >= 20 && seconds("WatchdogSec") >= 10);
}

#[test]
fn systemd_takes_it_without_a_word() {
    let Some(output) = analyze(&["verify", "--man=no"]) else {
        return;
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
}

#[test]
fn it_is_confined() {
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    let Some(output) = analyze(&["security", "--offline=yes", &threshold]) else {
        return;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
}
