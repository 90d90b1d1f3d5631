//! Child processes: cargo, elevation, and errors that name the command.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// Cargo, the one that runs this xtask, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    command
}

/// `program`, run as root: as it is for root, through sudo for anybody else.
pub(crate) fn elevated(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> Result<bool> {
    let own = fs::metadata("/proc/self").context("read /proc/self")?;
    Ok(own.uid() == 0)
}

/// Runs `command` to its end on this terminal; any status but 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status)
}

/// What `command` writes to its standard output; any status but 0 is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_start(command))?;
    check(command, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {command:?}"))
}

/// Hands each line of standard output to `on_line` as it comes.
pub(crate) fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("read the output of {command:?}"))?;
            on_line(&String::from_utf8_lossy(&line));
        }
    }
    child
        .wait()
        .with_context(|| format!("wait for {command:?}"))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn cannot_start(command: &Command) -> String {
    format!("start {}", command.get_program().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(&mut Command::new("false")).unwrap_err().to_string();
        assert!(error.contains("false"), "{error}");
        assert!(error.contains("exit status: 1"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert_eq!(error.to_string(), "start no-such-program");
    }

    #[test]
    fn lines_are_handed_over_in_order_and_the_status_is_kept() {
        let mut lines = Vec::new();
        let status = stream(
            Command::new("sh").args(["-c", "echo one; echo two; exit 3"]),
            |line| lines.push(line.to_owned()),
        );
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(lines, ["one", "two"]);
    }
}
