//! The files that `apply --follow` reads, the policy's and the lists of networks that it
//! names: whether they are others than those that were read last, and whether somebody is
//! still writing one.

use std::{
    fs::{self, File, Metadata},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::policy::text::network_list::ListFile;

/// How long the files must have been as they are: somebody may be writing one, and what is
/// there of it by then may be a policy of fewer rules, or a list of fewer networks.
const SETTLED: Duration = Duration::from_millis(1_500);

/// What is read of a file at each look: more than any policy has. A change behind that, in
/// a long list, is seen by the time of change.
const READ_BYTES: u64 = 2 << 20;

/// What a look at the files found: of each path its file; `None` where there is none, or
/// none that can be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look(Vec<(PathBuf, Option<Found>)>);

/// What a file is like. The kernel changes the time of change whatever a writer does to the
/// time of modification; and two changes at one tick of its clock differ in what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// SHA-256 of the first `READ_BYTES` of its text; `None` for what is no file, and cannot be read without waiting.
    digest: Option<[u8; 32]>,
}

impl Look {
    fn at(paths: &[PathBuf]) -> Self {
        let found = paths.iter().map(|path| (path.clone(), Found::at(path)));
        Self(found.collect())
    }

    /// Its files are like this now.
    pub(super) fn is_still(&self) -> bool {
        self.0.iter().all(|(path, found)| Found::at(path) == *found)
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
            digest: digest(path, &found, READ_BYTES),
        })
    }
}

fn digest(path: &Path, found: &Metadata, most: u64) -> Option<[u8; 32]> {
    if !found.is_file() {
        return None;
    }
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(most).read_to_end(&mut text).ok()?;
    Some(Sha256::digest(text).into())
}

/// What was read as this list is what its file says now.
fn is_as_read(list: &ListFile) -> bool {
    let found = fs::metadata(&list.path).ok();
    let digest = found.and_then(|found| digest(&list.path, &found, u64::MAX));
    digest == Some(list.digest)
}

/// The files, and which of their states was read.
#[derive(Debug)]
pub(super) struct Watched {
    /// The policy first, then the lists that the policy read last names.
    paths: Vec<PathBuf>,
    /// `None` where nobody knows which state it was.
    read: Option<Look>,
    /// Another state, and since when it is seen.
    next: Option<(Look, Instant)>,
}

impl Watched {
    /// The policy's file as it is now, which is about to be read.
    pub(super) fn new(policy: &Path) -> Self {
        let paths = vec![policy.to_owned()];
        Self {
            read: Some(Look::at(&paths)),
            paths,
            next: None,
        }
    }

    /// The policy as it was at [`Watched::new`] was read, and these lists with it. A list
    /// that has changed since is to be read again.
    pub(super) fn began_with(&mut self, lists: &[ListFile]) {
        self.watch(lists.iter().map(|list| &list.path));
        let mut look = Look::at(&self.paths);
        let policy = self.read.take().and_then(|read| read.0.into_iter().next());
        if let (Some(first), Some(policy)) = (look.0.first_mut(), policy) {
            *first = policy;
        }
        self.read = lists.iter().all(is_as_read).then_some(look);
    }

    /// The policy as it is now names these lists. False where one was not looked at before:
    /// somebody may be writing that, and all is to be read again when it is the same for a
    /// while.
    pub(super) fn has_seen(&mut self, lists: &[PathBuf], now: Instant) -> bool {
        let has_seen = lists.iter().all(|list| self.paths.contains(list));
        self.watch(lists);
        if !has_seen {
            self.next = Some((Look::at(&self.paths), now));
        }
        has_seen
    }

    fn watch<'p>(&mut self, lists: impl IntoIterator<Item = &'p PathBuf>) {
        self.paths.truncate(1);
        for list in lists {
            if !self.paths.contains(list) {
                self.paths.push(list.clone());
            }
        }
    }

    /// They are to be read: because one is another and nobody is writing it any more, or
    /// because somebody asks for it. Gives what they are like.
    pub(super) fn is_due(&mut self, is_asked: bool, now: Instant) -> Option<Look> {
        let look = Look::at(&self.paths);
        if self.read.as_ref() == Some(&look) {
            self.next = None;
            return is_asked.then_some(look);
        }
        match &self.next {
            Some((next, since)) if *next == look => {
                (now.saturating_duration_since(*since) >= SETTLED).then_some(look)
            }
            _ => {
                self.next = Some((look, now));
                None
            }
        }
    }

    /// They were read when they were like this, whatever became of it.
    pub(super) fn was_read(&mut self, mut look: Look) {
        look.0.retain(|(path, _)| self.paths.contains(path));
        self.read = Some(look);
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use crate::commands::enforce::file::*;

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

        fn look(&self) -> Look {
            Look::at(std::slice::from_ref(&self.path))
        }

        /// A list with this text, as it was read.
        fn list(&self, name: &str, text: &str) -> ListFile {
            let path = self.path.with_file_name(name);
            fs::write(&path, text).unwrap();
            ListFile {
                path,
                digest: Sha256::digest(text).into(),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }
    }

    #[test]
    fn a_file_that_is_replaced_or_written_or_gone_is_another() {
        let place = Place::new();
        let before = place.look();
        assert_eq!(place.look(), before);

        let new = place.path.with_extension("new");
        fs::write(&new, "one").unwrap();
        fs::rename(&new, &place.path).unwrap();
        let replaced = place.look();
        assert_ne!(replaced, before);

        fs::write(&place.path, "three").unwrap();
        assert_ne!(place.look(), replaced);

        fs::remove_file(&place.path).unwrap();
        assert_eq!(place.look(), Look(vec![(place.path.clone(), None)]));
    }

    #[test]
    fn a_change_in_place_that_keeps_size_and_time_is_seen() {
        let place = Place::new();
        let before = Found::at(&place.path).unwrap();
        let modified = fs::metadata(&place.path).unwrap().modified().unwrap();
        fs::write(&place.path, "two").unwrap();
        let file = File::options().write(true).open(&place.path).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
        let after = Found::at(&place.path).unwrap();
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
        assert_eq!(due, place.look());
        watched.was_read(due);
        assert_eq!(watched.is_due(false, place.at(9_000)), None);
        fs::remove_file(&place.path).unwrap();
        assert_eq!(watched.is_due(false, place.at(10_000)), None);
        assert_eq!(
            watched.is_due(false, place.at(11_500)),
            Some(Look(vec![(place.path.clone(), None)]))
        );
    }

    #[test]
    fn a_file_that_was_read_is_read_again_at_once_if_somebody_asks() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        let look = place.look();
        assert_eq!(watched.is_due(true, place.at(0)), Some(look));
    }

    #[test]
    fn a_list_that_changes_is_read_again_by_the_rules_of_the_policy() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        let lists = [place.list("a.txt", "192.0.2.1"), place.list("b.txt", "")];
        watched.began_with(&lists);
        assert_eq!(watched.is_due(false, place.at(0)), None);
        let mut ms = 0;
        let mut change = |text: Option<&str>| {
            match text {
                Some(text) => fs::write(&lists[1].path, text).unwrap(),
                None => fs::remove_file(&lists[1].path).unwrap(),
            }
            ms += 10_000;
            assert_eq!(watched.is_due(true, place.at(ms)), None);
            assert_eq!(watched.is_due(true, place.at(ms + 1_499)), None);
            let due = watched.is_due(false, place.at(ms + 1_500)).unwrap();
            assert!(due.is_still());
            // Whether it is valid or not, it is read once.
            watched.was_read(due.clone());
            assert_eq!(watched.is_due(false, place.at(ms + 3_000)), None);
            due
        };
        let before = change(Some("192.0.2.2"));
        change(Some("192.0.2.3"));
        change(None);
        change(Some("192.0.2.2"));
        assert!(!before.is_still());
    }

    #[test]
    fn a_list_that_changes_while_the_first_policy_is_read_is_read_again() {
        let place = Place::new();
        for is_gone in [false, true] {
            let mut watched = Watched::new(&place.path);
            let list = place.list("a.txt", "192.0.2.1");
            if is_gone {
                fs::remove_file(&list.path).unwrap();
            } else {
                fs::write(&list.path, "192.0.2.2").unwrap();
            }
            watched.began_with(&[list]);
            assert_eq!(watched.is_due(false, place.at(0)), None);
            assert!(watched.is_due(false, place.at(1_500)).is_some());
        }
    }

    #[test]
    fn a_policy_that_changes_while_it_is_first_read_is_read_again() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        fs::write(&place.path, "two").unwrap();
        watched.began_with(&[place.list("a.txt", "192.0.2.1")]);
        assert_eq!(watched.is_due(false, place.at(0)), None);
        assert!(watched.is_due(false, place.at(1_500)).is_some());
    }

    #[test]
    fn a_list_that_is_named_anew_is_waited_for_and_one_that_is_not_any_more_is_let_be() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        let [old, new] = ["old.txt", "new.txt"].map(|name| place.list(name, "192.0.2.1"));
        watched.began_with(std::slice::from_ref(&old));
        fs::write(&place.path, "two").unwrap();
        assert_eq!(watched.is_due(false, place.at(0)), None);
        assert!(watched.is_due(false, place.at(1_500)).is_some());
        let both = [old.path, new.path];
        assert!(!watched.has_seen(&both, place.at(1_500)));
        // Somebody was writing it.
        fs::write(&both[1], "192.0.2.1\n192.0.2.2").unwrap();
        assert_eq!(watched.is_due(false, place.at(3_000)), None);
        let due = watched.is_due(false, place.at(4_500)).unwrap();
        assert!(watched.has_seen(&both, place.at(4_500)));
        watched.was_read(due);
        assert_eq!(watched.is_due(false, place.at(5_000)), None);

        let due = watched.is_due(true, place.at(5_000)).unwrap();
        assert!(watched.has_seen(&both[1..], place.at(5_000)));
        watched.was_read(due);
        fs::remove_file(&both[0]).unwrap();
        assert_eq!(watched.is_due(false, place.at(6_000)), None);
        assert_eq!(watched.is_due(false, place.at(9_000)), None);
        assert!(watched.read.as_ref().is_some_and(Look::is_still));
    }

    #[test]
    fn a_missing_list_of_a_refused_policy_is_read_when_it_is_there() {
        let place = Place::new();
        let mut watched = Watched::new(&place.path);
        watched.began_with(&[]);
        fs::write(&place.path, "two").unwrap();
        assert_eq!(watched.is_due(false, place.at(0)), None);
        assert!(watched.is_due(false, place.at(1_500)).is_some());
        let list = [place.path.with_file_name("missing.txt")];
        assert!(!watched.has_seen(&list, place.at(1_500)));
        let due = watched.is_due(false, place.at(3_000)).unwrap();
        assert!(watched.has_seen(&list, place.at(3_000)));
        watched.was_read(due);
        assert_eq!(watched.is_due(false, place.at(4_000)), None);
        fs::write(&list[0], "192.0.2.1").unwrap();
        assert_eq!(watched.is_due(false, place.at(5_000)), None);
        assert!(watched.is_due(false, place.at(6_500)).is_some());
    }
}
