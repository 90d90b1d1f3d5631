//! What `exe` means on the command line: the file, whatever its name.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "support/policy.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
};

use serde_json::json;
use support::run;
use tempfile::TempDir;

/// A program by four names, another one, and a policy that denies the first by its
/// symbolic link.
fn host() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("tool"), "x").unwrap();
    symlink("tool", at("link")).unwrap();
    fs::hard_link(at("tool"), at("other-name")).unwrap();
    fs::copy(at("tool"), at("copy")).unwrap();
    fs::create_dir(at("bin")).unwrap();
    let rule = "[[rule]]\nname = \"tool\"\ndirection = \"out\"\nport = 443\naction = \"deny\"\n";
    let policy = format!("version = 1\n{rule}exe = \"{}\"\n", at("link").display());
    fs::write(at("policy.toml"), policy).unwrap();
    dir
}

/// What is decided of an executable, and what is said besides.
fn explained(dir: &Path, exe: &str) -> (bool, String) {
    let args = [
        "explain",
        "out",
        "tcp",
        "10.0.0.1:443",
        "--json",
        "--policy",
        "policy.toml",
    ];
    let output = run(dir, &[&args[..], &["--exe", exe]].concat());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (answer["verdict"] == "violation", said)
}

#[test]
fn every_name_of_a_file_is_the_file_and_a_copy_is_none() {
    let dir = host();
    let at = |name: &str| format!("{}/{name}", dir.path().display());
    for name in ["tool", "link", "other-name", "bin/../tool", "./tool"] {
        assert_eq!(
            explained(dir.path(), &at(name)),
            (true, String::new()),
            "{name}"
        );
    }
    assert_eq!(explained(dir.path(), &at("copy")), (false, String::new()));
}

#[test]
fn path_that_names_nothing_here_is_compared_as_it_is_and_that_is_said() {
    let dir = host();
    fs::remove_file(dir.path().join("link")).unwrap();
    let link = format!("{}/link", dir.path().display());
    let (is_denied, said) = explained(dir.path(), &link);
    assert!(is_denied);
    assert!(said.contains("is not on this host"), "{said}");
    // A file that is there is not what is not.
    let tool = format!("{}/tool", dir.path().display());
    let (is_denied, said) = explained(dir.path(), &tool);
    assert!(!is_denied);
    assert!(!said.contains("is not on this host"), "{said}");
}

#[test]
fn two_policies_that_name_one_file_differently_are_alike() {
    let dir = host();
    let text = fs::read_to_string(dir.path().join("policy.toml")).unwrap();
    fs::write(
        dir.path().join("new.toml"),
        text.replace("/link", "/other-name"),
    )
    .unwrap();
    assert_eq!(
        run(dir.path(), &["diff", "policy.toml", "new.toml"])
            .status
            .code(),
        Some(0)
    );
    fs::write(dir.path().join("new.toml"), text.replace("/link", "/copy")).unwrap();
    assert_eq!(
        run(dir.path(), &["diff", "policy.toml", "new.toml"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn defaults_spare_the_kernel_itself_and_rules_do_not() {
    let dir = host();
    let default = "[default]\noutbound = { action = \"deny\" }\n";
    let rule = "[[rule]]\nname = \"no-web\"\ndirection = \"out\"\nport = 80\naction = \"deny\"\n";
    fs::write(
        dir.path().join("policy.toml"),
        format!("version = 1\n{default}{rule}"),
    )
    .unwrap();
    let decided = |port: u16, more: &[&str]| {
        let peer = format!("10.0.0.1:{port}");
        let args = ["explain", "out", "tcp", &peer, "--policy", "policy.toml"];
        let output = run(dir.path(), &[&args[..], more].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(decided(2049, &["--kernel"]).contains("which spares the kernel itself"));
    assert!(decided(2049, &[]).starts_with("verdict      violation"));
    assert!(decided(80, &["--kernel"]).contains("no-web"));
    let case = "[[case]]\nname = \"nfs\"\ndirection = \"out\"\npeer = \"10.0.0.1\"\nport = 2049\n";
    let cases = format!("{case}kernel = true\nexpect = \"allow\"\n");
    fs::write(dir.path().join("policy.test.toml"), cases).unwrap();
    let output = run(dir.path(), &["test", "--policy", "policy.toml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// A recording of one connection by `path`, which was `file` at that time.
fn recording(dir: &Path, boot: &str, path: &Path, file: &Path) {
    let file = fs::metadata(file).unwrap();
    let device = file.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let start = json!({
        "@timestamp": "2026-11-22T12:00:00Z",
        "event": {"action": "start", "dataset": "port_monitor.stream"},
        "host": {"name": "a", "boot": {"id": boot}},
        "port_monitor": {}
    });
    let connect = json!({
        "@timestamp": "2026-11-22T12:00:01Z",
        "event": {"action": "connect", "dataset": "port_monitor.connection"},
        "network": {"direction": "egress"},
        "source": {"ip": "10.0.0.2", "port": 50000},
        "destination": {"ip": "10.0.0.1", "port": 443},
        "process": {"executable": path},
        "host": {"name": "a"},
        "port_monitor": {
            "id": "000000000000002a",
            "exe": {"device": format!("{major}:{minor}"), "inode": file.ino().to_string()}
        }
    });
    fs::write(dir.join("recording.json"), format!("{start}\n{connect}\n")).unwrap();
}

#[test]
fn recording_is_judged_by_the_file_since_the_last_boot_and_else_by_the_path() {
    let dir = host();
    let at = |name: &str| dir.path().join(name);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let is_denied = || {
        let args = [
            "test",
            "--replay",
            "recording.json",
            "--json",
            "--policy",
            "policy.toml",
        ];
        let output = run(dir.path(), &args);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["denied"] == 1
    };
    // The file by a name that is not here, and another file by the denied name.
    recording(
        dir.path(),
        boot.trim(),
        Path::new("/gone/tool"),
        &at("tool"),
    );
    assert!(is_denied());
    recording(dir.path(), boot.trim(), &at("tool"), &at("copy"));
    assert!(!is_denied());
    let other_boot = "00000000-0000-4000-8000-000000000000";
    recording(dir.path(), other_boot, &at("tool"), &at("copy"));
    assert!(is_denied());
    recording(dir.path(), other_boot, Path::new("/gone/tool"), &at("tool"));
    assert!(!is_denied());
}
