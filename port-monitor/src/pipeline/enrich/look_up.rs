//! The look-up of one process, which may take long: files, and what they are on.

use std::{
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::Key;
use crate::{
    events::{
        decode::Owner,
        record::{Field, Missing, Process},
    },
    host::{
        cgroup::{CgroupTree, Cgroups},
        container,
        process::{self, Facts, Paths, Proc},
        unit,
    },
};

/// Which process is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) key: Key,
    owner: Owner,
    /// What it executed, where the kernel's programs noted that.
    pub(crate) noted: Option<PathBuf>,
}

impl Question {
    /// The question for this owner, by its key.
    pub(crate) const fn like(key: Key, owner: &Owner) -> Self {
        Self {
            key,
            owner: *owner,
            noted: None,
        }
    }

    #[cfg(test)]
    pub(crate) const fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Question {}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// Where processes are looked up; shared by the threads that do.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) proc: Proc,
    cgroups: Arc<Cgroups>,
    /// Units and containers of this host are in hierarchies of version 1 too.
    has_v1: bool,
}

impl LookUp {
    /// In `proc_root`, that is `/proc`.
    pub(crate) fn new(proc_root: &Path) -> Self {
        Self {
            proc: Proc::new(proc_root),
            cgroups: Arc::new(Cgroups::new(CgroupTree::find(proc_root))),
            has_v1: !process::v1_hierarchies(proc_root).is_empty(),
        }
    }

    /// Looks up the arguments of processes, too.
    pub(crate) fn telling_args(mut self) -> Self {
        self.proc.tells_args = true;
        self
    }

    /// What /proc and the cgroups tell of a process.
    pub(crate) fn process(&self, question: &Question) -> Process {
        let Question { owner, noted, .. } = question;
        let facts = self.proc.read(owner, noted.clone());
        let gone = facts.as_ref().err().copied();
        let facts = facts.unwrap_or_else(|reason| Facts {
            exe: noted.clone().map_or(Field::Missing(reason), Field::Known),
            parent: None,
            args: None,
            cgroups: None,
        });
        let unread = facts.cgroups.is_none();
        let unread = unread.then(|| gone.unwrap_or(Missing::Exited));
        let Paths { v2, v1 } = facts.cgroups.unwrap_or_default();
        let placement = self
            .cgroups
            .placement(owner.cgroup_id, v2.as_deref(), Instant::now());
        let placement = placement.as_deref();
        // Version 2 comes first: the kernel told of it with the event.
        let unit = placement.and_then(|at| at.unit.clone());
        let unit_in_v1 = || v1.iter().find_map(|path| unit::unit(path)).map(Arc::from);
        let container = placement.and_then(|at| at.container.clone());
        let container = container.or_else(|| v1.iter().find_map(|path| container::container(path)));
        Process {
            exe: facts.exe,
            parent: facts.parent,
            args: facts.args,
            user: None,
            user_missing: Some(Missing::Late),
            cgroup: placement.map(|at| Arc::clone(&at.path)),
            unit: unit.or_else(unit_in_v1),
            container_missing: unread.filter(|_| self.has_v1 && container.is_none()),
            container,
        }
    }

    /// What is known of a process without reading anything.
    pub(crate) fn makeshift(&self, owner: &Owner, noted: Option<PathBuf>) -> Process {
        let placement = self.cgroups.known(owner.cgroup_id);
        let placement = placement.as_deref();
        let container = placement.and_then(|at| at.container.clone());
        let is_unknown = self.has_v1 || placement.is_none();
        Process {
            exe: noted.map_or(Field::Missing(Missing::Late), Field::Known),
            parent: None,
            args: None,
            user: None,
            user_missing: Some(Missing::Late),
            cgroup: placement.map(|at| Arc::clone(&at.path)),
            unit: placement.and_then(|at| at.unit.clone()),
            container_missing: (is_unknown && container.is_none()).then_some(Missing::Late),
            container,
        }
    }
}
