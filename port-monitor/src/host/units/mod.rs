//! The units and cgroups of a host: which names mean the same unit, which patterns a name
//! matches, and what is there. One answer for policies, filters and events.
//!
//! systemd runs a unit in a cgroup of its own name, not of an alias of it: an alias is a
//! link in a directory of unit files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::OnceLock,
};

use crate::{base::order, host::cgroup::CgroupTree};

pub(super) mod name;

pub use name::{ROOT_SLICE, completed, matches, pattern, slices_around, slices_below, unescaped};

/// Where the unit files are, those that win first. User units come after the others: a
/// user's manager runs them.
const DIRECTORIES: [&str; 19] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    "run/systemd/system",
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
    "run/systemd/generator.late",
    "etc/systemd/user",
    "run/systemd/user",
    "usr/local/lib/systemd/user",
    "usr/lib/systemd/user",
    "usr/share/systemd/user",
    "etc/xdg/systemd/user",
];

/// Aliases of aliases are followed so far.
const MAX_LINKS: usize = 8;

/// How people may write the mount point, whatever it is on this host.
const MOUNT_POINTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// When something last came into or left each directory of unit files: while that stays
/// the same, so do the names of units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesStamp([Option<(i64, i64)>; DIRECTORIES.len()]);

impl FilesStamp {
    /// Of this host now.
    pub fn of_host() -> Self {
        Self::in_files(Path::new("/"))
    }

    /// Of the directories below `root`.
    pub fn in_files(root: &Path) -> Self {
        Self(DIRECTORIES.map(|directory| {
            let found = fs::metadata(root.join(directory)).ok()?;
            Some((found.mtime(), found.mtime_nsec()))
        }))
    }
}

/// The units and cgroups of a host at one moment.
#[derive(Clone, Debug, Default)]
pub struct Units {
    files: BTreeSet<String>,
    /// From an alias to the name it stands for.
    links: BTreeMap<String, String>,
    /// With a leading slash, the root's is empty; `None` where there is no hierarchy.
    cgroups: Option<BTreeSet<String>>,
    /// The names of units that the last parts of those paths are.
    running: BTreeSet<String>,
    /// The aliases of each unit by the name it runs under, once somebody has asked.
    aliases: OnceLock<BTreeMap<String, Vec<String>>>,
    /// Where the hierarchy is mounted, in its spellings, longest first.
    mounts: Vec<String>,
}

impl Units {
    /// Those of this host now.
    pub fn of_host() -> Self {
        let tree = CgroupTree::find(Path::new("/proc"));
        let mut units = Self::in_files(Path::new("/"));
        if let Some(tree) = &tree {
            let mut cgroups = BTreeSet::new();
            tree.walk(|_, path| match path.to_str() {
                Some("") => {
                    cgroups.insert(String::new());
                }
                Some(path) => {
                    cgroups.insert(format!("/{path}"));
                }
                None => {}
            });
            let mount = tree.mount().to_string_lossy().into_owned();
            units = units.with_cgroups(cgroups, &mount);
        }
        units
    }

    /// Those that have files below `root`.
    pub fn in_files(root: &Path) -> Self {
        let mut units = Self::default();
        for directory in DIRECTORIES {
            let Ok(entries) = fs::read_dir(root.join(directory)) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(unit) = entry.file_name().into_string() else {
                    continue;
                };
                if name::kind(&unit).is_none() || !units.files.insert(unit.clone()) {
                    continue;
                }
                let target = fs::read_link(entry.path()).ok();
                let target = target.as_deref().and_then(Path::file_name);
                if let Some(target) = target.and_then(|target| target.to_str())
                    && target != unit
                    && name::kind(target) == name::kind(&unit)
                {
                    units.links.insert(unit, target.to_owned());
                }
            }
        }
        units
    }

    /// With unit files of these names.
    #[must_use]
    pub fn with_files(mut self, names: &[&str]) -> Self {
        self.files.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// With a link from `alias` to the unit it stands for.
    #[must_use]
    pub fn with_alias(mut self, alias: &str, unit: &str) -> Self {
        self.links.insert(alias.to_owned(), unit.to_owned());
        self.aliases = OnceLock::new();
        self.with_files(&[alias, unit])
    }

    /// With the cgroups that are there, of a hierarchy mounted at `mount`.
    #[must_use]
    pub fn with_cgroups(mut self, cgroups: BTreeSet<String>, mount: &str) -> Self {
        let last = |path: &String| {
            path.rsplit('/')
                .next()
                .map(|name| unescaped(name).to_owned())
        };
        self.running = cgroups.iter().filter_map(last).collect();
        self.cgroups = Some(cgroups);
        self.mounts = MOUNT_POINTS.map(str::to_owned).to_vec();
        self.mounts.push(mount.trim_end_matches('/').to_owned());
        order::sort_by_key(&mut self.mounts, |mount| std::cmp::Reverse(mount.len()));
        self
    }

    /// All the names that mean `unit`, each once: the one it runs under comes first. A
    /// template's name is the pattern of its instances.
    pub fn names(&self, unit: &str) -> Vec<String> {
        let unit = pattern(unit).unwrap_or_else(|| unit.to_owned());
        let id = self.id(&unit);
        let mut names = vec![id.clone()];
        match name::instance(&id) {
            Some(instance) => {
                let of_instance = |link: &String| {
                    if name::is_template(link) {
                        name::of_template(link, instance)
                    } else {
                        link.clone()
                    }
                };
                let links = self.links.keys().map(of_instance);
                names.extend(links.filter(|link| self.id(link) == id));
            }
            None => names.extend(self.aliases().get(&id).into_iter().flatten().cloned()),
        }
        if pattern(&unit).is_some() {
            // A pattern may match an alias: the unit runs under the name that stands for.
            let aliases = self.links.keys();
            let aliases =
                aliases.filter(|alias| !name::is_template(alias) && matches(&unit, alias));
            names.extend(aliases.map(|alias| self.id(alias)));
        }
        names.push(unit);
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// The links to each name that a unit runs under.
    fn aliases(&self) -> &BTreeMap<String, Vec<String>> {
        self.aliases.get_or_init(|| {
            let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for link in self.links.keys() {
                aliases.entry(self.id(link)).or_default().push(link.clone());
            }
            aliases
        })
    }

    /// The name a unit runs under.
    fn id(&self, unit: &str) -> String {
        let mut unit = unit.to_owned();
        for _ in 0..MAX_LINKS {
            if let Some(target) = self.links.get(&unit) {
                unit.clone_from(target);
                continue;
            }
            // A file of its own comes before the template.
            let target = match (name::template(&unit), name::instance(&unit)) {
                (Some(template), Some(instance)) if !self.files.contains(&unit) => self
                    .links
                    .get(&template)
                    .map(|target| name::of_template(target, instance)),
                _ => None,
            };
            match target {
                Some(target) => unit = target,
                None => break,
            }
        }
        unit
    }

    /// A unit of that name, or one that the pattern matches, has a file or runs.
    pub fn knows(&self, unit: &str) -> bool {
        // systemd configures all slices of a family in a directory of their common name.
        let of_family = || self.files.contains(&format!("{unit}.d"));
        (unit.ends_with("-.slice") && of_family())
            || self.names(unit).iter().any(|name| self.has(name))
    }

    fn has(&self, unit: &str) -> bool {
        // The root of all slices has a cgroup, but no directory of its name.
        if unit == ROOT_SLICE
            || self.files.contains(unit)
            || name::template(unit).is_some_and(|template| self.files.contains(&template))
        {
            return true;
        }
        let Some(pattern) = pattern(unit) else {
            return self.running.contains(unit);
        };
        let mut names = self.files.iter().chain(&self.running);
        names.any(|name| matches(&pattern, name))
    }

    /// The cgroup is there. Where there is no hierarchy, nobody can tell.
    pub fn has_cgroup(&self, path: &str) -> bool {
        let cgroups = self.cgroups.as_ref();
        cgroups.is_none_or(|cgroups| cgroups.contains(path))
    }

    /// The path of a cgroup as the kernel tells it: below the mount point, without `.`,
    /// `..` and empty parts; the root's is empty.
    pub fn cgroup(&self, written: &str) -> String {
        let plain = plain(written);
        if self.cgroups.is_some() && self.has_cgroup(&plain) {
            return plain;
        }
        let default = MOUNT_POINTS.map(str::to_owned);
        let mounts = if self.mounts.is_empty() {
            &default[..]
        } else {
            &self.mounts
        };
        let below = mounts.iter().find_map(|mount| {
            let below = plain.strip_prefix(mount.as_str())?;
            (below.is_empty() || below.starts_with('/')).then(|| below.to_owned())
        });
        below.unwrap_or(plain)
    }
}

/// `/a/c` of `//a/./b/../c/`; empty for the root.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
        .iter()
        .fold(String::new(), |path, part| path + "/" + part)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use crate::host::units::*;

    fn files(links: &[(&str, &str)], plain: &[&str]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in DIRECTORIES {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for (link, target) in links {
            symlink(target, root.path().join(link)).unwrap();
        }
        for file in plain {
            fs::write(root.path().join(file), "").unwrap();
        }
        root
    }

    fn debian() -> (TempDir, Units) {
        let root = files(
            &[
                (
                    "etc/systemd/system/sshd.service",
                    "/usr/lib/systemd/system/ssh.service",
                ),
                (
                    "usr/lib/systemd/system/secure-shell.service",
                    "sshd.service",
                ),
                ("usr/lib/systemd/system/autovt@.service", "getty@.service"),
                (
                    "etc/systemd/system/dbus-org.freedesktop.login1.service",
                    "/usr/lib/systemd/system/systemd-logind.service",
                ),
                ("etc/systemd/system/masked.service", "/dev/null"),
                (
                    "etc/systemd/system/linked.service",
                    "/opt/app/linked.service",
                ),
                ("usr/lib/systemd/system/own.service", "other.service"),
                ("usr/lib/systemd/system/loop-a.service", "loop-b.service"),
                ("usr/lib/systemd/system/loop-b.service", "loop-a.service"),
                ("usr/lib/systemd/user/dbus.service", "dbus-broker.service"),
            ],
            &[
                "usr/lib/systemd/system/ssh.service",
                "usr/lib/systemd/system/getty@.service",
                "usr/lib/systemd/system/user@.service",
                "usr/lib/systemd/system/systemd-logind.service",
                // Wins over the link of the same name.
                "etc/systemd/system/own.service",
                "run/systemd/generator/dev-disk-by\\x2duuid-1.swap",
            ],
        );
        let units = Units::in_files(root.path());
        (root, units)
    }

    #[test]
    fn aliases_mean_the_unit_that_runs_whichever_is_written() {
        let (_root, units) = debian();
        for unit in ["ssh.service", "sshd.service", "secure-shell.service"] {
            let mut names = units.names(unit);
            assert_eq!(names[0], "ssh.service", "{unit}");
            names.sort();
            assert_eq!(
                names,
                ["secure-shell.service", "ssh.service", "sshd.service"],
                "{unit}"
            );
        }
        assert_eq!(
            units.names("dbus-org.freedesktop.login1.service")[0],
            "systemd-logind.service"
        );
        assert_eq!(units.names("dbus.service")[0], "dbus-broker.service");
    }

    #[test]
    fn a_link_that_comes_or_goes_is_seen_in_its_directory() {
        let (root, _) = debian();
        let link = root.path().join("etc/systemd/system/new.service");
        let before = FilesStamp::in_files(root.path());
        assert_eq!(FilesStamp::in_files(root.path()), before);
        symlink("ssh.service", &link).unwrap();
        let made = FilesStamp::in_files(root.path());
        assert_ne!(made, before);
        fs::remove_file(&link).unwrap();
        assert_ne!(FilesStamp::in_files(root.path()), made);
    }

    #[test]
    fn instances_and_templates_have_the_aliases_of_their_template() {
        let (_root, units) = debian();
        assert_eq!(
            units.names("autovt@tty1.service"),
            ["getty@tty1.service", "autovt@tty1.service"]
        );
        assert_eq!(
            units.names("getty@tty1.service"),
            ["getty@tty1.service", "autovt@tty1.service"]
        );
        assert_eq!(
            units.names("autovt@.service"),
            ["getty@*.service", "autovt@*.service"]
        );
    }

    #[test]
    fn a_pattern_that_matches_an_alias_means_the_unit_it_stands_for() {
        let units = Units::default().with_alias("sshd.service", "ssh.service");
        assert_eq!(
            units.names("sshd*.service"),
            ["sshd*.service", "ssh.service"]
        );
        assert_eq!(units.names("cron*.service"), ["cron*.service"]);
    }

    #[test]
    fn other_links_are_no_aliases() {
        let (_root, units) = debian();
        for unit in [
            "masked.service",
            "linked.service",
            "own.service",
            "none.service",
        ] {
            assert_eq!(units.names(unit), [unit], "{unit}");
        }
        // Whatever a loop means, it ends.
        assert!(units.names("loop-a.service").len() <= 2);
    }

    #[test]
    fn units_are_known_by_file_template_or_cgroup() {
        let (_root, units) = debian();
        let cgroups = [
            "",
            "/user.slice",
            "/user.slice/user-1000.slice",
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
            "/a.slice/a-b.slice",
            "/a.slice/a-b.slice/_cpu.service",
        ];
        let cgroups = cgroups.map(str::to_owned).into_iter().collect();
        let units = units.with_cgroups(cgroups, "/sys/fs/cgroup");
        for known in [
            "ssh.service",
            "sshd.service",
            "user-1000.slice",
            "user-.slice",
            "session-3.scope",
            "session-*.scope",
            "user@1000.service",
            "user@7.service",
            "user@.service",
            "app-x.scope",
            "a-b.slice",
            "cpu.service",
            "getty@tty*.service",
            "-.slice",
            r"dev-disk-by\x2duuid-1.swap",
        ] {
            assert!(units.knows(known), "{known}");
        }
        assert!(
            Units::default()
                .with_files(&["user-.slice.d"])
                .knows("user-.slice")
        );
        for unknown in [
            "shh.service",
            "user-1001.slice",
            "worker@.service",
            "w*.service",
        ] {
            assert!(!units.knows(unknown), "{unknown}");
        }
    }

    #[test]
    fn cgroups_have_one_spelling() {
        let cgroups = ["", "/app", "/app/web"].map(str::to_owned);
        let units = Units::default().with_cgroups(cgroups.into_iter().collect(), "/mnt/cg");
        for spelled in [
            "/app/web",
            "/app/web/",
            "//app//web",
            "/app/./web",
            "/app/other/../web",
            "/../app/web",
            "/mnt/cg/app/web",
            "/sys/fs/cgroup/app/web/",
            "/sys/fs/cgroup/unified/app/web",
        ] {
            assert_eq!(units.cgroup(spelled), "/app/web", "{spelled}");
            assert!(units.has_cgroup(&units.cgroup(spelled)), "{spelled}");
        }
        for root in ["/", "//", "/sys/fs/cgroup", "/mnt/cg/", "/app/.."] {
            assert_eq!(units.cgroup(root), "", "{root}");
        }
        assert_eq!(units.cgroup("/sys/fs/cgroupx"), "/sys/fs/cgroupx");
        assert!(!units.has_cgroup("/app/other"));
        // A cgroup of such a name is itself.
        let odd = ["", "/sys/fs/cgroup/a"].map(str::to_owned);
        let units = Units::default().with_cgroups(odd.into_iter().collect(), "/sys/fs/cgroup");
        assert_eq!(units.cgroup("/sys/fs/cgroup/a"), "/sys/fs/cgroup/a");
    }
}
