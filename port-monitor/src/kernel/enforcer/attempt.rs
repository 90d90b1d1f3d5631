//! A process that is about to apply a policy: `panic-open` sees it, and what it has ended
//! is not installed anew by a process that began before.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use rustix::fs::{FlockOperation, flock};

use super::{EnforcerError, home, install, lock};

/// What is between an instance's name and the process id in the name of an attempt. Names
/// of instances have no `_`.
const APPLYING: &str = "_applying_";

/// The directory that an installation is made in, before it gets its name. It is locked
/// while its process lives.
#[derive(Debug)]
pub struct Attempt {
    /// `None` where there could be none: then nothing can be installed either.
    made: Result<Made, String>,
    /// The directory of all instances; `None` where there is none that lasts.
    all: Option<PathBuf>,
    instance: String,
}

#[derive(Debug)]
struct Made {
    dir: PathBuf,
    _held: File,
}

impl Attempt {
    /// Begins to apply a policy to this instance.
    pub fn begin(instance: &str) -> Self {
        let all = home::lasting();
        let made = all.as_ref().map_err(ToString::to_string).and_then(|all| {
            let dir = all.join(format!("{instance}{APPLYING}{}", process::id()));
            make(all, dir).map_err(|error| error.to_string())
        });
        Self {
            made,
            all: all.ok(),
            instance: instance.to_owned(),
        }
    }

    /// Where to install, or why there is nowhere.
    pub(super) fn place(&self) -> Result<&Path, EnforcerError> {
        match &self.made {
            Ok(made) => Ok(&made.dir),
            Err(problem) => Err(EnforcerError::File {
                path: self.all.clone().unwrap_or_default(),
                error: io::Error::other(problem.clone()),
            }),
        }
    }

    fn dir(&self) -> Option<&Path> {
        Some(&self.made.as_ref().ok()?.dir)
    }

    /// Removes what others left that did not live to finish.
    pub(super) fn clear_others(&self) {
        let all = self.all.as_deref();
        for dir in all.map_or_else(Vec::new, |all| all_of(all, &self.instance)) {
            if Some(dir.as_path()) != self.dir() && is_left(&dir) {
                // The next one tries again.
                let _ = install::remove(&dir);
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(dir) = self.dir() {
            // Most often it has become the installation, or was never filled.
            let _ = install::remove(dir);
            // Nobody minds if something else is still there.
            let _ = self.all.as_deref().map(fs::remove_dir);
        }
    }
}

/// Every attempt at this instance in the directory of all, whoever made it.
pub(super) fn all_of(all: &Path, instance: &str) -> Vec<PathBuf> {
    let prefix = format!("{instance}{APPLYING}");
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&prefix)
    };
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

/// How often somebody else may be in the way.
const TRIES: u32 = 100;

/// A locked directory that is still there once it is.
fn make(all: &Path, dir: PathBuf) -> io::Result<Made> {
    let mut problem = io::ErrorKind::AlreadyExists.into();
    for _ in 0..TRIES {
        lock::make_parent(all).map_err(io::Error::other)?;
        match try_to_make(&dir) {
            Ok(held) => return Ok(Made { dir, _held: held }),
            Err(error) => problem = error,
        }
        // Of a process of the same number that is gone.
        if is_left(&dir) {
            install::remove(&dir).map_err(io::Error::other)?;
        }
    }
    Err(problem)
}

/// Whoever clears up may remove the parent before this is made in it, or may take this for
/// left before it is locked.
fn try_to_make(dir: &Path) -> io::Result<File> {
    fs::create_dir(dir)?;
    let held = File::open(dir)?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    if fs::metadata(dir)?.ino() == held.metadata()?.ino() {
        Ok(held)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Nobody holds it who lives.
pub(super) fn is_left(dir: &Path) -> bool {
    let lock = |file: File| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    File::open(dir).is_ok_and(lock)
}
