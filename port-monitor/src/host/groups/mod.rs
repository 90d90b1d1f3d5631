//! The cgroups that `--cgroup` and `--unit` mean, whether they are there yet or not: by
//! their names, so that those which come later are meant too. Pure.

use std::{collections::BTreeMap, iter, mem, path::Path};

use port_monitor_common::groups::{ANYWHERE, ROOT, Row};

use crate::host::units;

mod automaton;

/// What was asked for: any of it will do, and whatever lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Vec<Group>);

/// A cgroup, or those of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// As people are told of it: `unit web.service`.
    pub label: String,
    /// Which cgroups are meant.
    pub meant: Meant,
}

/// Which cgroups are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// The one at this path, with a leading slash; the root's is empty.
    Path(String),
    /// Those of a unit of one of these names, or of one that such a pattern matches.
    Units(Vec<String>),
}

impl Meant {
    /// Whether the cgroup at `path` is meant, those below it left aside.
    fn is_at(&self, path: &str) -> bool {
        match self {
            Self::Path(meant) => meant == path,
            Self::Units(names) => {
                let directory = path.rsplit('/').next().unwrap_or_default();
                let unit = units::unescaped(directory);
                names.iter().any(|name| is_named(name, unit))
            }
        }
    }
}

/// The path with a slash before it; the root's is empty.
fn slashed(path: &Path) -> Option<String> {
    let path = path.to_str()?;
    Some(if path.is_empty() {
        String::new()
    } else {
        format!("/{path}")
    })
}

fn is_named(name: &str, unit: &str) -> bool {
    match units::pattern(name) {
        Some(pattern) => units::matches(&pattern, unit),
        None => name == unit,
    }
}

/// A name that the kernel side is to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The node it lies in, or [`ANYWHERE`].
    pub(crate) node: u64,
    /// The directory's name.
    pub(crate) name: String,
    /// The node for the names below it, or [`ROOT`].
    pub(crate) below: u64,
    /// The cgroup itself is meant.
    pub(crate) is_meant: bool,
    /// The path, where it has a node.
    pub(crate) path: String,
}

impl Groups {
    /// Of these.
    pub fn new(groups: Vec<Group>) -> Self {
        Self(groups)
    }

    /// Nothing was asked for.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was asked for.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.0.iter()
    }

    /// Whether a cgroup at `path` is meant, or one that it lies in. The path has a leading
    /// slash, the root's may be one or empty.
    pub fn cover(&self, path: &str) -> bool {
        let mut around = iter::successors(Some(path.trim_end_matches('/')), |path| {
            path.rsplit_once('/').map(|(around, _)| around)
        });
        around.any(|path| self.0.iter().any(|group| group.meant.is_at(path)))
    }

    /// What is not there, by its labels. `walk` visits each cgroup with its id and its path
    /// without a leading slash.
    pub(crate) fn missing(&self, walk: impl FnOnce(&mut dyn FnMut(u64, &Path))) -> Vec<String> {
        let mut missing: Vec<&Group> = self.0.iter().collect();
        walk(&mut |_, path| {
            if let Some(path) = slashed(path) {
                missing.retain(|group| !group.meant.is_at(&path));
            }
        });
        missing.iter().map(|group| group.label.clone()).collect()
    }

    /// The ids of the cgroups that are there and meant, without those below them.
    pub(crate) fn ids(&self, walk: impl FnOnce(&mut dyn FnMut(u64, &Path))) -> Vec<u64> {
        let mut ids = Vec::new();
        walk(&mut |id, path| {
            let is_meant = |path: String| self.0.iter().any(|group| group.meant.is_at(&path));
            if slashed(path).is_some_and(is_meant) {
                ids.push(id);
            }
        });
        ids
    }

    /// The names to look for; those of a node come after the one it belongs to.
    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        let mut names = Vec::new();
        let mut nodes = ROOT;
        for group in &self.0 {
            match &group.meant {
                Meant::Path(path) => {
                    let mut node = ROOT;
                    let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
                    for end in ends.chain([path.len()]).filter(|&end| end > 0) {
                        let Some((_, name)) = path[..end].rsplit_once('/') else {
                            continue;
                        };
                        let entry = wanted.entry(path[..end].to_owned());
                        let entry = entry.or_insert_with(|| Wanted {
                            node,
                            name: name.to_owned(),
                            below: ROOT,
                            is_meant: false,
                            path: path[..end].to_owned(),
                        });
                        if end == path.len() {
                            entry.is_meant = true;
                        } else if entry.below == ROOT {
                            nodes += 1;
                            entry.below = nodes;
                        }
                        node = entry.below;
                    }
                }
                Meant::Units(units) => {
                    names.extend(units.iter().filter(|unit| units::pattern(unit).is_none()));
                }
            }
        }
        let directories = names.into_iter().flat_map(|unit| directories(unit));
        let of_units = directories.map(|name| (name.clone(), name));
        let of_units: BTreeMap<String, String> = of_units.collect();
        let of_units = of_units.into_values().map(|name| Wanted {
            node: ANYWHERE,
            name,
            below: ROOT,
            is_meant: true,
            path: String::new(),
        });
        let mut wanted: Vec<_> = mem::take(&mut wanted).into_values().collect();
        wanted.extend(of_units);
        wanted
    }

    /// The automaton that knows the names which the patterns match; `None` where they
    /// are too many.
    pub(crate) fn rows(&self) -> Option<Vec<Row>> {
        automaton::rows(&self.patterns().collect::<Vec<_>>())
    }

    /// There are patterns of units among them.
    pub(crate) fn has_patterns(&self) -> bool {
        self.patterns().next().is_some()
    }

    fn patterns(&self) -> impl Iterator<Item = String> {
        let units = self.0.iter().filter_map(|group| match &group.meant {
            Meant::Units(units) => Some(units),
            Meant::Path(_) => None,
        });
        units.flatten().filter_map(|unit| units::pattern(unit))
    }
}

/// The names that the directory of a unit's cgroup may have. systemd puts `_` before some,
/// and always before one that begins with it.
fn directories(unit: &str) -> impl Iterator<Item = String> {
    let plain = (!unit.starts_with('_')).then(|| unit.to_owned());
    plain.into_iter().chain([format!("_{unit}")])
}

#[cfg(test)]
mod tests {
    use crate::host::groups::*;

    fn path(path: &str) -> Group {
        Group {
            label: format!("cgroup {path}"),
            meant: Meant::Path(path.to_owned()),
        }
    }

    fn unit(names: &[&str]) -> Group {
        Group {
            label: format!("unit {}", names[0]),
            meant: Meant::Units(names.iter().map(|&name| name.to_owned()).collect()),
        }
    }

    #[test]
    fn what_lies_in_a_cgroup_that_is_meant_is_meant_too() {
        let groups = Groups::new(vec![path("/a/b"), unit(&["web.service", "w@*.service"])]);
        for covered in [
            "/a/b",
            "/a/b/",
            "/a/b/c/d",
            "/x/web.service",
            "/x/_web.service/payload",
            r"/x/w@a\x2db.service",
        ] {
            assert!(groups.cover(covered), "{covered}");
        }
        for other in [
            "",
            "/",
            "/a",
            "/a/bc",
            "/x/web.servicex",
            "/x/__web.service",
            "/b",
        ] {
            assert!(!groups.cover(other), "{other}");
        }
        assert!(Groups::new(vec![path("")]).cover("/"));
        assert!(Groups::new(vec![path("")]).cover("/anything"));
    }

    #[test]
    fn places_are_nodes_of_one_tree() {
        let groups = Groups::new(vec![path("/a/b/c"), path("/a/b"), path("/a/d"), path("")]);
        let wanted = groups.wanted();
        let told: Vec<_> = wanted
            .iter()
            .map(|w| {
                (
                    w.path.as_str(),
                    w.node,
                    w.name.as_str(),
                    w.below,
                    w.is_meant,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("/a", ROOT, "a", 1, false),
                ("/a/b", 1, "b", 2, true),
                ("/a/b/c", 2, "c", ROOT, true),
                ("/a/d", 1, "d", ROOT, true),
            ]
        );
        // In whatever order.
        let groups = Groups::new(vec![path("/a/b"), path("/a/b/c")]);
        let wanted = groups.wanted();
        let inner = wanted.iter().find(|w| w.path == "/a/b/c").unwrap();
        let outer = wanted.iter().find(|w| w.path == "/a/b").unwrap();
        assert_eq!(inner.node, outer.below);
        assert!(outer.is_meant && inner.is_meant && outer.below != ROOT);
    }

    #[test]
    fn units_are_looked_for_by_each_name_of_their_directories() {
        let groups = Groups::new(vec![unit(&["a.service", "_b.service", "c@.service"])]);
        let names: Vec<_> = groups.wanted().into_iter().map(|w| w.name).collect();
        assert_eq!(names, ["__b.service", "_a.service", "a.service"]);
    }
}
