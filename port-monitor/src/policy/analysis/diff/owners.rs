//! The owners that tell two rules from all others: whoever both rules match is in all the
//! scopes of one of these, which is one that may be.

use std::collections::{BTreeMap, BTreeSet};

use port_monitor_common::policy::{OwnerCondition, Rule};

use super::{Comparison, TooManyOverlaps, Who, names};
use crate::{
    base::order,
    host::units::{self, ROOT_SLICE},
    policy::rules::table::Owner,
};

/// Owners of one pair of rules that are compared with each other; of more, some may be told
/// that others hold.
const MAX_COMPARED: usize = 2_048;

/// One owner, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    unit: Option<String>,
    cgroup: Option<String>,
    singles: Singles,
}

/// What an owner is in one of at most, by name.
type Singles = BTreeMap<OwnerCondition, String>;

impl Named {
    /// A thread of the kernel runs no executable. The unit it is in is told by its cgroup.
    fn may_be_the_kernel(&self) -> bool {
        self.unit.is_none() && !self.singles.contains_key(&OwnerCondition::Exe)
    }

    pub(crate) fn owner(&self) -> Owner<'_> {
        let placed = Owner {
            unit: self.unit.as_deref(),
            cgroup: self.cgroup.as_deref(),
            ..Owner::default()
        };
        let singles = self.singles.iter();
        singles.fold(placed, |owner, (&condition, name)| {
            owner.with(condition, name)
        })
    }
}

/// An owner, what the two rules ask of it, and the scopes it is in.
pub(crate) struct Candidate {
    pub(crate) who: Who,
    pub(crate) named: Named,
    pub(crate) scopes: BTreeSet<u32>,
}

/// Of two lists of what rules ask, each two that one owner may be in. What is in both
/// lists stands for all that it is in with others.
fn pairs(a: Option<&[u32]>, b: Option<&[u32]>) -> Vec<Vec<u32>> {
    let (a, b) = match (a, b) {
        (None, None) => return vec![Vec::new()],
        (Some(list), None) | (None, Some(list)) => {
            return list.iter().map(|&scope| vec![scope]).collect();
        }
        (Some(a), Some(b)) => (a, b),
    };
    let [a, b] = [a, b].map(|list| order::set(list.iter().copied()));
    let both = a.intersection(&b).map(|&scope| vec![scope]);
    let only_b: Vec<u32> = b.difference(&a).copied().collect();
    let apart = a.difference(&b);
    let apart = apart.flat_map(|&a| only_b.iter().map(move |&b| vec![a, b]));
    both.chain(apart).collect()
}

/// Each of these with each of the names.
fn combined(all: &[Singles], condition: OwnerCondition, names: &[Option<&str>]) -> Vec<Singles> {
    let with = |singles: &Singles, name: Option<&str>| {
        let mut singles = singles.clone();
        singles.extend(name.map(|name| (condition, name.to_owned())));
        singles
    };
    let each = |singles| names.iter().map(move |name| with(singles, *name));
    all.iter().flat_map(each).collect()
}

impl Comparison {
    /// The owners whom both rules match and who are in the fewest scopes; of the kernel
    /// itself, those that a thread of it may be.
    pub(crate) fn owners(
        &self,
        [a, b]: [&Rule; 2],
        kernel: Option<bool>,
    ) -> Result<Vec<Candidate>, TooManyOverlaps> {
        let list = |rule: &Rule, of| rule.owner(of).of(&self.tables.owners);
        let count = |rule: &Rule, of| list(rule, of).map_or(1, <[u32]>::len);
        let lists = |of| (list(a, of), list(b, of));
        let by_unit = count(a, OwnerCondition::Unit);
        self.spend(by_unit.saturating_mul(count(b, OwnerCondition::Unit)))?;
        let (of_a, of_b) = lists(OwnerCondition::Unit);
        let units = pairs(of_a, of_b);
        let (of_a, of_b) = lists(OwnerCondition::Cgroup);
        let cgroups = self.common_cgroups(of_a, of_b);
        let mut singles = vec![Singles::new()];
        for condition in OwnerCondition::singles() {
            let (of_a, of_b) = lists(condition);
            let names = self.common_names(of_a, of_b);
            singles = combined(&singles, condition, &names);
        }
        // Of one owner: its scopes are looked up and compared with what the two rules ask.
        let asked = OwnerCondition::scopes().map(|of| count(a, of) + count(b, of));
        let cost = 100 + asked.sum::<usize>() + 20 * self.scopes.pattern_count();
        let mut found = Vec::new();
        for cgroup in &cgroups {
            for units in &units {
                for named in self.named(*cgroup, units)? {
                    self.spend(cost.saturating_mul(singles.len()))?;
                    let who = self.who(*cgroup, units);
                    let singles = singles.iter();
                    found.extend(
                        singles.map(|singles| self.candidate(&who, named.clone(), singles)),
                    );
                }
            }
        }
        let in_scope = |candidate: &Candidate, rule: &Rule| {
            let mut asked = OwnerCondition::scopes().filter_map(|of| list(rule, of));
            asked.all(|scopes| {
                let mut scopes = scopes.iter();
                scopes.any(|scope| candidate.scopes.contains(scope))
            })
        };
        found.retain(|candidate| {
            (kernel != Some(true) || candidate.named.may_be_the_kernel())
                && in_scope(candidate, a)
                && in_scope(candidate, b)
        });
        self.least(found)
    }

    fn names_of(&self, scopes: &[u32]) -> Vec<Option<&str>> {
        let scopes = scopes.iter();
        scopes.map(|&scope| self.scopes.name(scope)).collect()
    }

    /// The names in both lists; one that is none where both take any.
    fn common_names(&self, a: Option<&[u32]>, b: Option<&[u32]>) -> Vec<Option<&str>> {
        match (a, b) {
            (None, None) => vec![None],
            (Some(list), None) | (None, Some(list)) => self.names_of(list),
            (Some(a), Some(b)) => {
                let b = order::set(b.iter().copied());
                let both: Vec<u32> = a
                    .iter()
                    .copied()
                    .filter(|scope| b.contains(scope))
                    .collect();
                self.names_of(&both)
            }
        }
    }

    fn candidate(&self, who: &Who, named: Named, singles: &Singles) -> Candidate {
        let who = Who {
            singles: singles.clone(),
            ..who.clone()
        };
        let named = Named {
            singles: singles.clone(),
            ..named
        };
        let scopes = self.scopes.of(named.owner()).into_iter().collect();
        Candidate { who, named, scopes }
    }

    /// Those that hold no other: what is in their scopes is in those of the other.
    fn least(&self, mut found: Vec<Candidate>) -> Result<Vec<Candidate>, TooManyOverlaps> {
        order::sort_by_key(&mut found, |candidate| candidate.scopes.len());
        if found.len() > MAX_COMPARED {
            return Ok(found);
        }
        let mut least: Vec<Candidate> = Vec::new();
        for candidate in found {
            self.spend(least.len())?;
            let mut smaller = least.iter();
            if !smaller.any(|other| other.scopes.is_subset(&candidate.scopes)) {
                least.push(candidate);
            }
        }
        Ok(least)
    }

    /// The outermost cgroups that lie in one of each list.
    fn common_cgroups(&self, a: Option<&[u32]>, b: Option<&[u32]>) -> Vec<Option<&str>> {
        let (a, b) = match (a, b) {
            (None, None) => return vec![None],
            (Some(list), None) | (None, Some(list)) => (list, list),
            (Some(a), Some(b)) => (a, b),
        };
        let [a, b] = [a, b].map(|list| {
            let names = self.names_of(list).into_iter();
            order::set(names.flatten())
        });
        let lies_in = |path: &str, set: &BTreeSet<&str>| {
            let mut ends = path.match_indices('/').map(|(at, _)| at);
            set.contains(path) || ends.any(|end| set.contains(&path[..end]))
        };
        let both = a.union(&b).copied();
        let both = order::set(both.filter(|path| lies_in(path, &a) && lies_in(path, &b)));
        let is_outermost = |path: &&str| {
            let mut ends = path.match_indices('/').map(|(at, _)| at);
            !ends.any(|end| both.contains(&path[..end]))
        };
        both.iter()
            .copied()
            .filter(is_outermost)
            .map(Some)
            .collect()
    }

    /// What is told of the owner.
    fn who(&self, cgroup: Option<&str>, units: &[u32]) -> Who {
        let names = units.iter().filter_map(|&unit| self.scopes.name(unit));
        let mut names = order::set(names);
        // Whatever is a unit, or is in a cgroup, is in the root slice.
        if names.len() > 1 || cgroup.is_some() {
            names.remove(ROOT_SLICE);
        }
        let names = narrowest(names).into_iter();
        Who {
            units: names.map(str::to_owned).collect(),
            cgroup: cgroup.map(str::to_owned),
            singles: Singles::new(),
        }
    }

    /// The owners in that cgroup, or in whatever one, and in these units.
    fn named(&self, cgroup: Option<&str>, units: &[u32]) -> Result<Vec<Named>, TooManyOverlaps> {
        let mut found = Vec::new();
        if cgroup.is_none() {
            if units.is_empty() {
                return Ok(vec![Named::default()]);
            }
            found.extend(self.known_by_unit(units)?.into_iter().map(|unit| Named {
                unit: Some(unit),
                ..Named::default()
            }));
        }
        let cgroup = cgroup.unwrap_or_default();
        let around = {
            let cgroup = Some(cgroup);
            let of = self.scopes.of(Owner {
                cgroup,
                ..Owner::default()
            });
            order::set(of)
        };
        // What the cgroup itself is not in are cgroups below it, one in the other.
        let mut paths: Vec<Vec<String>> = vec![Vec::new()];
        for unit in units.iter().filter(|unit| !around.contains(unit)) {
            let directories = self.directories(*unit)?;
            let longer = paths.iter().flat_map(|path| {
                let directories = directories.iter();
                directories.map(|directory| [&path[..], std::slice::from_ref(directory)].concat())
            });
            paths = longer.collect();
        }
        // As systemd has it, units are in slices.
        for path in &mut paths {
            order::sort_by_key(path, |directory| directory.strip_suffix(".slice").is_none());
        }
        found.extend(paths.iter().map(|path| Named {
            cgroup: Some(self.below(cgroup, path)),
            ..Named::default()
        }));
        Ok(found)
    }

    /// The directories, one in the other, in no cgroup that a rule names but those around.
    fn below(&self, cgroup: &str, directories: &[String]) -> String {
        let mut between = String::new();
        loop {
            let mut path = format!("{cgroup}{between}");
            let mut is_free = between.is_empty() || !self.scopes.is_cgroup_named(&path);
            for directory in directories {
                path = format!("{path}/{directory}");
                is_free &= !self.scopes.is_cgroup_named(&path);
            }
            if is_free {
                return path;
            }
            between = if between.is_empty() {
                "/x".to_owned()
            } else {
                between + "x"
            };
        }
    }

    /// Directories of the unit, as few others as can be meant by them.
    fn directories(&self, unit: u32) -> Result<Vec<String>, TooManyOverlaps> {
        if let Some(known) = self.directories.borrow().get(&unit) {
            return Ok(known.clone());
        }
        let mut directories = Vec::new();
        for name in self.scopes.unit_names(unit) {
            if name == ROOT_SLICE {
                // It has no directory.
            } else if is_pattern(name) {
                directories.extend(self.least_names(&[name], &self.scopes.patterns())?);
            } else {
                directories.push(name.clone());
            }
        }
        // systemd writes `_` before a name that begins with it.
        for directory in &mut directories {
            if directory.starts_with('_') {
                directory.insert(0, '_');
            }
        }
        let mut known = self.directories.borrow_mut();
        known.insert(unit, directories.clone());
        Ok(directories)
    }

    /// Units of whose owners nothing more is known, that are all of these: themselves, or
    /// by the slices that a slice lies in by its name.
    fn known_by_unit(&self, units: &[u32]) -> Result<Vec<String>, TooManyOverlaps> {
        let is_root = |unit: &u32| self.scopes.name(*unit) == Some(ROOT_SLICE);
        let asked: Vec<u32> = units
            .iter()
            .copied()
            .filter(|unit| !is_root(unit))
            .collect();
        if let Some(known) = self.known_by_unit.borrow().get(&asked) {
            return Ok(known.clone());
        }
        let names = |unit: u32| self.scopes.unit_names(unit).iter().map(String::as_str);
        let mut found = BTreeSet::new();
        match asked[..] {
            [] => _ = found.insert(ROOT_SLICE.to_owned()),
            [unit] => {
                for name in names(unit) {
                    found.extend(self.known_as(&[name])?);
                }
            }
            _ => {
                for a in names(asked[0]) {
                    for b in names(asked[1]) {
                        found.extend(self.known_as(&[a, b])?);
                        for (outer, inner) in [(a, b), (b, a)] {
                            if let Some(below) = units::slices_below(outer) {
                                found.extend(self.known_as(&[&below, inner])?);
                            }
                        }
                    }
                }
            }
        }
        let found: Vec<String> = found.into_iter().collect();
        let mut known = self.known_by_unit.borrow_mut();
        known.insert(asked, found.clone());
        Ok(found)
    }

    /// Names that all of these match.
    fn known_as(&self, required: &[&str]) -> Result<Vec<String>, TooManyOverlaps> {
        if let &[a, b] = required
            && !names::may_meet(a, b)
        {
            return Ok(Vec::new());
        }
        match required.iter().find(|name| !is_pattern(name)) {
            Some(name) => {
                let is_one = |other: &&str| other == name || is_matched(other, name);
                let is_one = required.iter().all(is_one);
                Ok(is_one.then(|| (*name).to_owned()).into_iter().collect())
            }
            None => self.least_names(required, &self.scopes.patterns_by_unit()),
        }
    }

    fn least_names(
        &self,
        required: &[&str],
        others: &[String],
    ) -> Result<Vec<String>, TooManyOverlaps> {
        names::least(
            required,
            others,
            |name| self.scopes.is_unit_named(name),
            |work| self.spend(work),
        )
    }
}

/// What `Comparison` has found of units.
pub(crate) type Found<K> = std::cell::RefCell<BTreeMap<K, Vec<String>>>;

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

fn is_matched(pattern: &str, name: &str) -> bool {
    is_pattern(pattern) && units::matches(pattern, name)
}

/// The units without the patterns that match others of them: who is in those others is in
/// these, also where no cgroup is known.
fn narrowest(units: BTreeSet<&str>) -> BTreeSet<&str> {
    let all = units.clone();
    let is_implied = |unit: &str| {
        let others = all.iter().filter(|other| **other != unit);
        let mut narrower = others.filter(|other| units::matches(unit, other));
        narrower.any(|other| unit < *other || !units::matches(other, unit))
    };
    units.into_iter().filter(|unit| !is_implied(unit)).collect()
}
