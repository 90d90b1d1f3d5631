//! Whose a connection is, by who has its listener open and who closed it. Pure.

use port_monitor_common::{
    event::OwnerSource,
    listener::{HOLDER_PASSES, Holder},
};

use super::{Found, answers::Question, closers::Closer};
use crate::events::{decode::Owner, record::Missing};

/// Nobody is known who has its listener, or had it.
pub(super) fn is_nowhere(found: &Found) -> bool {
    found.owner == Err(Missing::Unheld)
}

/// Whose the connection is, of those who have its listener open and of who closed it since.
pub(super) fn judge(question: &Question, holders: &[Holder], closer: Option<&Closer>) -> Found {
    let is_listener = |holder: &&Holder| {
        (holder.listener, holder.port) == (question.listener, question.port)
            && holder.owner.tgid != 0
    };
    // Who began later has it from one who had it then.
    let is_meant =
        |holder: &&Holder| is_listener(holder) && holder.owner.start_ns <= question.ts_ns;
    let meant: Vec<&Holder> = holders
        .iter()
        .chain(closer.map(|closer| &closer.last))
        .filter(is_meant)
        .collect();
    let mut processes: Vec<&Holder> = Vec::new();
    for &holder in &meant {
        if !processes.iter().any(|other| key(other) == key(holder)) {
            processes.push(holder);
        }
    }
    let is_alone = closer.is_none_or(|closer| closer.is_alone_since(question.ts_ns));
    let count = u32::try_from(processes.len()).unwrap_or(u32::MAX);
    let is_open = holders.iter().any(|holder| is_listener(&holder));
    if !is_open && !closer.is_some_and(|closer| closer.had_it) {
        return Found {
            passes: closer.is_some_and(|closer| closer.last.flags & HOLDER_PASSES != 0),
            ..Found::nobody(Missing::Unheld)
        };
    }
    let first = first(&processes).filter(|first| is_alone && holds_all(first, &meant));
    if let Some(first) = first {
        return Found {
            owner: Ok(Owner::of(&first.owner, OwnerSource::Listener)),
            holders: count,
            passes: first.flags & HOLDER_PASSES != 0,
        };
    }
    if processes.is_empty() {
        // All of them have it from one who had it then, and is gone.
        let mut heirs = holders.iter().filter(is_listener);
        return Found {
            passes: heirs.all(|heir| heir.flags & HOLDER_PASSES != 0),
            ..Found::nobody(Missing::Unheld)
        };
    }
    let passes = processes.iter().all(|one| one.flags & HOLDER_PASSES != 0);
    Found {
        owner: Err(Missing::Shared),
        holders: count,
        passes: passes && is_alone,
    }
}

/// What tells a process from all others, also from later ones of its number.
pub(super) const fn key(holder: &Holder) -> (u32, u64) {
    (holder.owner.tgid, holder.owner.start_ns)
}

/// The only process; of several that execute one program in one cgroup, the one that all
/// others descend from by others of them.
fn first<'a>(processes: &[&'a Holder]) -> Option<&'a Holder> {
    let (one, others) = processes.split_first()?;
    let program = |holder: &Holder| {
        let owner = &holder.owner;
        (owner.exe_device, owner.exe_inode, owner.cgroup_id)
    };
    let is_alike = |other: &&Holder| program(other) == program(one);
    if !others.is_empty() && (one.owner.exe_inode == 0 || !others.iter().all(is_alike)) {
        return None;
    }
    let is_child = |holder: &Holder| {
        let is_parent = |other: &&Holder| {
            other.owner.tgid == holder.parent_tgid && other.owner.start_ns <= holder.owner.start_ns
        };
        processes.iter().any(is_parent)
    };
    let mut firsts = processes.iter().filter(|holder| !is_child(holder));
    match (firsts.next(), firsts.next()) {
        (Some(first), None) => Some(first),
        _ => None,
    }
}

/// The process has every socket of the listener: whichever the connection came to.
fn holds_all(process: &Holder, meant: &[&Holder]) -> bool {
    meant.iter().all(|one| {
        let same = |other: &&Holder| key(other) == key(process) && other.socket == one.socket;
        meant.iter().any(same)
    })
}
