//! The output file and the time zone, as whoever starts the monitor wants them.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{monitor::attempts, program::port_monitor};

/// Runs a bash `script` that finds the output file as `$F`, and its monitor as `$PPID`.
fn run(file: &Path, args: &[&str], script: &str) -> Output {
    let output = port_monitor(["watch", "-o", "json", "--output-file"])
        .arg(file)
        .args(args)
        .args(["--", "bash", "-c", script])
        .env("F", file)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    output
}

fn actions(text: &str) -> Vec<String> {
    let action = |line: &str| {
        let line: Value = serde_json::from_str(line).expect(line);
        line["event"]["action"].as_str().unwrap().to_owned()
    };
    text.lines().map(action).collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_file_that_was_moved_away_is_opened_again_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    let again = "mv $F $F.old; kill -HUP $PPID; until [ -e $F ]; do sleep .01; done";
    run(
        &file,
        &[],
        &format!("{}; {again}; {}", attempts(3), attempts(2)),
    );
    let (old, new) = (text(&dir.path().join("events.old")), text(&file));
    let actions = [actions(&old), actions(&new)];
    assert_eq!(actions[0].first().map(String::as_str), Some("start"));
    assert_eq!(actions[1].last().map(String::as_str), Some("summary"));
    let failed = actions
        .concat()
        .iter()
        .filter(|action| *action == "failed")
        .count();
    assert_eq!(failed, 5);
}

#[test]
fn a_file_that_was_emptied_begins_with_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    let empty = "until grep -q failed $F; do sleep .01; done; : >$F";
    run(
        &file,
        &[],
        &format!("{}; {empty}; {}", attempts(3), attempts(2)),
    );
    let text = text(&file);
    assert!(!text.contains('\0'));
    assert_eq!(actions(&text).last().map(String::as_str), Some("summary"));
}

#[test]
fn nothing_is_lost_in_full_files_and_a_policy_is_learned_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    fs::write(&file, "").unwrap();
    run(
        &file,
        &["--rotate-size", "4K", "--rotate-keep", "99"],
        &attempts(20),
    );
    let mut count = 0;
    let mut packed = Vec::new();
    let old = |number| file.with_extension(format!("{number}.gz"));
    while old(count + 1).exists() {
        count += 1;
        packed.splice(0..0, fs::read(old(count)).unwrap());
    }
    assert!(count > 5, "{count} files");
    let learn = |recording: &str, input: &[u8]| {
        let mut child = port_monitor(["policy", "learn", recording])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for learned in [learn("events.1.gz", b""), learn("-", &packed)] {
        assert!(
            learned.starts_with("# Made by port-monitor of "),
            "{learned}"
        );
        assert!(!learned.contains(" of 0 connections"), "{learned}");
    }
    let unpacked = Command::new("gzip")
        .args(["-dc"])
        .args((1..=count).rev().map(old))
        .output()
        .unwrap();
    let lines = String::from_utf8(unpacked.stdout).unwrap() + &text(&file);
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    let shown = last["port_monitor"]["shown"].as_u64().unwrap();
    assert_eq!(lines.lines().count() as u64, shown + 2);
}

#[test]
fn an_ignored_sighup_stays_ignored() {
    for file in [&[][..], &["--output-file", "/dev/null"]] {
        let status = Command::new("sh")
            .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_port-monitor"))
            .args(file)
            .args([
                "--",
                "sh",
                "-c",
                "grep SigIgn /proc/$PPID/status >&2; kill -HUP $PPID; sleep .5",
            ])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&status.stderr);
        let ignored = stderr.trim().strip_prefix("SigIgn:\t").unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1);
        let stdout = String::from_utf8_lossy(&status.stdout);
        if file.is_empty() {
            assert!(
                stdout.contains("# command exited with status 0\n"),
                "{stdout}"
            );
        }
    }
}

#[test]
fn times_are_those_of_date() {
    let clock = |zone: &str| {
        let date = Command::new("date")
            .arg("+%H:%M:%S")
            .env("TZ", zone)
            .output();
        String::from_utf8(date.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    let [has_posix, has_right] = ["posix", "right"]
        .map(|kind| fs::exists(format!("/usr/share/zoneinfo/{kind}/Asia/Kathmandu")).unwrap());
    for (zone, is_known) in [
        ("Asia/Kathmandu", true),
        (":America/St_Johns", true),
        ("/usr/share/zoneinfo/Asia/Kathmandu", true),
        ("XYZ-5:45", true),
        ("<+0545>-5:45", true),
        ("EST5EDT,M3.2.0,M11.1.0", true),
        (":EST5EDT,M3.2.0,M11.1.0", true),
        // As the C library completes it.
        ("CET-1CEST", true),
        ("posix/Asia/Kathmandu", has_posix),
        ("", true),
        (":", true),
        ("Nowhere/Land", false),
        // Names have their case.
        ("asia/kathmandu", false),
        ("right/Asia/Kathmandu", has_right),
    ] {
        let before = clock(zone);
        let output = port_monitor(["--fields", "time", "--", "bash", "-c", &attempts(1)])
            .env("TZ", zone)
            .output()
            .unwrap();
        let after = clock(zone);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let time = stdout
            .lines()
            .find_map(|line| line.strip_prefix("  ").filter(|text| *text != "TIME"));
        let time = time.unwrap().to_owned();
        // But for midnight.
        assert!(
            after < before || (before..=after).contains(&time),
            "{zone}: {time}"
        );
        let stderr = String::from_utf8(output.stderr).unwrap();
        let warnings = stderr
            .lines()
            .filter(|line| line.contains("no such time zone"))
            .count();
        assert_eq!(warnings, usize::from(!is_known), "{zone}: {stderr}");
    }
}
