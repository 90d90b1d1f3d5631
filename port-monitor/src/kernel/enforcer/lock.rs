//! Who may change what is pinned: one at a time.

use std::{
    fs::{self, File},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::EnforcerError;

/// How long somebody else may take: one that follows a policy looks every second.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Held until dropped; the kernel lets go of a dead process's.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held open")] File);

impl Lock {
    /// Waits for that of the instance in this directory, but not for long.
    pub(super) fn take(instance: &Path) -> Result<Self, EnforcerError> {
        let dir = instance.parent().unwrap_or(instance);
        let in_dir = |error| EnforcerError::File {
            path: dir.to_owned(),
            error,
        };
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(in_dir(error));
            }
            _ => {}
        }
        let lock = File::open(dir).map_err(in_dir)?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(lock)),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(LOCK_WAIT / 100);
                }
                Err(Errno::WOULDBLOCK) => return Err(EnforcerError::Locked),
                Err(error) => return Err(in_dir(error.into())),
            }
        }
    }
}
