//! Who may change what is pinned: one at a time.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
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
    /// Waits for that of the instances in this directory, but not for long.
    pub(super) fn take(all: &Path) -> Result<Self, EnforcerError> {
        let in_dir = |error| EnforcerError::File {
            path: all.to_owned(),
            error,
        };
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            make_parent(all)?;
            let lock = match File::open(all) {
                // `panic-open` has just removed it, as the last that was in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.map_err(in_dir)?,
            };
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&lock, all) => return Ok(Self(lock)),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(LOCK_WAIT / 100);
                }
                Err(Errno::WOULDBLOCK) => return Err(EnforcerError::Locked),
                Err(error) => return Err(in_dir(error.into())),
            }
        }
    }
}

/// Held by whoever follows a policy, until it is dropped.
#[derive(Debug)]
pub struct Following(#[expect(dead_code, reason = "held open")] File);

impl Following {
    /// Whoever follows the installation in this directory keeps others from it. It goes with
    /// the directory: what has become of an installation that was ended hinders nobody.
    pub(super) fn begin(dir: &Path) -> io::Result<Self> {
        let file = File::open(dir)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }
}

/// The directory still has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |found: io::Result<fs::Metadata>| Some(found.ok()?.ino());
    let held = inode(file.metadata());
    held.is_some() && held == inode(fs::metadata(path))
}

/// Makes the directory that all instances are in.
pub(super) fn make_parent(all: &Path) -> Result<(), EnforcerError> {
    match fs::create_dir(all) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(EnforcerError::File {
            path: all.to_owned(),
            error,
        }),
        _ => Ok(()),
    }
}
