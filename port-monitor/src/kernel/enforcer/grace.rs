//! Waits until every program that runs now has ended.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::super::bpf;

/// Waits for the programs that run now; `map` is any map of ours.
///
/// Once a map in an array of maps is replaced, the kernel waits until no program can use
/// the one before (`maybe_wait_bpf_programs`, `kernel/bpf/syscall.c`, since 4.20): by
/// `synchronize_rcu`, on one processor too, and whatever `nohz_full=` says. Programs on
/// cgroups and network namespaces run as RCU readers. `MEMBARRIER_CMD_GLOBAL` does not do:
/// it waits for nothing on one processor, and is refused under `nohz_full=`.
pub(super) fn wait_for_programs(map: BorrowedFd<'_>) -> io::Result<()> {
    let outer = array_like(map)?;
    bpf::set_inner_map(outer.as_fd(), map)
}

fn array_like(map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    bpf::array_of_one_map(map).or_else(|error| {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err(error);
        }
        // Before 5.11 all maps of a user count as locked memory.
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        setrlimit(Resource::Memlock, unlimited)?;
        bpf::array_of_one_map(map)
    })
}
