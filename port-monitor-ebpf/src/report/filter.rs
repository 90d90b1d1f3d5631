//! The filters of the command line, in the kernel: what they drop never wakes
//! userspace, and is counted.

use aya_ebpf::maps::lpm_trie::Key;
use port_monitor_common::config::CGROUP_DEPTH;
use port_monitor_common::{
    config::{
        FILTER_ANY_PORT, FILTER_CGROUP, FILTER_COMM, FILTER_LOCAL_PORT, FILTER_ONLY_DENIED,
        FILTER_ONLY_IN, FILTER_ONLY_OUT, FILTER_ONLY_V4, FILTER_ONLY_V6, FILTER_PID,
        FILTER_REMOTE_NET, FILTER_REMOTE_PORT, FILTER_TREE, FILTER_UID, OWNER_FILTERS,
        PORT_SET_WORDS, PortFilter,
    },
    event::{FLAG_DENIED, FLAG_INBOUND, FLAG_JUDGED, Owner, TcpEvent},
};

use crate::{
    globals::{config, offset},
    maps::{CGROUPS, COMMS, PIDS, PORT_SETS, REMOTE_NETS, TREE, UIDS},
    read::{sock, task},
};

#[inline(always)]
fn on(filter: u32) -> bool {
    config!(filters) & filter != 0
}

/// The owner is one of those asked for; `task` is a thread of its.
#[inline(always)]
pub(crate) fn owner_passes(owner: &Owner, task: impl FnOnce() -> *const u8) -> bool {
    if !on(OWNER_FILTERS) {
        return true;
    }
    !(on(FILTER_PID) && PIDS.get_ptr(owner.tgid).is_none()
        || on(FILTER_TREE) && TREE.get_ptr(owner.tgid).is_none()
        || on(FILTER_UID) && UIDS.get_ptr(owner.uid).is_none()
        || on(FILTER_COMM)
            && COMMS.get_ptr(&owner.comm).is_none()
            && COMMS.get_ptr(&owner.process_comm).is_none()
        || on(FILTER_CGROUP) && !in_filtered_cgroup(task()))
}

/// What an event without a known owner gets from the owner filters.
#[inline(always)]
pub(crate) fn unknown_owner_passes() -> bool {
    !on(OWNER_FILTERS)
}

/// The connection leads where those asked for lead.
#[inline(always)]
pub(crate) fn flow_passes(flow: &TcpEvent) -> bool {
    if config!(filters) == 0 {
        return true;
    }
    let is_inbound = flow.flags & FLAG_INBOUND != 0;
    !(on(FILTER_ONLY_IN) && !is_inbound || on(FILTER_ONLY_OUT) && is_inbound)
        && verdict_passes(flow)
        && family_passes(flow)
        && ports_pass(flow)
        && net_passes(flow)
}

/// What was not judged passes: userspace does it.
#[inline(always)]
fn verdict_passes(flow: &TcpEvent) -> bool {
    !on(FILTER_ONLY_DENIED) || flow.flags & (FLAG_JUDGED | FLAG_DENIED) != FLAG_JUDGED
}

#[inline(always)]
fn family_passes(flow: &TcpEvent) -> bool {
    if !on(FILTER_ONLY_V4 | FILTER_ONLY_V6) {
        return true;
    }
    let is_v4 = sock::is_v4(&sock::words(&flow.remote_addr));
    !(on(FILTER_ONLY_V4) && !is_v4 || on(FILTER_ONLY_V6) && is_v4)
}

#[inline(always)]
fn ports_pass(flow: &TcpEvent) -> bool {
    !(on(FILTER_LOCAL_PORT) && !in_set(PortFilter::Local, flow.local_port)
        || on(FILTER_REMOTE_PORT) && !in_set(PortFilter::Remote, flow.remote_port)
        || on(FILTER_ANY_PORT)
            && !in_set(PortFilter::Any, flow.local_port)
            && !in_set(PortFilter::Any, flow.remote_port))
}

#[inline(always)]
fn in_set(set: PortFilter, port: u16) -> bool {
    let port = u32::from(port);
    let word = PORT_SETS
        .get(set as u32 * PORT_SET_WORDS + port / 64)
        .copied();
    word.is_some_and(|word| word >> (port % 64) & 1 == 1)
}

#[inline(always)]
fn net_passes(flow: &TcpEvent) -> bool {
    !on(FILTER_REMOTE_NET)
        || REMOTE_NETS
            .get(Key::new(128, sock::words(&flow.remote_addr)))
            .is_some()
}

/// The attempt may pass once its local port is known: on the tracepoint backend
/// the port filters cannot judge an unbound socket.
#[inline(always)]
pub(crate) fn may_pass_when_bound(flow: &TcpEvent) -> bool {
    flow_passes(flow) || flow.local_port == 0 && on(FILTER_LOCAL_PORT | FILTER_ANY_PORT)
}

/// The task's cgroup, or one above it, is in the filter.
#[inline(always)]
pub(crate) fn in_filtered_cgroup(task: *const u8) -> bool {
    let Some(mut group) = task::cgroup(task) else {
        return false;
    };
    for _ in 0..CGROUP_DEPTH {
        let Some(id) = task::cgroup_id(group) else {
            return false;
        };
        if CGROUPS.get_ptr(id).is_some() {
            return true;
        }
        match task::read::<*const u8>(group, offset!(cgroup_parent)) {
            Some(parent) if !parent.is_null() => group = parent,
            _ => return false,
        }
    }
    false
}
