//! The command after `--`, run through the real executable.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{ffi::OsString, fs, path::Path, process::Command};

use port_monitor::commands::child::{ABANDONED, Child, StdoutTo};

fn spawn(command: &[&str]) -> Child {
    let command: Vec<OsString> = command.iter().map(Into::into).collect();
    let port_monitor = Path::new(env!("CARGO_BIN_EXE_port-monitor"));
    Child::spawn_through(port_monitor, &command, StdoutTo::Stderr).unwrap()
}

async fn status(command: &[&str]) -> i32 {
    let mut child = spawn(command);
    child.release().unwrap();
    child.wait().await.unwrap()
}

#[tokio::test]
async fn command_that_is_not_released_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ran");
    let touch = ["touch", file.to_str().unwrap()];
    assert_eq!(spawn(&touch).wait().await.unwrap(), ABANDONED);
    assert!(!file.exists());
    assert_eq!(status(&touch).await, 0);
    assert!(file.exists());
}

#[tokio::test]
async fn command_keeps_the_pid_and_gets_no_descriptor_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("exec > {}; echo $$; ls /proc/$$/fd", out.display());
    let mut child = spawn(&["sh", "-c", &script]);
    child.release().unwrap();
    assert_eq!(child.wait().await.unwrap(), 0);
    let through_us = fs::read_to_string(&out).unwrap();
    let (pid, descriptors) = through_us.split_once('\n').unwrap();
    assert_eq!(pid, child.pid().to_string());

    Command::new("sh").args(["-c", &script]).status().unwrap();
    let plain = fs::read_to_string(&out).unwrap();
    assert_eq!(descriptors, plain.split_once('\n').unwrap().1);
}

#[tokio::test]
async fn status_is_the_commands_or_128_and_the_signal() {
    assert_eq!(status(&["sh", "-c", "exit 7"]).await, 7);
    assert_eq!(status(&["sh", "-c", "kill -KILL $$"]).await, 128 + 9);
}

#[tokio::test]
async fn broken_pipe_kills_the_command_as_it_would_in_a_shell() {
    assert_eq!(status(&["sh", "-c", "kill -PIPE $$"]).await, 128 + 13);
}

#[tokio::test]
async fn arguments_that_look_like_ours_reach_the_command() {
    let command = ["sh", "-c", "test \"$*\" = '--version -- -o'", "sh"];
    let arguments = ["--version", "--", "-o"];
    assert_eq!(status(&[&command[..], &arguments].concat()).await, 0);
}

#[tokio::test]
async fn terminated_command_ends_by_that_signal() {
    let mut child = spawn(&["tail", "-f", "/dev/null"]);
    child.release().unwrap();
    child.terminate();
    assert_eq!(child.wait().await.unwrap(), 128 + 15);
    // Nothing of ours is left to signal; the pid may be anybody's.
    child.terminate();
}

#[tokio::test]
async fn script_without_its_interpreter_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    let script = script.to_str().unwrap();
    // Not written by this process: a test forking meanwhile would hold it open
    // for writing, and the kernel runs no such file.
    let write = format!("echo '#!/no/such/interpreter' > {script} && chmod +x {script}");
    let written = Command::new("sh").args(["-c", &write]).status().unwrap();
    assert!(written.success());
    assert_eq!(status(&[script]).await, 127);
}
