//! The cgroup v2 tree: directories by id, ids by directory. A cgroup's id is
//! its directory's inode number.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{DirEntryExt as _, MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{container::container, unit::unit};
use crate::events::record::Container;

/// Cgroups remembered, and directories visited in one walk.
const LIMIT: usize = 65_536;
/// The shortest time between two walks.
const WALK_PAUSE: Duration = Duration::from_millis(250);
/// A walk is followed by a pause this many times as long: at most 5 % of a CPU.
const WALK_PAUSE_FACTOR: u32 = 20;

/// The mounted cgroup v2 hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct CgroupTree {
    mount: PathBuf,
}

impl CgroupTree {
    /// Looks for a mount of the whole hierarchy: one that process 1 has at the same place,
    /// or else has at all, or else any other. `proc_root` is where `/proc` is.
    pub(crate) fn find(proc_root: &Path) -> Option<Self> {
        let own = mount_points(&proc_root.join("self/mountinfo"));
        let of_first = mount_points(&proc_root.join("1/mountinfo"));
        let (shared, other): (Vec<_>, Vec<_>) =
            own.into_iter().partition(|mount| of_first.contains(mount));
        let root = proc_root.join("1/root");
        let reached = of_first
            .iter()
            .map(|mount| root.join(mount.strip_prefix("/").unwrap_or(mount)));
        let mut mounts = shared.into_iter().chain(reached).chain(other);
        let mount = mounts.find(|mount| is_whole(mount))?;
        Some(Self { mount })
    }

    /// Where the hierarchy is mounted.
    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }

    /// The id of the cgroup at `path`, below the mount point.
    pub(crate) fn id(&self, path: &Path) -> io::Result<u64> {
        let below = path.strip_prefix("/").unwrap_or(path);
        // A process outside our cgroup namespace has a path that leads out of it.
        if below.components().any(|part| part == Component::ParentDir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let directory = fs::metadata(self.mount.join(below))?;
        if !directory.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(directory.ino())
    }

    /// Visits the cgroups with their ids and their paths below the mount point,
    /// without a leading slash.
    pub(crate) fn walk(&self, mut visit: impl FnMut(u64, &Path)) {
        if let Ok(root) = self.id(Path::new("/")) {
            visit(root, Path::new(""));
        }
        let mut visited = 0;
        let mut pending = vec![PathBuf::new()];
        while let Some(parent) = pending.pop() {
            // A cgroup may go away at any time: then there is nothing in it.
            let Ok(entries) = fs::read_dir(self.mount.join(&parent)) else {
                continue;
            };
            for entry in entries.flatten() {
                if visited == LIMIT || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                visited += 1;
                let path = parent.join(entry.file_name());
                visit(entry.ino(), &path);
                pending.push(path);
            }
        }
    }
}

/// The mount points of cgroup v2 in this mountinfo.
fn mount_points(mountinfo: &Path) -> Vec<PathBuf> {
    let mounts = fs::read(mountinfo).unwrap_or_default();
    let lines = mounts.split(|&byte| byte == b'\n');
    lines.filter_map(cgroup2_mount_point).collect()
}

/// The root of the hierarchy is here: something else may have been mounted over it, and
/// in a cgroup namespace, the root of a mount may be any cgroup. Only the root of all has
/// no `cgroup.events`.
fn is_whole(mount: &Path) -> bool {
    mount.join("cgroup.controllers").exists() && !mount.join("cgroup.events").exists()
}

/// The mount point in a line of mountinfo, if it mounts a cgroup v2 hierarchy from its
/// root on: `41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw`.
pub(super) fn cgroup2_mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (root, mount_point) = (fields.nth(3)?, fields.next()?);
    let file_system = fields.skip_while(|field| *field != b"-").nth(1)?;
    (root == b"/" && file_system == b"cgroup2")
        .then(|| OsString::from_vec(unescape(mount_point)).into())
}

/// Undoes mountinfo's `\040` for a space, and so on.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .first_chunk::<3>()
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(byte));
        rest = tail.get(octal.map_or(0, |_| 3)..).unwrap_or_default();
    }
    plain
}

/// A cgroup's path and what it tells; shared by the processes in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) path: Arc<str>,
    pub(crate) unit: Option<Arc<str>>,
    pub(crate) container: Option<Container>,
}

impl Placement {
    fn new(path: &str) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            unit: unit(path).map(Into::into),
            container: container(path),
        })
    }
}

/// Placements by cgroup id. Ids are not reused while the host is up and cgroups
/// cannot be renamed, so what is known stays true, also of a removed cgroup.
#[derive(Debug)]
pub(crate) struct Cgroups {
    tree: Option<CgroupTree>,
    /// Locked only for as long as a look into memory takes.
    found: Mutex<Placements>,
}

#[derive(Debug, Default)]
struct Placements {
    known: HashMap<u64, Arc<Placement>>,
    next_walk: Option<Instant>,
}

impl Cgroups {
    pub(crate) fn new(tree: Option<CgroupTree>) -> Self {
        Self {
            tree,
            found: Mutex::default(),
        }
    }

    fn found(&self) -> MutexGuard<'_, Placements> {
        // Nothing panics while it holds the lock.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The placement of cgroup `id`, if it was found before.
    pub(crate) fn known(&self, id: u64) -> Option<Arc<Placement>> {
        self.found().known.get(&id).map(Arc::clone)
    }

    /// The placement of cgroup `id`; `hint` is the path the process itself is in
    /// by now. `None` when the cgroup is not to be found.
    pub(crate) fn placement(
        &self,
        id: u64,
        hint: Option<&str>,
        now: Instant,
    ) -> Option<Arc<Placement>> {
        let known = self.known(id);
        if known.is_some() {
            return known;
        }
        let tree = self.tree.as_ref()?;
        self.make_room();
        let hint = hint.filter(|path| tree.id(Path::new(path)).is_ok_and(|found| found == id));
        if let Some(path) = hint {
            self.keep(id, || Placement::new(path));
        } else if self.begin_walk(now) {
            let started = Instant::now();
            tree.walk(|id, path| {
                self.keep(id, || Placement::new(&format!("/{}", path.display())));
            });
            let pause = WALK_PAUSE.max(started.elapsed() * WALK_PAUSE_FACTOR);
            self.found().next_walk = Some(now + pause);
        }
        self.known(id)
    }

    fn make_room(&self) {
        let known = &mut self.found().known;
        if known.len() >= LIMIT {
            known.clear();
        }
    }

    fn keep(&self, id: u64, placement: impl FnOnce() -> Arc<Placement>) {
        let mut found = self.found();
        found.known.entry(id).or_insert_with(placement);
    }

    /// A walk is due, and nobody else begins one meanwhile.
    fn begin_walk(&self, now: Instant) -> bool {
        let mut found = self.found();
        let is_due = found.next_walk.is_none_or(|due| now >= due);
        if is_due {
            found.next_walk = Some(now + WALK_PAUSE);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use crate::host::cgroup::*;

    const UNIT: &str = "system.slice/ssh.service";

    fn tree() -> (TempDir, CgroupTree) {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("c g");
        fs::create_dir_all(mount.join(UNIT)).unwrap();
        fs::write(mount.join("cgroup.controllers"), "").unwrap();
        let line = format!(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             41 31 0:38 /sub /elsewhere rw - cgroup2 cgroup2 rw\n\
             41 31 0:38 / {} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
            mount.to_str().unwrap().replace(' ', "\\040")
        );
        fs::create_dir(root.path().join("self")).unwrap();
        fs::write(root.path().join("self/mountinfo"), line).unwrap();
        let tree = CgroupTree::find(root.path()).unwrap();
        assert_eq!(tree.mount(), mount);
        (root, tree)
    }

    #[test]
    fn walk_agrees_with_id_on_every_directory() {
        let (_root, tree) = tree();
        let mut seen = Vec::new();
        tree.walk(|id, path| {
            assert_eq!(id, tree.id(path).unwrap());
            seen.push(path.to_owned());
        });
        seen.sort();
        assert_eq!(seen, ["", "system.slice", UNIT].map(PathBuf::from));
    }

    #[test]
    fn only_a_directory_below_the_mount_point_has_an_id() {
        let (root, tree) = tree();
        fs::create_dir(root.path().join("outside")).unwrap();
        fs::write(tree.mount().join("cgroup.procs"), "").unwrap();
        assert!(tree.id(Path::new("/system.slice")).is_ok());
        for path in ["/../outside", "/cgroup.procs", "/no.slice"] {
            assert!(tree.id(Path::new(path)).is_err(), "{path}");
        }
    }

    /// A place below `root` that looks like a cgroup's directory, and a line of mountinfo
    /// that mounts it at `point`.
    fn mounted(root: &Path, place: &str, point: &str, is_whole: bool) -> String {
        let dir = root.join(place);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), "").unwrap();
        if !is_whole {
            fs::write(dir.join("cgroup.events"), "").unwrap();
        }
        format!("41 31 0:38 / {point} rw - cgroup2 cgroup2 rw\n")
    }

    fn write_mounts(root: &Path, process: &str, lines: &str) {
        fs::create_dir_all(root.join(process)).unwrap();
        fs::write(root.join(process).join("mountinfo"), lines).unwrap();
    }

    #[test]
    fn the_hierarchy_of_process_1_comes_before_a_chroots() {
        let root = tempfile::tempdir().unwrap();
        let path = |place: &str| root.path().join(place).to_str().unwrap().to_owned();
        let (chroot, host) = (path("chroot"), path("host"));
        let lines = mounted(root.path(), "chroot", &chroot, true)
            + &mounted(root.path(), "host", &host, true);
        write_mounts(root.path(), "self", &lines);
        let of_first = mounted(root.path(), "host", &host, true);
        write_mounts(root.path(), "1", &of_first);
        let tree = CgroupTree::find(root.path()).unwrap();
        assert_eq!(tree.mount(), Path::new(&host));
    }

    #[test]
    fn a_part_of_the_hierarchy_is_passed_over_for_process_1s() {
        let root = tempfile::tempdir().unwrap();
        let part = root.path().join("part").to_str().unwrap().to_owned();
        // In a cgroup namespace, the part looks like the whole.
        let own = mounted(root.path(), "part", &part, false);
        write_mounts(root.path(), "self", &own);
        assert!(CgroupTree::find(root.path()).is_none());
        let of_first = mounted(root.path(), "1/root/sys/fs/cgroup", "/sys/fs/cgroup", true);
        write_mounts(root.path(), "1", &of_first);
        let tree = CgroupTree::find(root.path()).unwrap();
        assert_eq!(tree.mount(), root.path().join("1/root/sys/fs/cgroup"));
    }

    #[test]
    fn a_hierarchy_that_something_is_mounted_over_is_none() {
        let root = tempfile::tempdir().unwrap();
        let line = mounted(root.path(), "gone", "/no/such/place", true);
        write_mounts(root.path(), "self", &line);
        assert!(CgroupTree::find(root.path()).is_none());
    }

    #[test]
    fn no_mount_is_no_tree() {
        let root = tempfile::tempdir().unwrap();
        assert!(CgroupTree::find(root.path()).is_none());
        let cgroups = Cgroups::new(None);
        assert_eq!(cgroups.placement(1, Some("/"), Instant::now()), None);
    }

    #[test]
    fn right_hint_is_taken_and_a_wrong_one_is_not() {
        let (_root, tree) = tree();
        let id = tree.id(Path::new(UNIT)).unwrap();
        for hint in [
            "/system.slice/ssh.service",
            "/system.slice",
            "/gone",
            "/../x",
        ] {
            let found = Cgroups::new(Some(tree.clone()))
                .placement(id, Some(hint), Instant::now())
                .unwrap();
            assert_eq!(&*found.path, "/system.slice/ssh.service", "{hint}");
            assert_eq!(found.unit.as_deref(), Some("ssh.service"), "{hint}");
        }
    }

    #[test]
    fn removed_cgroup_keeps_its_name() {
        let (_root, tree) = tree();
        let id = tree.id(Path::new(UNIT)).unwrap();
        let cgroups = Cgroups::new(Some(tree.clone()));
        let before = cgroups.placement(id, None, Instant::now());
        fs::remove_dir(tree.mount().join(UNIT)).unwrap();
        assert!(before.is_some());
        assert_eq!(cgroups.placement(id, None, Instant::now()), before);
    }

    #[test]
    fn tree_is_walked_again_only_after_a_pause() {
        let (_root, tree) = tree();
        let cgroups = Cgroups::new(Some(tree.clone()));
        let start = Instant::now();
        assert_eq!(cgroups.placement(u64::MAX, None, start), None);
        fs::create_dir(tree.mount().join("new.scope")).unwrap();
        let id = tree.id(Path::new("/new.scope")).unwrap();
        assert_eq!(cgroups.placement(id, None, start), None);
        let later = start + Duration::from_hours(1);
        let found = cgroups.placement(id, None, later).unwrap();
        assert_eq!(found.unit.as_deref(), Some("new.scope"));
    }

    proptest! {
        #[test]
        fn any_mountinfo_line_is_read_without_panic(line in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = cgroup2_mount_point(&line);
        }

        #[test]
        fn escaped_mount_point_reads_back(point in "/[a-z \\\\]{0,20}") {
            let escaped = point.replace('\\', "\\134").replace(' ', "\\040");
            prop_assert_eq!(unescape(escaped.as_bytes()), point.as_bytes());
        }
    }
}
