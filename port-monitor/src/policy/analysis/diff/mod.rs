//! What two policies decide differently, exactly: every connection that one
//! allows and the other denies is in a [`Difference`], and no other.
//!
//! A connection is decided by one rule of each policy. For each two rules that
//! disagree, what both match forms a box, owners × uids × ports × peers; what
//! earlier rules of either policy leave of it is the difference. Defaults are
//! rules here, the last ones. The owners are those who may be, and whom no rule tells from
//! one in fewer scopes: in further ones, only further rules match.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashSet},
};

use port_monitor_common::policy::{
    Accepts, Action, Direction, MAX_RULES, OwnerCondition, PortRange, Rule, Rules, Transport,
};
use thiserror::Error;

use super::{
    cells::{self, Interval, RuleSet},
    peer_set::PeerSet,
    shadow::overlap::{self, Witness},
};
use crate::{
    base::order,
    policy::{
        Policy, Reason,
        rules::table::{Scopes, Tables},
        text::value,
    },
};

mod names;
mod owners;
mod side;

use owners::{Candidate, Named};
use side::{Entry, Side};

/// Comparisons of two rules before the search gives up: a few seconds.
const BUDGET: usize = 200_000_000;

/// The policies have too many overlapping rules.
#[derive(Debug, Error)]
#[error(
    "the policies are not compared: too many rules, or patterns of units, overlap; nothing is \
     known of how they differ. Compare fewer rules at a time"
)]
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
    /// Of these, by what of them it is in: running this executable.
    pub singles: BTreeMap<OwnerCondition, String>,
}

impl Policy {
    /// What `other` decides differently from now on.
    pub fn diff(&self, other: &Self, now_ns: i128) -> Result<Vec<Difference>, TooManyOverlaps> {
        let mut tables = Tables {
            rules: Vec::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            owners: Vec::new(),
            defaults: self.tables.defaults,
            judges_udp: self.tables.judges_udp || other.tables.judges_udp,
        };
        let mut scopes = Scopes::default();
        let mut sides = [self, other].map(|policy| Side::adopt(policy, &mut tables, &mut scopes));
        side::number_alike(&mut sides, &tables);
        let comparison = Comparison {
            sides,
            tables,
            scopes,
            budget: Cell::new(BUDGET),
            directories: owners::Found::default(),
            known_by_unit: owners::Found::default(),
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
    /// The least directories of units, by their numbers.
    directories: owners::Found<u32>,
    /// The least units that are several, by the numbers of those.
    known_by_unit: owners::Found<Vec<u32>>,
}

/// What is left of the box of two rules, as one box of several.
struct Part {
    uids: Uids,
    ports: Vec<Interval>,
    peers: PeerSet,
}

impl Part {
    /// What tells it from others.
    fn words(&self) -> (Uids, Vec<Interval>, Vec<String>) {
        (self.uids.clone(), self.ports.clone(), self.peers.words())
    }
}

impl Comparison {
    /// The differences of every stretch of time in which no rule ends.
    fn over_time(&self, now_ns: i64) -> Result<Vec<Difference>, TooManyOverlaps> {
        let rules = self.sides.iter().flat_map(|side| &side.rules);
        let ends = rules.map(|entry| entry.rule.until_ns);
        let ends = order::set(ends.filter(|&end| end > now_ns && end < i64::MAX));
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
        order::sort_by_key(&mut all, |difference| difference.direction as u8);
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
                if pair[0].action == pair[1].action || !self.meet(pair[0], pair[1])? {
                    continue;
                }
                let (of_a, of_b) = (entry_a.kernel, entry_b.kernel);
                if of_a.is_some() && of_b.is_some() && of_a != of_b {
                    continue;
                }
                let kernel = of_a.or(of_b);
                let earlier = a.iter().take(at_a).chain(b.iter().take(at_b));
                let earlier = earlier.filter(|entry| is_about(entry, kernel));
                self.spend((at_a + at_b) / 8)?;
                let alike = [entry_a.alike, entry_b.alike];
                if earlier.clone().any(|entry| alike.contains(&entry.alike)) {
                    continue;
                }
                let earlier = self.meeting(earlier, pair)?;
                let mut told = BTreeSet::new();
                for candidate in self.owners(pair, kernel)? {
                    let Candidate { who, named, .. } = &candidate;
                    for part in self.left(pair, &earlier, &candidate)? {
                        if !told.insert((who.clone(), part.words())) {
                            continue;
                        }
                        found.push(Difference {
                            direction,
                            witness: witness(direction, &part, named, (kernel, now_ns)),
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

    fn meet(&self, a: &Rule, b: &Rule) -> Result<bool, TooManyOverlaps> {
        let uids = |rule: &Rule| length(rule.owner(OwnerCondition::User), &self.tables);
        let lists = uids(a).zip(uids(b));
        self.spend(lists.map_or(0, |(a, b)| a + b))?;
        Ok(overlap::meet(a, b, &self.view(&[])))
    }

    /// Those of `entries` that may match what both of `pair` match; of those that match the
    /// same, the first.
    fn meeting<'r>(
        &self,
        entries: impl Iterator<Item = &'r &'r Entry>,
        pair: [&Rule; 2],
    ) -> Result<Vec<Rule>, TooManyOverlaps> {
        let mut meeting = Vec::new();
        let mut seen = HashSet::new();
        for Entry { rule, alike, .. } in entries {
            self.spend(2)?;
            if seen.insert(alike) && self.meet(rule, pair[0])? && self.meet(rule, pair[1])? {
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

    /// What both of `pair` match of the owner's connections and none of `earlier`.
    fn left(
        &self,
        pair: [&Rule; 2],
        earlier: &[Rule],
        candidate: &Candidate,
    ) -> Result<Vec<Part>, TooManyOverlaps> {
        self.spend(earlier.len())?;
        let scopes = &candidate.scopes;
        let in_scope = |accepts: Accepts| {
            let named = accepts.of(&self.tables.owners);
            named.is_none_or(|named| named.iter().any(|scope| scopes.contains(scope)))
        };
        let earlier: Vec<Rule> = earlier
            .iter()
            .filter(|rule| OwnerCondition::scopes().all(|of| in_scope(rule.owner(of))))
            .copied()
            .collect();
        let rules = self.view(&earlier);
        let mut parts = Vec::new();
        for (uids, others) in self.uids(pair, &rules)? {
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
    fn uids(
        &self,
        pair: [&Rule; 2],
        rules: &Rules<'_>,
    ) -> Result<Vec<(Uids, RuleSet)>, TooManyOverlaps> {
        let named = |rule: &Rule| rule.owner(OwnerCondition::User).of(&self.tables.owners);
        let mut of_any = RuleSet::default();
        for (index, rule) in rules.rules.iter().enumerate() {
            of_any.set(index, named(rule).is_none());
        }
        let lists = pair.into_iter().chain(rules.rules).filter_map(named);
        self.spend(10 * lists.clone().map(<[u32]>::len).sum::<usize>())?;
        let mut cells: BTreeMap<u32, RuleSet> = BTreeMap::new();
        for &uid in lists.flatten() {
            cells.entry(uid).or_insert(of_any);
        }
        for uids in pair.into_iter().filter_map(named) {
            let uids: HashSet<u32> = uids.iter().copied().collect();
            cells.retain(|uid, _| uids.contains(uid));
        }
        for (index, rule) in rules.rules.iter().enumerate() {
            for uid in named(rule).into_iter().flatten() {
                if let Some(matching) = cells.get_mut(uid) {
                    matching.set(index, true);
                }
            }
        }
        let takes_any = pair.into_iter().all(|rule| named(rule).is_none());
        let others = takes_any.then_some((None, of_any));
        let told_apart = order::set(cells.keys().copied());
        let cells = cells.into_iter().map(|(uid, rules)| (Some(uid), rules));
        let groups = cells::grouped(cells.chain(others).collect()).into_iter();
        let groups = groups.map(|(uids, matching)| {
            let known = uids.iter().copied().flatten();
            let uids = if uids.contains(&None) {
                let known = order::set(known);
                Uids::AllBut(told_apart.difference(&known).copied().collect())
            } else {
                Uids::Only(known.collect())
            };
            (uids, matching)
        });
        Ok(groups.collect())
    }
}

/// How many entries there are; `None` for "any".
fn length(accepts: Accepts, tables: &Tables) -> Option<usize> {
    accepts.of(&tables.owners).map(<[u32]>::len)
}

/// Whether the entry says something of the kernel itself, of anybody else, or of either.
fn is_about(entry: &Entry, kernel: Option<bool>) -> bool {
    entry.kernel.is_none_or(|own| kernel == Some(own))
}

/// A connection of the part.
fn witness(
    direction: Direction,
    part: &Part,
    named: &Named,
    (kernel, now_ns): (Option<bool>, i64),
) -> String {
    let (first, last) = part.ports.first().copied().unwrap_or_default();
    let witness = Witness {
        direction,
        port: known_port(first, last),
        place: part.peers.example(),
        uid: match &part.uids {
            Uids::Only(uids) => uids.first().copied(),
            Uids::AllBut(_) => None,
        },
        owner: named.owner(),
        is_kernel: kernel == Some(true),
        now_ns,
    };
    witness.to_string()
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
            let some: HashSet<u32> = some.iter().copied().collect();
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
