//! The cgroup filter in the kernel's maps: the names to look for, and the cgroups that are
//! there already.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapError},
};
use port_monitor_common::groups::{NAME_BYTES, Name, Named, ROOT, Row};

use super::{maps::map, pod::Wire};
use crate::host::{
    cgroup::CgroupTree,
    groups::{Groups, Wanted},
};

/// Writes the names, before the programs are attached that look for them.
pub(super) fn write(ebpf: &mut Ebpf, groups: &Groups) -> Result<(), MapError> {
    let mut names = HashMap::<_, Wire<Name>, Wire<Named>>::try_from(map(ebpf, "pm_names")?)?;
    for wanted in groups.wanted() {
        let meaning = Named {
            node: wanted.below,
            is_meant: wanted.is_meant.into(),
        };
        names.insert(Wire(key(&wanted)), Wire(meaning), 0)?;
    }
    let mut table = Array::<_, Wire<Row>>::try_from(map(ebpf, "pm_patterns")?)?;
    for (number, row) in (0..).zip(groups.rows().unwrap_or_default()) {
        table.set(number, Wire(row), 0)?;
    }
    Ok(())
}

fn key(wanted: &Wanted) -> Name {
    let mut name = [0; NAME_BYTES];
    for (byte, written) in name.iter_mut().zip(wanted.name.bytes()) {
        *byte = written;
    }
    Name {
        node: wanted.node,
        name,
    }
}

/// Adds the cgroups that are there. What is made meanwhile is added by the programs, which
/// are attached. Returns what has no cgroup yet.
pub(super) fn find(ebpf: &mut Ebpf, groups: &Groups) -> Result<Vec<String>, MapError> {
    let Some(tree) = CgroupTree::find(Path::new("/proc")) else {
        return Ok(groups.iter().map(|group| group.label.clone()).collect());
    };
    let mut nodes = HashMap::<_, u64, u64>::try_from(map(ebpf, "pm_nodes")?)?;
    if let Ok(root) = tree.id(Path::new("")) {
        nodes.insert(root, ROOT, 0)?;
    }
    // From above: what comes later below one of them is seen.
    for wanted in groups.wanted() {
        if wanted.below != ROOT
            && let Ok(id) = tree.id(Path::new(&wanted.path))
        {
            nodes.insert(id, wanted.below, 0)?;
        }
    }
    let mut cgroups = HashMap::<_, u64, u8>::try_from(map(ebpf, "pm_cgroups")?)?;
    for id in groups.ids(|visit| tree.walk(visit)) {
        cgroups.insert(id, 1, 0)?;
    }
    Ok(groups.missing(|visit| tree.walk(visit)))
}
