//! The counts of rules that another policy has too go on in that.

use std::collections::HashMap;

use port_monitor_common::generation::{RULES, RuleEntry, TALLIES, Tally};

use super::{generations::Change, tables::Tables};

/// How much of each count came from the policy before, by the number of the count.
pub type Carried = HashMap<u32, u64>;

/// The counts whose meaning is the same in both policies: their numbers in each.
fn same(tables: &Tables, change: Change) -> Vec<(u32, u32)> {
    let Change { from, to } = change;
    let [before, after] = [from, to].map(|generation| tables.header(generation));
    // What was denied is not what would have been.
    if before.mode != after.mode {
        return Vec::new();
    }
    let rules = |generation, count: u32| {
        let rule = move |rule: u32| Some((tables.rule(generation, rule as usize)?, rule));
        (0..count).filter_map(rule)
    };
    let key = |entry: RuleEntry| (entry.name, entry.meaning);
    let old: HashMap<_, u32> = rules(from, before.rule_count)
        .map(|(entry, rule)| (key(entry), rule))
        .collect();
    let mut same: Vec<(u32, u32)> = rules(to, after.rule_count)
        .filter_map(|(entry, rule)| Some((*old.get(&key(entry))?, rule)))
        .collect();
    let defaults = [
        Tally::DefaultInbound,
        Tally::DefaultOutbound,
        Tally::DefaultListen,
    ];
    let others = [Tally::Loopback, Tally::KernelThread, Tally::Broken];
    let is_same = |n: usize| before.defaults[n] == after.defaults[n];
    let defaults = defaults.into_iter().enumerate();
    let defaults = defaults.filter_map(|(n, tally)| is_same(n).then_some(tally));
    let others = others.into_iter().filter(|_| (0..3).all(is_same));
    same.extend(defaults.chain(others).map(|tally| {
        let number = RULES + tally as u32;
        (number, number)
    }));
    same
}

/// Adds the counts of the policy before, which no program looks at any more.
pub(super) fn same_rules(tables: &Tables, change: Change) -> Carried {
    let Change { from, to } = change;
    let same = same(tables, change).into_iter();
    same.map(|(old, new)| (new, tables.add_hits((from, old), (to, new))))
        .collect()
}

/// Adds all counts, of another form of the policy.
pub(super) fn all(tables: &Tables, change: Change) {
    let Change { from, to } = change;
    for tally in 0..TALLIES {
        tables.add_hits((from, tally), (to, tally));
    }
}
