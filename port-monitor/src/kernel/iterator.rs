//! Iterators that are loaded once and begin whenever somebody reads.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::Map,
    programs::{Iter, ProgramError, ProgramFd},
};

use super::{aya_workarounds::forged_btf::LazyBtf, bpf, error::KernelError};

/// What goes through a table, as aya names it.
pub(super) const TABLE: &str = "bpf_map_elem";

/// The kernel's function for it.
pub(super) const TABLE_FUNCTION: &str = "bpf_iter_bpf_map_elem";

/// Loads an iterator's program and ties it to what it goes through: `iterated`, as aya names
/// it, and the table, if that is one.
pub(super) fn prepare(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    name: &str,
    (iterated, table): (&str, Option<&str>),
) -> Result<OwnedFd, KernelError> {
    let program = load(ebpf, btf, name, iterated)?;
    tie(ebpf, &program, table)
}

/// Loads the program of an iterator over `iterated`, as aya names it.
pub(super) fn load(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    name: &str,
    iterated: &str,
) -> Result<ProgramFd, KernelError> {
    let program = loaded(ebpf, btf, name, iterated)?;
    let program = program.fd().map_err(failed)?.try_clone();
    program.map_err(|error| KernelError::Snapshot(format!("iterate by {name}: {error}")))
}

/// Loads the program of an iterator over `iterated`, as aya names it, and hands it out.
pub(super) fn loaded<'e>(
    ebpf: &'e mut Ebpf,
    btf: &LazyBtf,
    name: &str,
    iterated: &str,
) -> Result<&'e mut Iter, KernelError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| KernelError::Snapshot(format!("no program {name}")))?;
    let program: &mut Iter = program.try_into().map_err(failed)?;
    let btf = btf.get().map_err(|error| failed(error.into()))?;
    program.load(iterated, btf).map_err(failed)?;
    Ok(program)
}

/// What to say where a program of an iterator cannot be used.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
pub(super) fn failed(error: ProgramError) -> KernelError {
    KernelError::Snapshot(crate::kernel::error::chain(&error))
}

/// Ties a loaded program to a table, or to what is no table.
pub(super) fn tie(
    ebpf: &Ebpf,
    program: &ProgramFd,
    table: Option<&str>,
) -> Result<OwnedFd, KernelError> {
    let found = table.map(|table| ebpf.map(table).and_then(fd).ok_or(table));
    let found = found.transpose();
    let found = found.map_err(|table| KernelError::Snapshot(format!("no table {table}")))?;
    let of = table.map_or_else(String::new, |table| format!(" over {table}"));
    bpf::iterate(program.as_fd(), found)
        .map_err(|error| KernelError::Snapshot(format!("begin an iterator{of}: {error}")))
}

/// A table's descriptor.
fn fd(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::HashMap(data) | Map::LruHashMap(data) => Some(data.fd().as_fd()),
        _ => None,
    }
}

/// Reads on; `None` where the kernel pauses, which it does after a million.
pub(super) fn read(file: &mut File, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    match file.read(bytes) {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
