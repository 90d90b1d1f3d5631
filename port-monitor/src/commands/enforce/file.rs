//! The policy's file as `apply --follow` sees it: whether it is another than the one that
//! was read last, and whether somebody is still writing it.

use std::{
    fs::{self, File, Metadata},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

/// How long a file must have been as it is: somebody may be writing it, and what is there
/// of it by then may be a policy of fewer rules.
const SETTLED: Duration = Duration::from_millis(1_500);

/// What is read of a file to tell it from another: more than any policy has.
const READ_BYTES: u64 = 2 << 20;

/// What a look at the file found; `None` where there is no file, or none that can be looked
/// at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look(Option<Found>);

/// What a file is like. The kernel changes the time of change whatever a writer does to the
/// time of modification; and two changes at one tick of its clock differ in what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// SHA-256 of its text; `None` for what is no file, and cannot be read without waiting.
    digest: Option<[u8; 32]>,
}

impl Look {
    fn at(path: &Path) -> Self {
        Self(Found::at(path))
    }
}

impl Found {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            digest: digest(path, &found),
        })
    }
}

fn digest(path: &Path, found: &Metadata) -> Option<[u8; 32]> {
    if !found.is_file() {
        return None;
    }
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(READ_BYTES).read_to_end(&mut text).ok()?;
    Some(Sha256::digest(text).into())
}

/// The file, and which of its states was read.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    read: Look,
    /// Another state, and since when it is seen.
    next: Option<(Look, Instant)>,
}

impl Watched {
    /// The file as it is now, which is about to be read.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            read: Look::at(path),
            next: None,
        }
    }

    /// It is to be read: because it is another and nobody is writing it any more, or
    /// because somebody asks for it. Gives what it is like.
    pub(super) fn is_due(&mut self, is_asked: bool, now: Instant) -> Option<Look> {
        let look = Look::at(&self.path);
        if look == self.read {
            self.next = None;
            return is_asked.then_some(look);
        }
        match self.next {
            Some((next, since)) if next == look => {
                (now.saturating_duration_since(since) >= SETTLED).then_some(look)
            }
            _ => {
                self.next = Some((look, now));
                None
            }
        }
    }

    /// It is like this now.
    pub(super) fn is_still(&self, look: Look) -> bool {
        Look::at(&self.path) == look
    }

    /// It was read when it was like this, whatever became of it.
    pub(super) fn was_read(&mut self, look: Look) {
        self.read = look;
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        path: PathBuf,
        start: Instant,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("policy.toml");
            fs::write(&path, "one").unwrap();
            Self {
                _dir: dir,
                path,
                start: Instant::now(),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }
    }

    #[test]
    fn a_file_that_is_replaced_or_written_or_gone_is_another() {
        let place = Place::new();
        let before = Look::at(&place.path);
        assert_eq!(Look::at(&place.path), before);

        let new = place.path.with_extension("new");
        fs::write(&new, "one").unwrap();
        fs::rename(&new, &place.path).unwrap();
        let replaced = Look::at(&place.path);
        assert_ne!(replaced, before);

        fs::write(&place.path, "three").unwrap();
        assert_ne!(Look::at(&place.path), replaced);

        fs::remove_file(&place.path).unwrap();
        assert_eq!(Look::at(&place.path), Look(None));
    }

    #[test]
    fn a_change_in_place_that_keeps_size_and_time_is_seen() {
        let place = Place::new();
        let before = Look::at(&place.path).0.unwrap();
        let modified = fs::metadata(&place.path).unwrap().modified().unwrap();
        fs::write(&place.path, "two").unwrap();
        let file = File::options().write(true).open(&place.path).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
        let after = Look::at(&place.path).0.unwrap();
        assert_eq!(
            (after.inode, after.size, after.modified),
            (before.inode, before.size, before.modified)
        );
        assert_ne!(after, before);
        // Even if the kernel's clock had not gone on.
        assert_ne!(after.digest, before.digest);
    }

    #[test]
    fn a_file_is_read_once_it_has_been_the_same_for_a_while() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        assert_eq!(watched.is_due(false, place.at(0)), None);
        // Written rule by rule, each cut a policy of its own.
        for (ms, text) in [
            (1_000, "one two"),
            (2_000, "one two three"),
            (3_400, "four"),
        ] {
            fs::write(&place.path, text).unwrap();
            assert_eq!(watched.is_due(false, place.at(ms)), None);
            assert_eq!(watched.is_due(true, place.at(ms + 900)), None);
        }
        assert_eq!(watched.is_due(false, place.at(4_899)), None);
        let due = watched.is_due(false, place.at(4_900)).unwrap();
        assert_eq!(due, Look::at(&place.path));
        watched.was_read(due);
        assert_eq!(watched.is_due(false, place.at(9_000)), None);
        fs::remove_file(&place.path).unwrap();
        assert_eq!(watched.is_due(false, place.at(10_000)), None);
        assert_eq!(watched.is_due(false, place.at(11_500)), Some(Look(None)));
    }

    #[test]
    fn a_file_that_was_read_is_read_again_at_once_if_somebody_asks() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        let look = Look::at(&place.path);
        assert_eq!(watched.is_due(true, place.at(0)), Some(look));
    }
}
