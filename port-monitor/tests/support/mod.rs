//! The program as somebody without privilege runs it: whatever gets past its
//! command line ends before anything is attached.

use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Command, Output},
};

/// `nobody`, who owns nothing and may do nothing.
pub(crate) const NOBODY: u32 = 65_534;

/// Runs the program with `args`, set up further by `prepare`.
pub(crate) fn run_unprivileged(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Output {
    // By descriptor, because the other user may not reach the program's path.
    let program = File::open(env!("CARGO_BIN_EXE_port-monitor")).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.args(args);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    prepare(&mut command);
    command.output().unwrap()
}
