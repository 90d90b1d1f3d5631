//! The sockets that are older than the monitor, by iterators over every open
//! file of every process: all network namespaces in one pass, no walk of `/proc`.

use std::fs::File;

use aya::Ebpf;

use super::{aya_workarounds::forged_btf::LazyBtf, error::KernelError, iterator};

/// What the iterators go through, as aya names it.
pub(super) const ITERATED: &str = "task_file";

/// The kernel's function for it.
pub(super) const ITERATOR: &str = "bpf_iter_task_file";

/// The programs that look at what they go through.
pub(super) const PROGRAMS: [&str; 2] = [LISTENERS, CONNECTIONS];
const LISTENERS: &str = "pm_listeners_it";
const CONNECTIONS: &str = "pm_sockets_it";

/// How much is read at a time. The program writes a byte for each connection it
/// reports: far fewer than the smallest ring has room for.
const CHUNK: usize = 16;

/// Notes who listens.
pub(super) fn listeners(ebpf: &mut Ebpf, btf: &LazyBtf) -> Result<(), KernelError> {
    run(ebpf, btf, LISTENERS, || {})
}

/// Reports the connections that are open; calls `drain` again and again, to
/// empty the ring.
pub(super) fn connections(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    drain: impl FnMut(),
) -> Result<(), KernelError> {
    run(ebpf, btf, CONNECTIONS, drain)
}

fn run(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    name: &str,
    mut after_chunk: impl FnMut(),
) -> Result<(), KernelError> {
    let program = iterator::loaded(ebpf, btf, name, ITERATED)?;
    // It is gone again before anybody could ask the kernel.
    let info = program.info().ok();
    if let Some(count) = info.and_then(|info| info.verified_instruction_count()) {
        log::debug!("{name}: {count} verified instructions");
    }
    let link = program
        .attach()
        .and_then(|id| program.take_link(id))
        .map_err(iterator::failed)?;
    let mut file: File = link
        .into_file()
        .map_err(|error| KernelError::Snapshot(crate::kernel::error::chain(&error)))?;
    loop {
        match iterator::read(&mut file, &mut [0; CHUNK]) {
            Ok(Some(0)) => break,
            Ok(_) => {}
            Err(error) => return Err(KernelError::Snapshot(error.to_string())),
        }
        after_chunk();
    }
    after_chunk();
    program.unload().map_err(iterator::failed)
}
