//! The program as root runs it, and patience with what it does.

use std::{
    ffi::OsStr,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::process::geteuid;

use crate::signals;

/// A program that takes longer than this to say something has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);
/// How long between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Its file.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_port-monitor");

/// `port-monitor`, which the tests need root for.
pub(crate) fn port_monitor(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
    assert!(geteuid().is_root(), "run this test as root");
    signals::default_in_programs();
    let mut command = Command::new(PROGRAM);
    command.args(args);
    command
}

/// A process that does not outlive a test that fails.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // After its end there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until there is something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(PAUSE);
    }
}
