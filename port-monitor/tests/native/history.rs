//! `--history` beside what is shown: one row for each connection, whatever becomes of the
//! monitor.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;

use crate::{
    monitor::{Monitor, attempts},
    program::port_monitor,
};

const ATTEMPTS: u64 = 20;
/// A row that takes longer than this is none.
const PATIENCE: Duration = Duration::from_mins(5);

/// A table of what `script` does, with its history at `path`.
fn watched(path: &Path, args: &[&str], script: &str) -> Output {
    port_monitor(["watch", "--history"])
        .arg(path)
        .args(args)
        .args(["--", "bash", "-c", script])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The first column of every row.
fn ask(path: &Path, sql: &str) -> Vec<String> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// A script that opens a connection to this test, and what listens there.
fn connecting(then: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (
        listener,
        format!("exec 3<>/dev/tcp/127.0.0.1/{port}; {then}"),
    )
}

#[test]
fn every_attempt_is_a_row_and_the_account_has_both_of_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    // What is shown asks for less, which is for the table alone.
    let output = watched(&path, &["--events", "close"], &attempts(ATTEMPTS));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    let text = String::from_utf8(output.stdout).unwrap();
    let events = 2 * ATTEMPTS;
    for account in [
        format!("# output: delivered {events} = taken 0 + hidden {events} + dropped 0\n"),
        format!("# history: delivered {events} = taken {events} + hidden 0 + dropped 0\n"),
    ] {
        assert!(text.contains(&account), "no {account} in {text}");
    }
    let rows = ask(
        &path,
        "SELECT process || ' ' || exe || ' ' || direction || ' ' || remote || ' ' || port || ' '
        || service || ' ' || state || ' ' || errno FROM connections",
    );
    let bash = fs::canonicalize("/bin/bash").unwrap();
    let row = format!("bash {} out 127.0.0.1 1 tcpmux failed 111", bash.display());
    assert_eq!(rows, vec![row; usize::try_from(ATTEMPTS).unwrap()]);
    assert_eq!(ask(&path, "SELECT 'run ' || state FROM runs"), ["run 1"]);
}

#[test]
fn what_a_connection_carried_is_in_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    // The peer closes first, so that all is over when the command closes its end.
    let (listener, script) = connecting("printf 12345 >&3; cat <&3; exec 3>&-");
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"answer\n").unwrap();
    });
    let output = watched(&path, &[], &script);
    assert!(output.status.success(), "{output:?}");
    peer.join().unwrap();
    let row = "SELECT state || ' ' || bytes_sent || ' ' || bytes_received || ' '
        || (duration > 0 AND handshake_us > 0) FROM connections";
    assert_eq!(ask(&path, row), ["closed 5 7 1"]);
}

#[test]
fn what_is_open_is_there_and_is_cut_off_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let (_listener, script) = connecting("read end");
    let mut monitor = Monitor::start(&["--history", path.to_str().unwrap()], &script);
    monitor.go();
    let deadline = Instant::now() + PATIENCE;
    while ask(&path, "SELECT state FROM connections") != ["open"] {
        assert!(Instant::now() < deadline, "no open connection");
        thread::sleep(Duration::from_millis(20));
    }
    monitor.signal(Signal::KILL);
    let run = monitor.finish();
    assert!(!run.status.success());
    assert_eq!(ask(&path, "SELECT state FROM connections"), ["open"]);

    let output = watched(&path, &[], ":");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(ask(&path, "SELECT state FROM connections"), ["cut off"]);
    assert_eq!(ask(&path, "SELECT cause FROM gaps"), ["cut off"]);
    assert_eq!(
        ask(&path, "SELECT 'run ' || state FROM runs"),
        ["run 2", "run 1"]
    );
}

#[test]
fn what_was_watched_is_looked_back_at_also_where_nothing_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    let output = watched(&path, &[], &attempts(ATTEMPTS));
    assert!(output.status.success(), "{output:?}");
    let look = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let args = ["history", "--failed", "--since", "1h", "--file"];
    let told = look(port_monitor(args).arg(&path));
    let rows = told.lines().filter(|line| line.ends_with(" refused"));
    assert_eq!(rows.count(), usize::try_from(ATTEMPTS).unwrap(), "{told}");
    assert!(
        told.contains("# 20 connections, 20 failed, 0 violations\n"),
        "{told}"
    );

    let program = env!("CARGO_BIN_EXE_port-monitor");
    let script = format!(
        "mount --bind {0} {0} && mount -o remount,ro,bind {0} && {program} history --failed \
         --since 1h --file {0}/history.db",
        dir.path().display()
    );
    let unshare = ["-m", "sh", "-c", &script];
    assert_eq!(look(Command::new("unshare").args(unshare)), told);
}
