//! Reports the rules with which a policy has more than the kernel's tables hold.

use std::{collections::HashSet, hash::Hash};

use port_monitor_common::policy::{OwnerCondition, Rule};

use super::Compiler;
use crate::policy::{
    conditions::about,
    limits::{Limit, TooMany},
    text::problem::Problem,
};

/// Reports the first rule that names more than there may be, of each kind but networks:
/// rules share those, and the compiler counts them.
pub(crate) fn report(compiler: &mut Compiler<'_>) {
    let tables = compiler.tables.view();
    let found = OwnerCondition::ALL.map(|condition| {
        first_beyond(tables.rules, about(condition).limit, |rule| {
            let entries = rule.owner(condition).of(tables.owners).unwrap_or_default();
            entries.iter().copied()
        })
    });
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
