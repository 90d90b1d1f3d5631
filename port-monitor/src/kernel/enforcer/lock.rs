//! Who may change what is pinned: one at a time.

use std::{
    fs::{self, File},
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, StatFs, flock, statfs},
    io::Errno,
};

use super::{BPF_FS, EnforcerError, parent};

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// How long somebody else may take: one that follows a policy looks every second.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Held until dropped; the kernel lets go of a dead process's.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held open")] File);

impl Lock {
    /// Waits for it, but not for long.
    pub(super) fn take() -> Result<Self, EnforcerError> {
        let dir = parent();
        let is_bpf_fs = |found: StatFs| found.f_type == BPF_FS_MAGIC;
        if !statfs(BPF_FS).is_ok_and(is_bpf_fs) {
            return Err(EnforcerError::NoBpfFs);
        }
        let in_dir = |error| EnforcerError::File {
            path: dir.clone(),
            error,
        };
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(in_dir(error));
            }
            _ => {}
        }
        let lock = File::open(&dir).map_err(in_dir)?;
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
