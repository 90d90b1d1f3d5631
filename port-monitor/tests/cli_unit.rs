//! The unit of the service, as it is and with the drop-in for one that enforces: systemd takes
//! it, it is confined, and what it runs is what the program knows.

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
/// Tenths with the drop-in for a service that enforces.
const MOST_EXPOSURE_ENFORCING: &str = "24";

fn packaged(name: &str) -> String {
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging");
    fs::read_to_string(format!("{packaging}/{name}")).unwrap()
}

fn text() -> String {
    packaged("port-monitor.service")
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

/// The unit with the program that was built and the drop-in for a service that enforces.
fn enforcing() -> (TempDir, PathBuf) {
    let (dir, path) = unit();
    let drop_ins = dir.path().join("port-monitor.service.d");
    fs::create_dir(&drop_ins).unwrap();
    let text = packaged("port-monitor-enforce.conf");
    fs::write(drop_ins.join("enforce.conf"), text).unwrap();
    (dir, path)
}

/// What `systemd-analyze` says of a unit; `None` where there is none.
fn analyze(args: &[&str], (_dir, path): (TempDir, PathBuf)) -> Option<Output> {
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
    for unit in [unit(), enforcing()] {
        let Some(output) = analyze(&["verify", "--man=no"], unit) else {
            return;
        };
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*said), (Some(0), ""));
    }
}

#[test]
fn it_is_confined() {
    for (unit, most) in [
        (unit(), MOST_EXPOSURE),
        (enforcing(), MOST_EXPOSURE_ENFORCING),
    ] {
        let threshold = format!("--threshold={most}");
        let Some(output) = analyze(&["security", "--offline=yes", &threshold], unit) else {
            return;
        };
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
}

/// Whoever has it enforce has it root, with the capabilities of the unit that does nothing else.
#[test]
fn the_drop_in_has_the_capabilities_of_the_unit_that_enforces() {
    let of = |text: String| {
        let lines = text.lines().map(str::to_owned);
        let lines = lines.filter(|line| line.starts_with("CapabilityBoundingSet=CAP_"));
        lines.collect::<Vec<_>>()
    };
    let (drop_in, apply) = (
        of(packaged("port-monitor-enforce.conf")),
        of(packaged("port-monitor-apply.service")),
    );
    assert_eq!((drop_in.len(), &drop_in), (1, &apply));
}
