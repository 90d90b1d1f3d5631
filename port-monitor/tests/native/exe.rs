//! Which file a process executes, whatever the names: of the file, in the mount namespace
//! of the process, and of the process.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::monitor::Monitor;

/// Two copies of bash under one name, and a policy that lets only the first out.
fn host() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["trusted", "elsewhere"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::copy("/bin/bash", dir.path().join(name).join("tool")).unwrap();
    }
    let rule = |name: &str, action: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\ndirection = \"out\"\nport = 1\naction = \"{action}\"\n"
        )
    };
    let policy = format!(
        "version = 1\n{}exe = \"{}\"\n{}",
        rule("trusted", "allow"),
        dir.path().join("trusted/tool").display(),
        rule("others", "deny"),
    );
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    dir
}

/// The verdict and the executable of every attempt of a script.
fn watched(dir: &Path, script: &str) -> Vec<(String, String)> {
    let policy = dir.join("policy.toml");
    let args = ["--policy", policy.to_str().unwrap(), "--events", "connect"];
    let mut monitor = Monitor::start(&args, script);
    monitor.go();
    let mut seen = Vec::new();
    loop {
        let line: Value = serde_json::from_str(&monitor.next_line()).unwrap();
        let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str);
        match text("/event/action") {
            Some("connect") => {
                let verdict = text("/port_monitor/verdict").unwrap();
                let exe = text("/process/executable").unwrap_or("?");
                seen.push((verdict.to_owned(), exe.to_owned()));
                monitor.go();
            }
            Some("summary") => return seen,
            _ => {}
        }
    }
}

/// An attempt, after which its process stays what it is until it has been seen.
const CONNECT: &str = ": >/dev/tcp/127.0.0.1/1; read go";

#[test]
fn exec_of_another_file_of_the_same_name_is_seen_as_that() {
    let dir = host();
    let at = |name: &str| dir.path().join(name).join("tool").display().to_string();
    let (trusted, other) = (at("trusted"), at("elsewhere"));
    let script =
        format!("exec {trusted} -c '{CONNECT}; exec {other} -c \"{CONNECT}\"' 2>/dev/null");
    let seen = watched(dir.path(), &script);
    let expected = [("allow", trusted), ("violation", other)];
    assert_eq!(
        seen,
        expected.map(|(verdict, exe)| (verdict.to_owned(), exe))
    );
}

#[test]
fn program_mounted_over_an_allowed_path_does_not_pass_for_it() {
    let dir = host();
    let at = |name: &str| dir.path().join(name).join("tool").display().to_string();
    let (trusted, other) = (at("trusted"), at("elsewhere"));
    let script = format!(
        "unshare -m sh -c 'mount --bind {other} {trusted}; exec {trusted} -c \"{CONNECT}\"' \
         2>/dev/null"
    );
    let seen = watched(dir.path(), &script);
    let verdicts: Vec<_> = seen.iter().map(|(verdict, _)| verdict).collect();
    assert_eq!(verdicts, ["violation"], "{seen:?}");
}

#[test]
fn file_decides_by_any_name_and_when_its_path_is_gone() {
    let dir = host();
    let tool = dir.path().join("trusted/tool");
    fs::hard_link(&tool, dir.path().join("other-name")).unwrap();
    let name = dir.path().join("other-name").display().to_string();
    // Deleted after it was started; the other name of it stays.
    let script = format!(
        "exec {name} -c 'rm {name}; {CONNECT}; rm {}; {CONNECT}' 2>/dev/null",
        tool.display()
    );
    let seen = watched(dir.path(), &script);
    let verdicts: Vec<_> = seen.iter().map(|(verdict, _)| verdict).collect();
    assert_eq!(verdicts, ["allow", "allow"], "{seen:?}");
}
