//! What `--history` refuses before anything is attached: the exit status, and all that is
//! printed.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use support::run_unprivileged;
use tempfile::TempDir;

const USAGE: i32 = 2;
const CANNOT_ATTACH: i32 = 3;
const OUTPUT_FAILED: i32 = 6;
const LOCKED: i32 = 7;

/// A directory that every user may write to.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// A file there that every user may write to.
fn file(dir: &TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
}

fn refusal_in(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let args = [&["watch"], args].concat();
    let output = run_unprivileged(&args, |command| {
        command.current_dir(dir);
    });
    assert_eq!(output.stdout, b"", "{args:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

fn assert_refused_in(dir: &Path, args: &[&str], code: i32, message: &str) {
    let line = format!("port-monitor: {message}\n");
    assert_eq!(refusal_in(dir, args), (Some(code), line), "{args:?}");
}

#[test]
fn what_cannot_be_a_history_is_one_line_and_left_alone() {
    let dir = directory();
    let notes = "these are notes, and no history at all\n";
    file(&dir, "notes", notes);
    let no_history = "not a history of port-monitor: name another file";
    for (path, code, said) in [
        ("notes", USAGE, format!("notes: {no_history}")),
        ("/dev/full", USAGE, format!("/dev/full: {no_history}")),
        (
            "no/history.db",
            OUTPUT_FAILED,
            "open no/history.db: No such file or directory (os error 2)".to_owned(),
        ),
        (
            ".",
            OUTPUT_FAILED,
            "open .: Is a directory (os error 21)".to_owned(),
        ),
    ] {
        let message = format!("--history: {said}");
        assert_refused_in(dir.path(), &["--history", path], code, &message);
    }
    assert_eq!(fs::read_to_string(dir.path().join("notes")).unwrap(), notes);
}

#[test]
fn the_history_is_no_file_that_is_written_already() {
    let dir = directory();
    file(&dir, "out", "");
    for flag in ["--output-file", "--record"] {
        let message = "--history: ./out is written already: name another file";
        let args = [flag, "out", "--history", "./out"];
        assert_refused_in(dir.path(), &args, USAGE, message);
    }
    let (code, said) = refusal_in(dir.path(), &["--history", "-"]);
    assert_eq!(code, Some(USAGE));
    assert!(
        said.contains("not a file: a history is a database"),
        "{said}"
    );
}

#[test]
fn limits_of_the_history_are_lengths_of_time_and_sizes() {
    for (args, said) in [
        (["--history-keep", "30"], "`30` has no unit"),
        (["--history-max-size", "1000"], "too small"),
        (["--history-max-size", "900K"], "write 1M or more"),
        (["--history-max-size", "lots"], "not a size"),
    ] {
        let args = [&["--history", "history.db"], &args[..]].concat();
        let dir = directory();
        let (code, stderr) = refusal_in(dir.path(), &args);
        assert_eq!(code, Some(USAGE), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert!(!dir.path().join("history.db").exists());
    }
    let (code, stderr) = refusal_in(Path::new("/"), &["--history-keep", "30d"]);
    assert_eq!(code, Some(USAGE), "{stderr}");
    assert!(stderr.contains("--history <FILE>"), "{stderr}");
}

#[test]
fn one_port_monitor_writes_to_a_history() {
    let dir = directory();
    file(&dir, "history.db", "");
    let held = fs::File::open(dir.path().join("history.db")).unwrap();
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&held, lock).unwrap();
    let args = ["--history", "history.db"];
    let message = "--history: history.db: another port-monitor writes to it: name another file";
    assert_refused_in(dir.path(), &args, LOCKED, message);
    drop(held);
    let (code, stderr) = refusal_in(dir.path(), &args);
    assert_eq!(code, Some(CANNOT_ATTACH), "{stderr}");
}
