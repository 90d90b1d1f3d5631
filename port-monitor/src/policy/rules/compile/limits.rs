//! Reports the rules with which a policy has more than the kernel's tables hold.

use std::{collections::HashSet, hash::Hash};

use port_monitor_common::policy::Rule;

use super::Compiler;
use crate::policy::{
    limits::{CGROUPS, EXES, Limit, TooMany, UNITS, USERS},
    text::problem::Problem,
};

/// Reports the first rule that names more than there may be, of each kind but networks:
/// rules share those, and the compiler counts them.
pub(crate) fn report(compiler: &mut Compiler<'_>) {
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
