//! `--record` beside a table: what goes wrong with one harms neither the other nor the count
//! of the kernel.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::{
    monitor::{action, attempts},
    program::port_monitor,
};

const ATTEMPTS: u64 = 20;

/// Both events of each attempt reach userspace, and the table shows one of them.
const EVENTS: u64 = 2 * ATTEMPTS;

/// A table of attempts, recorded at `path`.
fn recorded(path: &Path, args: &[&str]) -> Output {
    port_monitor(["watch", "--record"])
        .arg(path)
        .args(args)
        .args(["--", "bash", "-c", &attempts(ATTEMPTS)])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The table has all that it would have alone, and tells of a recording that has `taken`
/// so many events.
fn table_is_whole(output: &Output, taken: u64) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let rows = text.lines().filter(|line| line.ends_with("  refused"));
    assert_eq!(rows.count() as u64, ATTEMPTS, "{text}");
    let dropped = EVENTS - taken;
    for account in [
        // The kernel filters what else is open on this host.
        format!(" = shown {ATTEMPTS} + filtered "),
        " + lost 0 in ".to_owned(),
        format!(
            "# output: delivered {EVENTS} = taken {ATTEMPTS} + hidden {ATTEMPTS} + dropped 0\n"
        ),
        format!("# record: delivered {EVENTS} = taken {taken} + hidden 0 + dropped {dropped}\n"),
    ] {
        assert!(text.contains(&account), "no {account} in {text}");
    }
    text
}

#[test]
fn a_recording_has_every_event_and_is_one_to_learn_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    let output = recorded(&path, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    table_is_whole(&output, EVENTS);
    let text = fs::read_to_string(&path).unwrap();
    let actions: Vec<String> = text.lines().map(action).collect();
    let count = |name: &str| actions.iter().filter(|action| *action == name).count() as u64;
    assert_eq!((count("connect"), count("failed")), (ATTEMPTS, ATTEMPTS));
    assert_eq!(actions.first().map(String::as_str), Some("start"));
    assert_eq!(actions.last().map(String::as_str), Some("summary"));
    assert!(text.contains(&format!(
        "\"record\":{{\"delivered\":{EVENTS},\"taken\":{EVENTS},"
    )));
    for args in [
        &["policy", "learn", "run.jsonl"][..],
        &[
            "policy",
            "test",
            "--policy",
            "policy.toml",
            "--replay",
            "run.jsonl",
        ],
    ] {
        let read = port_monitor(args).current_dir(dir.path()).output().unwrap();
        assert!(read.status.success(), "{read:?}");
        // What was learned allows what it was learned from.
        fs::write(dir.path().join("policy.toml"), &read.stdout).unwrap();
    }
}

#[test]
fn violations_are_shown_and_all_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, "version = 1\n").unwrap();
    let policy = policy.to_str().unwrap();
    let output = recorded(&path, &["--policy", policy, "--violations"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let hidden = format!("# output: delivered {EVENTS} = taken 0 + hidden {EVENTS} + dropped 0\n");
    assert!(shown.contains(&hidden), "{shown}");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count() as u64, EVENTS + 2);
}

#[test]
fn a_full_disk_is_one_line_and_harms_nothing_else() {
    let output = recorded(Path::new("/dev/full"), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    let error = "write /dev/full: No space left on device (os error 28)";
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(error), "{stderr}");
    let text = table_is_whole(&output, 0);
    for line in [
        format!("# record dropped: queue full 0, failed {EVENTS}, unfinished 0\n"),
        format!("# record failed: {error}\n"),
    ] {
        assert!(text.contains(&line), "no {line} in {text}");
    }
}

#[test]
fn a_pipe_that_nobody_reads_is_not_waited_for_and_harms_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let output = recorded(&path, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    let line = format!("record: not done in time; events dropped: up to {EVENTS}\n");
    assert!(
        stderr.lines().count() == 1 && stderr.ends_with(&line),
        "{stderr}"
    );
    let text = table_is_whole(&output, 0);
    let line = format!("# record dropped: queue full 0, failed 0, unfinished {EVENTS}\n");
    assert!(text.contains(&line), "{text}");
}
