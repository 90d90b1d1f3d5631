//! What `serve` refuses before anything is attached, what `serve --check` says, and the schema
//! of the configuration.

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
const INVALID: i32 = 5;
const OUTPUT_FAILED: i32 = 6;

/// A directory that every user may read, with this configuration.
fn with_config(text: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("c.toml"), text).unwrap();
    dir
}

/// Exit status, standard output and standard error of `serve` there.
fn serve(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let args = [&["serve", "--config", "c.toml"], args].concat();
    let output = run_unprivileged(&args, |command| {
        command.current_dir(dir);
    });
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn check_says_who_takes_the_events() {
    let dir = with_config("[watch]\nport = [22, \"https\"]\n[record]\nfile = \"/none/here\"\n");
    let ok = "c.toml: ok, consumers: record\n".to_owned();
    // Nothing is opened.
    assert_eq!(
        serve(dir.path(), &["--check"]),
        (Some(0), ok, String::new())
    );
    let dir = with_config("");
    let ok = "c.toml: ok, no consumer\n".to_owned();
    let warning = "port-monitor: c.toml: no section asks for a consumer: events are counted and \
                   kept nowhere\n";
    assert_eq!(
        serve(dir.path(), &["--check"]),
        (Some(0), ok, warning.to_owned())
    );
}

#[test]
fn a_wrong_configuration_shows_every_error_and_starts_nothing() {
    let dir = with_config("[watch]\nring-size = \"64X\"\n[recrod]\nfile = \"/r\"\n");
    let told = "port-monitor: c.toml: 2 errors, nothing was applied

c.toml:2:13: not a size: write 65536, 64K or 4M
  |
2 | ring-size = \"64X\"
  |             ^^^^^

c.toml:3:2: unknown key `recrod`
  |
3 | [recrod]
  |  ^^^^^^
  |
  = help: did you mean `record`?
";
    for args in [&["--check"][..], &[]] {
        let (code, stdout, stderr) = serve(dir.path(), args);
        assert_eq!((code, &*stdout, &*stderr), (Some(INVALID), "", told));
    }
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let missing = with_config("");
    fs::remove_file(missing.path().join("c.toml")).unwrap();
    let directory = with_config("");
    fs::remove_file(directory.path().join("c.toml")).unwrap();
    fs::create_dir(directory.path().join("c.toml")).unwrap();
    for (dir, said) in [
        (missing, "no such file (check its name)"),
        (directory, "is a directory, not a file"),
        (
            with_config(b"\x7fELF\x02\x01\0"),
            "is not text (byte 6): write it in UTF-8",
        ),
    ] {
        let told = format!("port-monitor: c.toml: {said}\n");
        let expected = (Some(INVALID), String::new(), told);
        assert_eq!(serve(dir.path(), &["--check"]), expected);
    }
}

#[test]
fn the_policy_is_checked_too() {
    let dir = with_config("");
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, "version = 1\nmod = \"observe\"\n").unwrap();
    let text = format!("[policy]\nfile = \"{}\"\n", policy.display());
    fs::write(dir.path().join("c.toml"), text).unwrap();
    let (code, _, stderr) = serve(dir.path(), &["--check"]);
    assert_eq!(code, Some(INVALID), "{stderr}");
    assert!(
        stderr.contains("policy.toml:2:1: unknown key `mod`"),
        "{stderr}"
    );
}

#[test]
fn what_cannot_be_opened_or_attached_is_one_line() {
    let dir = with_config("[record]\nfile = \"/none/here\"\n");
    let (code, _, stderr) = serve(dir.path(), &[]);
    let told = "port-monitor: c.toml: [record]: --record: output file /none/here: No such file or \
                directory (os error 2)\n";
    assert_eq!((code, &*stderr), (Some(OUTPUT_FAILED), told));
    let dir = with_config("[alert]\ncommand = \"/none/here\"\n");
    let (code, _, stderr) = serve(dir.path(), &[]);
    let told = "port-monitor: c.toml: [alert]: --alert-command: /none/here: No such file or \
                directory (os error 2)\n";
    assert_eq!((code, &*stderr), (Some(USAGE), told));
    let dir = with_config("[record]\nfile = \"/dev/null\"\n");
    let (code, _, stderr) = serve(dir.path(), &[]);
    let told = "port-monitor: needs CAP_BPF and CAP_PERFMON: run it with sudo\n";
    assert_eq!((code, &*stderr), (Some(CANNOT_ATTACH), told));
}

#[test]
fn a_wrong_flag_is_a_mistake_on_the_command_line() {
    let (code, _, stderr) = serve(Path::new("/"), &["--chek"]);
    assert_eq!(code, Some(USAGE));
    assert!(stderr.contains("'--check'"), "{stderr}");
}

#[test]
fn where_nobody_answers_the_service_is_said_not_to() {
    let dir = with_config("");
    let path = dir.path().join("socket");
    let path = path.to_str().unwrap();
    let output = run_unprivileged(&["status", "--service", "--socket", path], |_| {});
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "port-monitor: {path}: nobody answers there: is the service running, and has it a \
         [socket]?\n"
    );
    assert_eq!(
        (output.status.code(), said),
        (Some(CANNOT_ATTACH), expected)
    );
}
