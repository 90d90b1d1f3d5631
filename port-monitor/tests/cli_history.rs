//! What `--history` and `history` refuse: the exit status, and all that is printed.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use port_monitor::{
    consume::{
        consumer::{Consumer as _, Kinds},
        history::{History, Keep},
    },
    events::record::{Header, Item},
};
use rusqlite::Connection;
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

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A file there that every user may write to.
fn file(dir: &TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
}

fn refusal_in(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    refusal_of(dir, &[&["watch"], args].concat())
}

fn refusal_of(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = run_unprivileged(args, |command| {
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

/// A history there in which a run has begun, that every user may read.
fn history(dir: &TempDir, name: &str) {
    let path = dir.path().join(name);
    let keep = Keep {
        age: Duration::from_hours(24),
        bytes: 1 << 30,
    };
    let mut history = History::open(&path, Kinds::ALL, keep).unwrap();
    history.take(Item::Header(&Header {
        wall_ns: 1_795_348_801_000_000_000,
        boot_ns: 0,
        version: "0",
        host: "web1".to_owned(),
        kernel: "6.1".to_owned(),
        boot_id: String::new(),
        backend: "fentry",
        blind_spots: Vec::new(),
        unproven: Vec::new(),
        waiting: Vec::new(),
        policy: None,
        policy_loaded: None,
    }));
    drop(history);
    assert_eq!(mode(&path), 0o640);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
}

fn change(dir: &TempDir, name: &str, sql: &str) {
    let db = Connection::open(dir.path().join(name)).unwrap();
    db.execute_batch(sql).unwrap();
}

#[test]
fn what_cannot_be_read_as_a_history_is_one_line_that_says_what_to_do() {
    let dir = directory();
    file(&dir, "notes", "these are notes, and no history at all\n");
    file(&dir, "empty", "");
    for name in ["secret", "newer", "locked"] {
        history(&dir, name);
    }
    let secret = dir.path().join("secret");
    fs::set_permissions(secret, Permissions::from_mode(0o600)).unwrap();
    change(&dir, "newer", "PRAGMA user_version = 99");
    change(
        &dir,
        "other",
        "CREATE TABLE t (a); INSERT INTO t VALUES (1)",
    );
    let holder = Connection::open(dir.path().join("locked")).unwrap();
    let hold = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE runs SET state = 0";
    holder.execute_batch(hold).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    for (path, code, said) in [
        (
            "no",
            USAGE,
            "no: no such file: `port-monitor --history FILE` writes a history, as does the \
             service with [history]; name it by --file",
        ),
        ("notes", USAGE, "notes: not a history of port-monitor"),
        (".", USAGE, ".: not a history of port-monitor"),
        ("other", USAGE, "other: not a history of port-monitor"),
        (
            "empty",
            USAGE,
            "empty: empty: nothing has been written to it yet",
        ),
        (
            "secret",
            USAGE,
            "secret: permission denied: a history is its owner's, so read it as that user or as \
             root",
        ),
        (
            "newer",
            USAGE,
            "newer: a history of version 99, and this program knows those up to 4: use the \
             version that wrote it, or a later one",
        ),
        (
            "locked",
            LOCKED,
            "locked: somebody else has locked it: try again",
        ),
    ] {
        // The owner may read it.
        if path == "secret" && !is_root {
            continue;
        }
        let refusal = refusal_of(dir.path(), &["history", "--file", path]);
        assert_eq!(refusal, (Some(code), format!("port-monitor: {said}\n")));
    }
}

#[test]
fn a_history_where_nothing_may_be_written_beside_it_is_to_be_copied() {
    let dir = directory();
    history(&dir, "history.db");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
    if !rustix::process::geteuid().is_root() {
        // The owner may write there all the same.
        return;
    }
    let (code, said) = refusal_of(dir.path(), &["history", "--file", "history.db"]);
    assert_eq!(code, Some(USAGE), "{said}");
    let begin = "port-monitor: history.db: cannot be read where nothing may be written beside it";
    assert!(said.starts_with(begin), "{said}");
    let end = "copy it by `sqlite3 FILE \".backup COPY\"` where it is written, or FILE and FILE-wal \
               to a directory of your own\n";
    assert!(said.ends_with(end), "{said}");
}

#[test]
fn reading_changes_nothing_and_holds_no_writer_up() {
    let dir = directory();
    history(&dir, "history.db");
    let path = dir.path().join("history.db");
    // The reader could change it, and does not.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("BEGIN IMMEDIATE; UPDATE runs SET host = 'web2'")
        .unwrap();
    let before = fs::read(&path).unwrap();
    let output = run_unprivileged(&["history", "--file", path.to_str().unwrap()], |_| {});
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("# 0 connections"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), before);
    writer.execute_batch("COMMIT").unwrap();
}

#[test]
fn the_group_of_a_history_reads_it_while_it_is_written() {
    let dir = directory();
    history(&dir, "history.db");
    let path = dir.path().join("history.db");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    if !rustix::process::geteuid().is_root() {
        // No other user can be tried.
        return;
    }
    let group = Some(support::NOBODY);
    chown(&path, None, group).unwrap();
    chown(dir.path(), None, group).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o750)).unwrap();
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("UPDATE runs SET host = 'web2'")
        .unwrap();
    assert_eq!(mode(&dir.path().join("history.db-shm")), 0o640);
    let output = run_unprivileged(&["history", "--file", path.to_str().unwrap()], |_| {});
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("# 0 connections"), "{said}");
}
