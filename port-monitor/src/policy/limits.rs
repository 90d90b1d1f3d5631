//! How much of something a policy may have, so that the kernel's tables hold it.

use std::{collections::HashSet, hash::Hash};

use port_monitor_common::{
    generation::{MASKS, OWNERS},
    policy::Rule,
};
use thiserror::Error;

use super::{compile::Compiler, problem::Problem};

/// What there may be so many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    what: &'static str,
    most: usize,
}

/// More of something than the kernel's tables hold.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{count} {what}: the kernel's tables hold {most}")]
pub struct TooMany {
    /// How many.
    pub count: usize,
    /// Of what.
    pub what: &'static str,
    /// How many there may be.
    pub most: usize,
}

/// The sets of rules that a policy tells apart: those that accept one port, network,
/// user and so on, or have not ended yet.
pub(super) const RULE_SETS: Limit = of("different sets of rules", MASKS);
/// Different users.
pub(super) const USERS: Limit = of("different users", OWNERS);
/// Cgroups of this host, or of a policy.
pub(super) const CGROUPS: Limit = of("different cgroups", OWNERS);
/// Units of a policy.
pub(super) const UNITS: Limit = of("different units", OWNERS);
/// Executables of a policy.
pub(super) const EXES: Limit = of("different executables", OWNERS);

/// Reports the first rule that names more than there may be, of each kind but networks:
/// rules share those, and the compiler counts them.
pub(super) fn report(compiler: &mut Compiler<'_>) {
    let tables = compiler.tables.view();
    let scope = |scope: &u32| Some(*scope);
    let found = [
        first_beyond(tables.rules, USERS, |rule| {
            let uids = rule.uids.of(tables.uids).unwrap_or_default();
            uids.iter().filter_map(scope)
        }),
        first_beyond(tables.rules, UNITS, |rule| {
            let units = rule.units.of(tables.scopes).unwrap_or_default();
            units.iter().filter_map(scope)
        }),
        first_beyond(tables.rules, CGROUPS, |rule| {
            let cgroups = rule.cgroups.of(tables.scopes).unwrap_or_default();
            cgroups.iter().filter_map(scope)
        }),
        first_beyond(tables.rules, EXES, |rule| {
            let exes = rule.exes.of(tables.scopes).unwrap_or_default();
            exes.iter().filter_map(scope)
        }),
    ];
    for (rule, too_many) in found.into_iter().flatten() {
        let span = compiler.rules.get(rule).map(|info| info.span.clone());
        let problem = Problem::TooMany(too_many);
        compiler
            .diagnostics
            .report(span.unwrap_or_default(), problem);
    }
}

/// The first rule with which there are too many of what rules name, and how many there
/// are in all.
fn first_beyond<'r, T: Eq + Hash, N: Iterator<Item = T>>(
    rules: &'r [Rule],
    limit: Limit,
    names: impl Fn(&'r Rule) -> N,
) -> Option<(usize, TooMany)> {
    // Most policies name fewer, each as often as it is.
    rules.iter().flat_map(&names).nth(limit.most)?;
    let mut seen = HashSet::new();
    let mut first = None;
    for (index, rule) in rules.iter().enumerate() {
        seen.extend(names(rule));
        if seen.len() > limit.most {
            first = first.or(Some(index));
        }
    }
    let Limit { what, most } = limit;
    let count = seen.len();
    first.map(|index| (index, TooMany { count, what, most }))
}

const fn of(what: &'static str, most: u32) -> Limit {
    Limit {
        what,
        most: most as usize,
    }
}

/// The first of these that there are too many of.
pub(super) fn check(counts: &[(usize, Limit)]) -> Result<(), TooMany> {
    let found = counts.iter().find(|(count, limit)| *count > limit.most);
    found.map_or(Ok(()), |&(count, Limit { what, most })| {
        Err(TooMany { count, what, most })
    })
}
