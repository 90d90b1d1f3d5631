//! The compiled policy in memory: the lists the decision function reads, and
//! the numbers that stand for units, cgroups and executables in it.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use port_monitor_common::{
    event::FileId,
    policy::{Accepts, Defaults, OwnerCondition, Peer, PortRange, Rule, Rules},
};

use crate::host::units::{self, ROOT_SLICE};

/// Owned lists behind [`Rules`].
#[derive(Debug, PartialEq)]
pub(crate) struct Tables {
    pub(crate) defaults: Defaults,
    /// [`Rules::judges_udp`].
    pub(crate) judges_udp: bool,
    pub(crate) rules: Vec<Rule>,
    pub(crate) ports: Vec<PortRange>,
    pub(crate) peers: Vec<Peer>,
    /// What rules ask of owners: uids, and the numbers of [`Scopes`].
    pub(crate) owners: Vec<u32>,
}

impl Tables {
    /// The length of all lists together, but for that of peers.
    pub(crate) const fn entries(&self) -> usize {
        self.ports.len() + self.owners.len()
    }

    pub(crate) fn view(&self) -> Rules<'_> {
        Rules {
            defaults: self.defaults,
            judges_udp: self.judges_udp,
            rules: &self.rules,
            ports: &self.ports,
            peers: &self.peers,
            owners: &self.owners,
        }
    }
}

/// Appends a rule's entries to the list of all rules; `None` is "any".
pub(crate) fn append<T>(list: &mut Vec<T>, entries: Option<Vec<T>>) -> Accepts {
    let Some(entries) = entries else {
        return Accepts::Any;
    };
    // Saturated numbers point past the end, where nothing matches.
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let accepts = Accepts::OneOf {
        start: number(list.len()),
        len: number(entries.len()),
    };
    list.extend(entries);
    accepts
}

/// Who a process is, beyond its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    /// systemd unit.
    pub(crate) unit: Option<&'a str>,
    /// cgroup v2 path with a leading slash.
    pub(crate) cgroup: Option<&'a str>,
    /// Executable path.
    pub(crate) exe: Option<&'a Path>,
    /// Which file that is; where it is known the path says nothing more.
    pub(crate) exe_id: Option<FileId>,
}

impl<'a> Owner<'a> {
    /// With this name for what the condition is about.
    #[must_use]
    pub(crate) fn with(self, condition: OwnerCondition, name: &'a str) -> Self {
        match condition {
            OwnerCondition::User => self,
            OwnerCondition::Unit => Self {
                unit: Some(name),
                ..self
            },
            OwnerCondition::Cgroup => Self {
                cgroup: Some(name),
                ..self
            },
            OwnerCondition::Exe => Self {
                exe: Some(Path::new(name)),
                ..self
            },
        }
    }

    /// The name that is known by the condition.
    pub(crate) fn name(&self, condition: OwnerCondition) -> Option<Cow<'a, str>> {
        match condition {
            OwnerCondition::User => None,
            OwnerCondition::Unit => self.unit.map(Cow::Borrowed),
            OwnerCondition::Cgroup => self.cgroup.map(Cow::Borrowed),
            OwnerCondition::Exe => self.exe.map(Path::to_string_lossy),
        }
    }
}

/// The units, cgroups and executables that rules name, numbered. What several names mean
/// has one number.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Scopes {
    /// A name may be that of several: of a unit, and of what a pattern matches by an alias.
    units: HashMap<String, Vec<u32>>,
    /// By the name that each runs under, or its pattern.
    unit_numbers: HashMap<String, u32>,
    /// Units that are patterns, which are among `units` too.
    patterns: Vec<(String, u32)>,
    /// The names of each unit, by its number.
    unit_names: HashMap<u32, Vec<String>>,
    cgroups: HashMap<String, u32>,
    /// Two paths of one file have one number.
    exes: HashMap<PathBuf, u32>,
    files: HashMap<FileId, u32>,
    /// By number.
    names: Vec<String>,
}

impl Scopes {
    /// The number of a unit of these names, the one it runs under first.
    pub(crate) fn unit(&mut self, names: &[String]) -> u32 {
        // By the first name alone: a pattern has names of other units among its own.
        let Some(id) = names.first() else {
            return number(&mut self.names, "");
        };
        let unit = match self.unit_numbers.get(id) {
            Some(&known) => known,
            None => number(&mut self.names, id),
        };
        self.unit_numbers.insert(id.clone(), unit);
        for name in names {
            self.name_unit(name, unit);
        }
        unit
    }

    /// Has the unit go by this name as well.
    fn name_unit(&mut self, name: &str, unit: u32) {
        let named = self.units.entry(name.to_owned()).or_default();
        if named.contains(&unit) {
            return;
        }
        named.push(unit);
        if name == ROOT_SLICE {
            // The first part of every path.
            self.units.entry(String::new()).or_default().push(unit);
        }
        if units::pattern(name).is_some() {
            self.patterns.push((name.to_owned(), unit));
        }
        let of_unit = self.unit_names.entry(unit).or_default();
        of_unit.push(name.to_owned());
    }

    /// The patterns of units.
    pub(crate) fn patterns(&self) -> Vec<String> {
        let patterns = self.patterns.iter();
        patterns.map(|(pattern, _)| pattern.clone()).collect()
    }

    pub(crate) const fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    /// The patterns of units and those of the slices that lie in units by their names:
    /// whoever is in one of these is in such a unit, where nothing but that is known.
    pub(crate) fn patterns_by_unit(&self) -> Vec<String> {
        let slices = self.units.keys();
        let below = slices.filter_map(|name| units::slices_below(name));
        self.patterns().into_iter().chain(below).collect()
    }

    /// A rule names the unit by this very name.
    pub(crate) fn is_unit_named(&self, name: &str) -> bool {
        self.units.contains_key(name)
    }

    /// A rule names the cgroup by its path.
    pub(crate) fn is_cgroup_named(&self, path: &str) -> bool {
        self.cgroups.contains_key(path)
    }

    /// What [`Scopes::unit`] was given for this number.
    pub(crate) fn unit_names(&self, unit: u32) -> &[String] {
        self.unit_names.get(&unit).map_or(&[], Vec::as_slice)
    }

    /// The names of each unit that rules name.
    pub(crate) fn units(&self) -> impl Iterator<Item = &[String]> {
        self.unit_names.values().map(Vec::as_slice)
    }

    pub(crate) fn cgroup(&mut self, path: &str) -> u32 {
        *self
            .cgroups
            .entry(path.to_owned())
            .or_insert_with(|| number(&mut self.names, path))
    }

    /// The number of an executable: of the file where it is known which one `path` names
    /// on this host, else of the path.
    pub(crate) fn exe(&mut self, path: &str, file: Option<FileId>) -> u32 {
        if let Some(&known) = self.exes.get(Path::new(path)) {
            return known;
        }
        let of_file = file.and_then(|file| self.files.get(&file)).copied();
        let number = of_file.unwrap_or_else(|| number(&mut self.names, path));
        self.exes.insert(path.into(), number);
        if let Some(file) = file {
            self.files.insert(file, number);
        }
        number
    }

    /// The number of what has this number among other scopes; `None` where nothing has.
    pub(crate) fn adopt(
        &mut self,
        from: &Self,
        condition: OwnerCondition,
        scope: u32,
    ) -> Option<u32> {
        Some(match condition {
            OwnerCondition::User => scope,
            OwnerCondition::Unit => self.unit(from.unit_names(scope)),
            OwnerCondition::Cgroup => self.cgroup(from.name(scope)?),
            OwnerCondition::Exe => {
                let path = from.name(scope)?;
                let other = from.exes.get(Path::new(path));
                let mut files = from.files.iter();
                let file = files.find(|(_, number)| Some(*number) == other);
                self.exe(path, file.map(|(&file, _)| file))
            }
        })
    }

    /// Some rule asks for a unit or a cgroup.
    pub(crate) fn has_cgroups(&self) -> bool {
        !self.units.is_empty() || !self.cgroups.is_empty()
    }

    /// The cgroups that rules name by their path.
    pub(crate) fn cgroups(&self) -> impl Iterator<Item = &str> {
        self.cgroups.keys().map(String::as_str)
    }

    /// The executables and their numbers.
    pub(crate) fn exes(&self) -> impl Iterator<Item = (&Path, u32)> {
        self.exes
            .iter()
            .map(|(path, &number)| (path.as_path(), number))
    }

    /// What the number stands for.
    pub(crate) fn name(&self, scope: u32) -> Option<&str> {
        let index = usize::try_from(scope).ok()?;
        self.names.get(index).map(String::as_str)
    }

    /// The numbers of everything `owner` belongs to: a cgroup holds its
    /// descendants, and a unit is a cgroup wherever it lies in the path.
    pub(crate) fn of(&self, owner: Owner<'_>) -> Vec<u32> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let path = owner.cgroup.map(|path| path.trim_end_matches('/'));
        let mut numbers = Vec::new();
        for part in path.into_iter().flat_map(|path| path.split('/')) {
            numbers.extend(self.units_named(units::unescaped(part)));
        }
        if let Some(unit) = owner.unit {
            numbers.extend(self.units_named(unit));
            let mut around = units::slices_around(unit);
            // Whatever is a unit is in the root slice, as the path tells where it is known.
            if path.is_none() && around.is_empty() {
                around.push(ROOT_SLICE.to_owned());
            }
            for slice in around {
                numbers.extend(self.units_named(&slice));
            }
        }
        let cgroups = path.into_iter().flat_map(ancestors);
        numbers.extend(cgroups.filter_map(|cgroup| self.cgroups.get(cgroup)));
        numbers.extend(match owner.exe_id {
            Some(file) => self.files.get(&file),
            None => owner.exe.and_then(|exe| self.exes.get(exe)),
        });
        numbers
    }

    /// The numbers of the units that a unit of this name is. No pattern means the root slice,
    /// whose name no directory has.
    fn units_named<'s>(&'s self, unit: &'s str) -> impl Iterator<Item = u32> + 's {
        let exact = self.units.get(unit).into_iter().flatten().copied();
        let patterns = self.patterns.iter().filter(move |_| unit != ROOT_SLICE);
        let matching = patterns.filter(move |(pattern, _)| units::matches(pattern, unit));
        exact.chain(matching.map(|(_, unit)| *unit))
    }
}

/// `/a/b`, `/a` and the root (the empty path) for `/a/b`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let parents = path.rmatch_indices('/').map(|(slash, _)| slash);
    [path.len()]
        .into_iter()
        .chain(parents)
        .filter_map(|end| path.get(..end))
}

fn number(names: &mut Vec<String>, name: &str) -> u32 {
    names.push(name.to_owned());
    // Saturated numbers name nothing; a file of 32 MiB has fewer.
    u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use crate::policy::rules::table::*;

    #[test]
    fn owner_is_in_its_unit_its_cgroups_and_its_executable() {
        let mut scopes = Scopes::default();
        let unit = scopes.unit(&["app.service".to_owned()]);
        let slice = scopes.unit(&["system.slice".to_owned()]);
        let parent = scopes.cgroup("/system.slice");
        let root = scopes.cgroup("");
        let exe = scopes.exe("/usr/bin/app", None);
        scopes.unit(&["other.service".to_owned()]);
        scopes.cgroup("/system");
        let mut of = scopes.of(Owner {
            cgroup: Some("/system.slice/app.service"),
            exe: Some(Path::new("/usr/bin/app")),
            ..Owner::default()
        });
        of.sort_unstable();
        assert_eq!(of, [unit, slice, parent, root, exe]);
    }

    #[test]
    fn same_name_has_the_same_number_and_kinds_do_not_mix() {
        let mut scopes = Scopes::default();
        let names = ["a.slice".to_owned()];
        let unit = scopes.unit(&names);
        assert_eq!(scopes.unit(&names), unit);
        assert_ne!(scopes.cgroup("a.slice"), unit);
        assert_eq!(scopes.name(unit), Some("a.slice"));
    }

    #[test]
    fn names_of_one_unit_have_one_number_and_patterns_match() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let mut scopes = Scopes::default();
        let ssh = scopes.unit(&names(&["ssh.service", "sshd.service"]));
        assert_eq!(scopes.unit(&names(&["ssh.service", "sshd.service"])), ssh);
        let worker = scopes.unit(&names(&["worker@*.service"]));
        let one = scopes.unit(&names(&["worker@1.service"]));
        let root = scopes.unit(&names(&["-.slice"]));
        let cpu = scopes.unit(&names(&["cpu.service"]));
        let of = |cgroup| {
            let mut found = scopes.of(Owner {
                cgroup: Some(cgroup),
                ..Owner::default()
            });
            found.sort_unstable();
            found
        };
        assert_eq!(of("/system.slice/ssh.service"), [ssh, root]);
        assert_eq!(of("/system.slice/worker@1.service"), [worker, one, root]);
        assert_eq!(of("/system.slice/worker@2.service/sub"), [worker, root]);
        assert_eq!(of("/system.slice/_cpu.service"), [root, cpu]);
        assert_eq!(of("/"), [root]);
        let owner = Owner {
            unit: Some("sshd.service"),
            ..Owner::default()
        };
        assert_eq!(scopes.of(owner), [ssh, root]);
        let nested = scopes.unit(&names(&["a-b.slice"]));
        let owner = Owner {
            unit: Some("a-b-c.slice"),
            ..Owner::default()
        };
        assert_eq!(scopes.of(owner), [nested, root]);
    }

    #[test]
    fn a_pattern_that_an_alias_matches_is_not_the_unit_of_the_alias() {
        let ssh = ["ssh.service", "sshd.service"].map(str::to_owned);
        let pattern = ["sshd*.service", "ssh.service"].map(str::to_owned);
        for is_pattern_first in [false, true] {
            let mut scopes = Scopes::default();
            let early = is_pattern_first.then(|| scopes.unit(&pattern));
            let unit = scopes.unit(&ssh);
            let by_pattern = early.unwrap_or_else(|| scopes.unit(&pattern));
            let of = |unit| {
                let mut found = scopes.of(Owner {
                    unit: Some(unit),
                    ..Owner::default()
                });
                found.sort_unstable();
                found.dedup();
                found
            };
            let both = [unit.min(by_pattern), unit.max(by_pattern)];
            assert_eq!(of("sshd-session.service"), [by_pattern]);
            assert_eq!(of("ssh.service"), both);
            assert_eq!(of("sshd.service"), both);
        }
    }

    #[test]
    fn executable_is_the_file_where_it_is_known_and_else_the_path() {
        let file = |inode| FileId { device: 1, inode };
        let mut scopes = Scopes::default();
        let tool = scopes.exe("/bin/tool", Some(file(7)));
        assert_eq!(scopes.exe("/usr/bin/tool", Some(file(7))), tool);
        let elsewhere = scopes.exe("/opt/tool", None);
        assert_ne!(elsewhere, tool);
        let of = |path: &str, exe_id| {
            scopes.of(Owner {
                exe: Some(Path::new(path)),
                exe_id,
                ..Owner::default()
            })
        };
        assert_eq!(of("/srv/any/name", Some(file(7))), [tool]);
        assert!(of("/bin/tool", Some(file(8))).is_empty());
        assert!(of("/opt/tool", Some(file(8))).is_empty());
        assert_eq!(of("/usr/bin/tool", None), [tool]);
        assert_eq!(of("/opt/tool", None), [elsewhere]);
    }

    #[test]
    fn unknown_owner_is_in_no_scope() {
        let mut scopes = Scopes::default();
        scopes.cgroup("");
        assert!(scopes.of(Owner::default()).is_empty());
    }
}
