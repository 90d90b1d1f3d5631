//! Which rule of a pinned policy stands in the way of something.

use std::{collections::HashMap, fs, path::Path};

use port_monitor_common::generation::{DENIES, MODE_ENFORCE, Tally};

use super::{Tables, home, install, now_ms};

/// Runs something, and gives what denied something meanwhile, in words: the rules and
/// defaults of all policies in force that have counted a denial. Nothing where no policy
/// is applied, or it cannot be read.
///
/// Takes no lock: nothing is changed, and a policy that is replaced meanwhile only
/// hides what denied.
pub(in crate::kernel) fn denied_while(run: impl FnOnce()) -> Vec<String> {
    let instances = instances();
    if instances.is_empty() {
        return Vec::new();
    }
    let before: Vec<_> = instances
        .iter()
        .map(|(_, tables)| denials(tables))
        .collect();
    run();
    let mut deniers = Vec::new();
    for ((name, tables), before) in instances.iter().zip(before) {
        let grown = denials(tables)
            .into_iter()
            .filter(|(denier, count)| before.get(denier).is_some_and(|before| count > before));
        let mut grown: Vec<_> = grown.map(|(denier, _)| denier).collect();
        grown.sort_unstable();
        deniers.extend(grown.iter().map(|denier| in_words(denier, name)));
    }
    deniers
}

fn in_words(denier: &str, instance: &str) -> String {
    if instance == super::DEFAULT_INSTANCE {
        format!("{denier} of the policy in force")
    } else {
        format!("{denier} of the policy in force as `{instance}`")
    }
}

/// Every instance whose tables are of this version.
fn instances() -> Vec<(String, Tables)> {
    let Some(entries) = home::lasting().ok().and_then(|all| fs::read_dir(all).ok()) else {
        return Vec::new();
    };
    let open = |dir: &Path| {
        install::check_version(dir).ok()?;
        let name = dir.file_name()?.to_string_lossy().into_owned();
        Some((name, Tables::open(dir).ok()?))
    };
    let entries = entries.flatten();
    entries.filter_map(|entry| open(&entry.path())).collect()
}

/// What denies, and how often it has.
fn denials(tables: &Tables) -> HashMap<String, u64> {
    let generation = tables.state().generation_at(now_ms());
    let header = tables.header(generation);
    if header.mode != MODE_ENFORCE {
        return HashMap::new();
    }
    let rules = (0..header.rule_count as usize).filter_map(|rule| {
        let entry = tables.rule(generation, rule)?;
        let count = tables.hits(generation, rule).count;
        (entry.flags & DENIES != 0).then(|| (format!("rule `{}`", name(&entry.name)), count))
    });
    let defaults = [
        ("inbound", Tally::DefaultInbound),
        ("outbound", Tally::DefaultOutbound),
        ("listen", Tally::DefaultListen),
    ];
    let defaults = defaults
        .into_iter()
        .zip(header.defaults)
        .filter(|(_, flags)| flags & DENIES != 0)
        .map(|((direction, tally), _)| {
            let count = tables.tally(generation, tally).count;
            (format!("the {direction} default"), count)
        });
    rules.chain(defaults).collect()
}

/// A NUL-padded name.
fn name(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..length.unwrap_or(bytes.len())]).into_owned()
}
