//! Owners for the kernel's tables: what rules name by different spellings is one key
//! there, and its mask holds the rules of all of them.

use std::collections::{BTreeMap, BTreeSet};

use port_monitor_common::{
    generation::{Header, LEVELS},
    policy::OwnerCondition,
};

use super::{super::index::Table, Places};
use crate::{
    base::order,
    policy::{Policy, rules::table::Owner},
};

impl Policy {
    /// The cgroups whose mask differs from that of the cgroup they lie in.
    pub(crate) fn lower_groups(
        &self,
        places: &dyn Places,
        table: &mut Table,
        header: &mut Header,
        missing: &mut Vec<String>,
    ) -> Vec<(u64, u32)> {
        let mut mask_of = |path: &str| {
            let numbers = self.scopes.of(Owner {
                cgroup: Some(path),
                ..Owner::default()
            });
            table.number(self.index.group(&numbers))
        };
        header.other_group = mask_of("");
        if !self.scopes.has_cgroups() {
            return Vec::new();
        }
        let cgroups = places.cgroups();
        let mut groups = Vec::new();
        for (path, id) in &cgroups {
            let Some((parent, _)) = path.rsplit_once('/') else {
                continue;
            };
            let mask = mask_of(path);
            if mask != mask_of(parent) {
                let depth = i32::try_from(path.matches('/').count()).unwrap_or(i32::MAX);
                if depth > LEVELS {
                    log::warn!("cgroup {path} lies too deep: no rule matches what is in it");
                    continue;
                }
                header.deepest = header.deepest.max(depth);
                groups.push((*id, mask));
            }
        }
        let there = order::set(cgroups.iter().map(|(path, _)| path.as_str()));
        let named = self.scopes.cgroups().filter(|path| !path.is_empty());
        let gone = order::set(named.filter(|path| !there.contains(path)));
        missing.extend(gone.iter().map(|path| format!("cgroup {path}")));
        groups
    }

    /// The executables by what the kernel knows them by: two paths may lead to one file.
    pub(crate) fn lower_exes(
        &self,
        places: &dyn Places,
        table: &mut Table,
        header: &mut Header,
        missing: &mut Vec<String>,
    ) -> Vec<(u32, u64, u32)> {
        header.other_exe = table.number(self.index.scoped(OwnerCondition::Exe, &[]));
        let mut files: BTreeMap<(u32, u64), Vec<u32>> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (path, number) in self.scopes.exes() {
            match places.executable(path) {
                Ok(file) => files.entry(file).or_default().push(number),
                Err(error) => {
                    gone.insert(format!("executable {} ({error})", path.display()));
                }
            }
        }
        missing.extend(gone);
        let files = files.into_iter();
        files
            .map(|((device, inode), numbers)| {
                let mask = self.index.scoped(OwnerCondition::Exe, &numbers);
                (device, inode, table.number(mask))
            })
            .collect()
    }
}
