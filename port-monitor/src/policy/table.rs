//! The compiled policy in memory: the lists the decision function reads, and
//! the numbers that stand for units, cgroups and executables in it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use port_monitor_common::policy::{Accepts, Defaults, Peer, PortRange, Rule, Rules};

/// Owned lists behind [`Rules`].
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) defaults: Defaults,
    /// [`Rules::judges_udp`].
    pub(super) judges_udp: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) ports: Vec<PortRange>,
    pub(super) peers: Vec<Peer>,
    pub(super) uids: Vec<u32>,
    pub(super) scopes: Vec<u32>,
}

impl Tables {
    /// The length of all lists together.
    pub(super) const fn entries(&self) -> usize {
        self.ports.len() + self.peers.len() + self.uids.len() + self.scopes.len()
    }

    pub(super) fn view(&self) -> Rules<'_> {
        Rules {
            defaults: self.defaults,
            judges_udp: self.judges_udp,
            rules: &self.rules,
            ports: &self.ports,
            peers: &self.peers,
            uids: &self.uids,
            scopes: &self.scopes,
        }
    }
}

/// Appends a rule's entries to the list of all rules; `None` is "any".
pub(super) fn append<T>(list: &mut Vec<T>, entries: Option<Vec<T>>) -> Accepts {
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
pub(super) struct Owner<'a> {
    /// systemd unit.
    pub(super) unit: Option<&'a str>,
    /// cgroup v2 path with a leading slash.
    pub(super) cgroup: Option<&'a str>,
    /// Executable path.
    pub(super) exe: Option<&'a Path>,
}

/// The units, cgroups and executables that rules name, numbered.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    units: HashMap<String, u32>,
    cgroups: HashMap<String, u32>,
    exes: HashMap<PathBuf, u32>,
    /// By number.
    names: Vec<String>,
}

impl Scopes {
    pub(super) fn unit(&mut self, name: &str) -> u32 {
        *self
            .units
            .entry(name.to_owned())
            .or_insert_with(|| number(&mut self.names, name))
    }

    pub(super) fn cgroup(&mut self, path: &str) -> u32 {
        *self
            .cgroups
            .entry(path.to_owned())
            .or_insert_with(|| number(&mut self.names, path))
    }

    pub(super) fn exe(&mut self, path: &str) -> u32 {
        *self
            .exes
            .entry(path.into())
            .or_insert_with(|| number(&mut self.names, path))
    }

    /// Some rule asks for a unit or a cgroup.
    pub(super) fn has_cgroups(&self) -> bool {
        !self.units.is_empty() || !self.cgroups.is_empty()
    }

    /// The executables and their numbers.
    pub(super) fn exes(&self) -> impl Iterator<Item = (&Path, u32)> {
        self.exes
            .iter()
            .map(|(path, &number)| (path.as_path(), number))
    }

    /// What the number stands for.
    pub(super) fn name(&self, scope: u32) -> Option<&str> {
        let index = usize::try_from(scope).ok()?;
        self.names.get(index).map(String::as_str)
    }

    /// The numbers of everything `owner` belongs to: a cgroup holds its
    /// descendants, and a unit is a cgroup wherever it lies in the path.
    pub(super) fn of(&self, owner: Owner<'_>) -> Vec<u32> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let path = owner.cgroup.map(|path| path.trim_end_matches('/'));
        let components = path.into_iter().flat_map(|path| path.split('/'));
        let units = components
            .chain(owner.unit)
            .filter_map(|unit| self.units.get(unit));
        let cgroups = path
            .into_iter()
            .flat_map(ancestors)
            .filter_map(|cgroup| self.cgroups.get(cgroup));
        let exe = owner.exe.and_then(|exe| self.exes.get(exe));
        units.chain(cgroups).chain(exe).copied().collect()
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
    // Saturated numbers name nothing; a file of 1 MiB has fewer.
    u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_in_its_unit_its_cgroups_and_its_executable() {
        let mut scopes = Scopes::default();
        let unit = scopes.unit("app.service");
        let slice = scopes.unit("system.slice");
        let parent = scopes.cgroup("/system.slice");
        let root = scopes.cgroup("");
        let exe = scopes.exe("/usr/bin/app");
        scopes.unit("other.service");
        scopes.cgroup("/system");
        let mut of = scopes.of(Owner {
            unit: None,
            cgroup: Some("/system.slice/app.service"),
            exe: Some(Path::new("/usr/bin/app")),
        });
        of.sort_unstable();
        assert_eq!(of, [unit, slice, parent, root, exe]);
    }

    #[test]
    fn same_name_has_the_same_number_and_kinds_do_not_mix() {
        let mut scopes = Scopes::default();
        let unit = scopes.unit("a.slice");
        assert_eq!(scopes.unit("a.slice"), unit);
        assert_ne!(scopes.cgroup("a.slice"), unit);
        assert_eq!(scopes.name(unit), Some("a.slice"));
    }

    #[test]
    fn unknown_owner_is_in_no_scope() {
        let mut scopes = Scopes::default();
        scopes.cgroup("");
        assert!(scopes.of(Owner::default()).is_empty());
    }
}
