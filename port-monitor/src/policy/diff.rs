//! What two policies decide differently, exactly: every connection that one
//! allows and the other denies is in a [`Difference`], and no other.
//!
//! A connection is decided by one rule of each policy. For each two rules that
//! disagree, what both match forms a box, owners × uids × ports × peers; what
//! earlier rules of either policy leave of it is the difference. Defaults are
//! rules here, the last ones. Owners need no more scopes than both rules ask for:
//! in further ones, only further rules match.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use port_monitor_common::policy::{
    Accepts, Action, Direction, MAX_RULES, PortRange, Rule, Rules, Transport,
};
use thiserror::Error;

use super::{
    Policy, Reason,
    cells::{self, Interval, RuleSet},
    overlap::{self, Witness},
    peer_set::PeerSet,
    table::{Owner, Scopes, Tables},
    value,
};
use crate::units;

mod side;

use side::{Entry, Side};

/// Comparisons of two rules before the search gives up: a few seconds.
const BUDGET: usize = 200_000_000;

/// The policies have too many overlapping rules.
#[derive(Debug, Error)]
#[error("too many rules overlap to compare the policies")]
pub struct TooManyOverlaps;

/// Connections that one rule of each policy decides, differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Of the connections.
    pub direction: Direction,
    /// First and last, as [`Transport::port`] names them; port 0 is one that is not known.
    pub ports: Vec<(u32, u32)>,
    /// Who is at the other end.
    pub peers: PeerSet,
    /// Of the owner.
    pub uids: Uids,
    /// What the two rules ask of the owner besides.
    pub who: Who,
    /// Only of the kernel itself, or only of anybody else; `None` is either.
    pub kernel: Option<bool>,
    /// They differ from then on, ns since the Unix epoch; `None` is now.
    pub from_ns: Option<i64>,
    /// They differ until then; `None` is for ever.
    pub until_ns: Option<i64>,
    /// What the second policy does; the first does the other.
    pub action: Action,
    /// What decides in each policy.
    pub by: [Reason; 2],
    /// One of the connections, as `policy explain` takes it.
    pub witness: String,
}

/// Uids, and owners without a known one, which are like those nobody names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uids {
    /// Only these.
    Only(Vec<u32>),
    /// All but these.
    AllBut(Vec<u32>),
}

/// An owner beyond its uid; `None` and none are any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// In all of these systemd units.
    pub units: BTreeSet<String>,
    /// In this cgroup.
    pub cgroup: Option<String>,
    /// Running this.
    pub exe: Option<String>,
}

impl Policy {
    /// What `other` decides differently from now on.
    pub fn diff(&self, other: &Self, now_ns: i128) -> Result<Vec<Difference>, TooManyOverlaps> {
        let mut tables = Tables {
            rules: Vec::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            uids: Vec::new(),
            scopes: Vec::new(),
            defaults: self.tables.defaults,
            judges_udp: self.tables.judges_udp || other.tables.judges_udp,
        };
        let mut scopes = Scopes::default();
        let sides = [self, other].map(|policy| Side::adopt(policy, &mut tables, &mut scopes));
        let comparison = Comparison {
            sides,
            tables,
            scopes,
            budget: Cell::new(BUDGET),
        };
        comparison.over_time(value::saturating_ns(now_ns))
    }
}

struct Comparison {
    sides: [Side; 2],
    /// The lists of both policies.
    tables: Tables,
    scopes: Scopes,
    budget: Cell<usize>,
}

/// What is left of the box of two rules, as one box of several.
struct Part {
    uids: Uids,
    ports: Vec<Interval>,
    peers: PeerSet,
}

impl Comparison {
    /// The differences of every stretch of time in which no rule ends.
    fn over_time(&self, now_ns: i64) -> Result<Vec<Difference>, TooManyOverlaps> {
        let rules = self.sides.iter().flat_map(|side| &side.rules);
        let ends = rules.map(|entry| entry.rule.until_ns);
        let ends: BTreeSet<i64> = ends.filter(|&end| end > now_ns && end < i64::MAX).collect();
        let starts: Vec<i64> = [now_ns].into_iter().chain(ends).collect();
        let mut all: Vec<Difference> = Vec::new();
        for (index, &start) in starts.iter().enumerate() {
            let until_ns = starts.get(index + 1).copied();
            for direction in Direction::ALL {
                for found in self.differences(direction, start)? {
                    let goes_on = all.iter_mut().find(|earlier| {
                        earlier.until_ns == Some(start) && earlier.is_about_the_same(&found)
                    });
                    match goes_on {
                        Some(earlier) => earlier.until_ns = until_ns,
                        None => all.push(Difference {
                            from_ns: (index > 0).then_some(start),
                            until_ns,
                            ..found
                        }),
                    }
                }
            }
        }
        all.sort_by_key(|difference| difference.direction as u8);
        Ok(all)
    }

    fn differences(
        &self,
        direction: Direction,
        now_ns: i64,
    ) -> Result<Vec<Difference>, TooManyOverlaps> {
        let [a, b] = self
            .sides
            .each_ref()
            .map(|side| side.live(direction, now_ns));
        let mut found = Vec::new();
        for (at_a, entry_a) in a.iter().enumerate() {
            for (at_b, entry_b) in b.iter().enumerate() {
                self.spend(1)?;
                let pair = [&entry_a.rule, &entry_b.rule];
                if pair[0].action == pair[1].action || !self.meet(pair[0], pair[1]) {
                    continue;
                }
                let (of_a, of_b) = (entry_a.kernel, entry_b.kernel);
                if of_a.is_some() && of_b.is_some() && of_a != of_b {
                    continue;
                }
                let kernel = of_a.or(of_b);
                let earlier = a.iter().take(at_a).chain(b.iter().take(at_b));
                let earlier = earlier.filter(|entry| is_about(entry, kernel));
                let earlier = self.meeting(earlier.map(|entry| &entry.rule), pair)?;
                for who in self.owners(pair[0], pair[1]) {
                    for part in self.left(pair, &earlier, &who)? {
                        found.push(Difference {
                            direction,
                            witness: witness(direction, &part, &who, (kernel, now_ns)),
                            ports: ports_of(&part.ports),
                            peers: part.peers,
                            uids: part.uids,
                            who: who.clone(),
                            kernel,
                            from_ns: None,
                            until_ns: None,
                            action: pair[1].action,
                            by: [entry_a.by.clone(), entry_b.by.clone()],
                        });
                    }
                }
            }
        }
        Ok(found)
    }

    fn view<'r>(&'r self, rules: &'r [Rule]) -> Rules<'r> {
        Rules {
            rules,
            ..self.tables.view()
        }
    }

    fn meet(&self, a: &Rule, b: &Rule) -> bool {
        overlap::meet(a, b, &self.view(&[]))
    }

    /// Those of `rules` that may match what both of `pair` match.
    fn meeting<'r>(
        &self,
        rules: impl Iterator<Item = &'r Rule>,
        pair: [&Rule; 2],
    ) -> Result<Vec<Rule>, TooManyOverlaps> {
        let mut meeting = Vec::new();
        for rule in rules {
            self.spend(2)?;
            if pair.into_iter().all(|of_pair| self.meet(rule, of_pair)) {
                meeting.push(*rule);
            }
        }
        if meeting.len() > MAX_RULES {
            return Err(TooManyOverlaps);
        }
        Ok(meeting)
    }

    fn spend(&self, work: usize) -> Result<(), TooManyOverlaps> {
        let left = self.budget.get().checked_sub(work);
        self.budget.set(left.ok_or(TooManyOverlaps)?);
        Ok(())
    }

    /// What both of `pair` match of `who`'s connections and none of `earlier`.
    fn left(
        &self,
        pair: [&Rule; 2],
        earlier: &[Rule],
        who: &Who,
    ) -> Result<Vec<Part>, TooManyOverlaps> {
        let scopes = self.scopes_of(who);
        let in_scope = |accepts: Accepts| {
            let named = accepts.of(&self.tables.scopes);
            named.is_none_or(|named| named.iter().any(|scope| scopes.contains(scope)))
        };
        let earlier: Vec<Rule> = earlier
            .iter()
            .filter(|rule| {
                [rule.units, rule.cgroups, rule.exes]
                    .into_iter()
                    .all(in_scope)
            })
            .copied()
            .collect();
        let rules = self.view(&earlier);
        let mut parts = Vec::new();
        for (uids, others) in self.uids(pair, &rules) {
            self.spend(1 + others.len())?;
            for (ports, others) in cells::common_ports(&rules, pair, &others) {
                self.spend(1 + others.len())?;
                let [elsewhere, this_host] =
                    [false, true].map(|is_self| cells::free_peers(&rules, pair, &others, is_self));
                let peers = PeerSet::new(elsewhere, this_host);
                if !peers.is_empty() {
                    let uids = uids.clone();
                    parts.push(Part { uids, ports, peers });
                }
            }
        }
        Ok(fewer(parts))
    }

    /// The uids both of `pair` accept, by the rules that match them.
    fn uids(&self, pair: [&Rule; 2], rules: &Rules<'_>) -> Vec<(Uids, RuleSet)> {
        let named = |rule: &Rule| rule.uids.of(&self.tables.uids);
        let matches = |rule: &Rule, uid: Option<u32>| {
            named(rule).is_none_or(|uids| uid.is_some_and(|uid| uids.contains(&uid)))
        };
        let told_apart = pair.into_iter().chain(rules.rules).filter_map(named);
        let told_apart: BTreeSet<u32> = told_apart.flatten().copied().collect();
        let uids = told_apart.iter().copied().map(Some).chain([None]);
        let cells = uids
            .filter(|&uid| pair.into_iter().all(|rule| matches(rule, uid)))
            .map(|uid| {
                let mut matching = RuleSet::default();
                for (index, rule) in rules.rules.iter().enumerate() {
                    matching.set(index, matches(rule, uid));
                }
                (uid, matching)
            });
        let groups = cells::grouped(cells.collect()).into_iter();
        let groups = groups.map(|(uids, matching)| {
            let known: Vec<u32> = uids.iter().copied().flatten().collect();
            let uids = if uids.contains(&None) {
                let others = told_apart.iter().filter(|uid| !known.contains(uid));
                Uids::AllBut(others.copied().collect())
            } else {
                Uids::Only(known)
            };
            (uids, matching)
        });
        groups.collect()
    }

    /// The owners in no more scopes than both rules ask for.
    fn owners(&self, a: &Rule, b: &Rule) -> BTreeSet<Who> {
        let names = |accepts: Accepts| -> Vec<Option<&str>> {
            match accepts.of(&self.tables.scopes) {
                None => vec![None],
                Some(scopes) => scopes
                    .iter()
                    .map(|&scope| self.scopes.name(scope))
                    .collect(),
            }
        };
        let units = both(&names(a.units), &names(b.units), |a, b| {
            Some(narrowest(a.into_iter().chain(b).collect()))
        });
        let cgroups = both(&names(a.cgroups), &names(b.cgroups), |a, b| match (a, b) {
            (Some(a), Some(b)) if is_within(a, b) => Some(Some(a)),
            (Some(a), Some(b)) => is_within(b, a).then_some(Some(b)),
            (a, b) => Some(a.or(b)),
        });
        let exes = both(&names(a.exes), &names(b.exes), |a, b| match (a, b) {
            (Some(a), Some(b)) => (a == b).then_some(Some(a)),
            (a, b) => Some(a.or(b)),
        });
        // In fewer scopes, the same two rules match and no more others do.
        let least_units = units.iter().filter(|set| {
            !units
                .iter()
                .any(|other| other < set && other.is_subset(set))
        });
        let least_cgroups = cgroups.iter().filter(|path| {
            !cgroups
                .iter()
                .any(|other| other != *path && is_within_some(**path, *other))
        });
        let mut owners = BTreeSet::new();
        for units in least_units {
            for cgroup in least_cgroups.clone() {
                // Whatever is a unit is in the root slice where no cgroup tells more.
                let is_told =
                    |unit: &str| cgroup.is_some() || units.len() == 1 || unit != units::ROOT_SLICE;
                let units = units.iter().filter(|unit| is_told(unit));
                owners.extend(exes.iter().map(|exe| Who {
                    units: units.clone().map(|&unit| unit.to_owned()).collect(),
                    cgroup: cgroup.map(str::to_owned),
                    exe: exe.map(str::to_owned),
                }));
            }
        }
        owners
    }

    fn scopes_of(&self, who: &Who) -> Vec<u32> {
        let cgroup = who.path();
        self.scopes.of(who.owner(cgroup.as_deref()))
    }
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

/// Whether the entry says something of the kernel itself, of anybody else, or of either.
fn is_about(entry: &Entry, kernel: Option<bool>) -> bool {
    entry.kernel.is_none_or(|own| kernel == Some(own))
}

/// A connection of the part.
fn witness(
    direction: Direction,
    part: &Part,
    who: &Who,
    (kernel, now_ns): (Option<bool>, i64),
) -> String {
    let (first, last) = part.ports.first().copied().unwrap_or_default();
    let cgroup = who.path();
    let witness = Witness {
        direction,
        port: known_port(first, last),
        place: part.peers.example(),
        uid: match &part.uids {
            Uids::Only(uids) => uids.first().copied(),
            Uids::AllBut(_) => None,
        },
        owner: who.owner(cgroup.as_deref()),
        is_kernel: kernel == Some(true),
        now_ns,
    };
    witness.to_string()
}

impl Who {
    /// The cgroup, with the units in its path that are more than one.
    fn path(&self) -> Option<String> {
        let mut path = self.cgroup.clone();
        for unit in self.units.iter().skip(1) {
            let path = path.get_or_insert_default();
            path.push('/');
            path.push_str(unit);
        }
        path
    }

    fn owner<'w>(&'w self, path: Option<&'w str>) -> Owner<'w> {
        Owner {
            unit: self.units.first().map(String::as_str),
            cgroup: path,
            exe: self.exe.as_deref().map(Path::new),
            exe_id: None,
        }
    }
}

impl Difference {
    /// Differs from `other` in its time at most.
    fn is_about_the_same(&self, other: &Self) -> bool {
        let timeless = |difference: &Self| Self {
            from_ns: None,
            until_ns: None,
            witness: String::new(),
            ..difference.clone()
        };
        timeless(self) == timeless(other)
    }
}

/// What `join` makes of each two entries.
fn both<'n, T: Ord>(
    a: &[Option<&'n str>],
    b: &[Option<&'n str>],
    join: impl Fn(Option<&'n str>, Option<&'n str>) -> Option<T>,
) -> BTreeSet<T> {
    a.iter()
        .flat_map(|&a| b.iter().map(move |&b| (a, b)))
        .filter_map(|(a, b)| join(a, b))
        .collect()
}

/// The cgroup `inner` is `outer` or below it.
fn is_within(inner: &str, outer: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_within_some(inner: Option<&str>, outer: Option<&str>) -> bool {
    inner
        .zip(outer)
        .is_some_and(|(inner, outer)| is_within(inner, outer))
}

/// Joins parts that differ on one side only.
fn fewer(parts: Vec<Part>) -> Vec<Part> {
    let mut by_rest: BTreeMap<(Uids, Vec<String>), Part> = BTreeMap::new();
    for part in parts {
        let key = (part.uids.clone(), part.peers.words());
        match by_rest.get_mut(&key) {
            Some(joined) => joined.ports.extend(part.ports),
            None => _ = by_rest.insert(key, part),
        }
    }
    let mut by_rest: Vec<Part> = by_rest.into_values().collect();
    for part in &mut by_rest {
        part.ports = cells::joined(std::mem::take(&mut part.ports));
    }
    let mut parts: Vec<Part> = Vec::new();
    for part in by_rest {
        let alike = parts
            .iter_mut()
            .find(|other| other.ports == part.ports && other.peers == part.peers);
        match alike {
            Some(other) => other.uids = other.uids.with(&part.uids),
            None => parts.push(part),
        }
    }
    parts
}

impl Uids {
    fn with(&self, other: &Self) -> Self {
        let without = |all: &[u32], some: &[u32]| {
            let left = all.iter().filter(|uid| !some.contains(uid));
            left.copied().collect::<Vec<u32>>()
        };
        match (self, other) {
            (Self::Only(a), Self::Only(b)) => {
                let mut all = [&a[..], b].concat();
                all.sort_unstable();
                Self::Only(all)
            }
            (Self::AllBut(all), Self::Only(some)) | (Self::Only(some), Self::AllBut(all)) => {
                Self::AllBut(without(all, some))
            }
            (Self::AllBut(a), Self::AllBut(b)) => Self::AllBut(without(a, &without(a, b))),
        }
    }
}

/// The first port of an interval that is one: port 0 is one that is not known.
fn known_port(first: u128, last: u128) -> u32 {
    let [first, last] = [first, last].map(|port| u32::try_from(port).unwrap_or_default());
    let (transport, port) = Transport::of(first);
    transport.port(port.max(1)).min(last)
}

/// By transport.
fn ports_of(intervals: &[Interval]) -> Vec<(u32, u32)> {
    let named = Transport::ALL.map(|transport| {
        let PortRange { first, last } = transport.ports();
        cells::common(intervals, &[(first.into(), last.into())])
    });
    let port = |port: u128| u32::try_from(port).unwrap_or(u32::MAX);
    named
        .iter()
        .flatten()
        .map(|&(first, last)| (port(first), port(last)))
        .collect()
}
