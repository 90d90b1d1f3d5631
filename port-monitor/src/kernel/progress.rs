//! What open connections have carried so far, by an iterator over the table of those that
//! are remembered: its cost depends on nothing else that the host has open.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::Map,
    programs::{Iter, ProgramError},
};

use port_monitor_common::event::EventKind;

use super::{KernelError, Settings, bpf, ladder, lazy_btf::LazyBtf};

/// What the iterator goes through, as aya names it.
const ITERATED: &str = "bpf_map_elem";

/// The kernel's function for it.
pub(super) const ITERATOR: &str = "bpf_iter_bpf_map_elem";

/// The program that looks at what it goes through.
pub(super) const PROGRAM: &str = "pm_progress_it";

/// The table.
const TABLE: &str = "pm_connections";

/// How much is read at a time. The program writes a byte for each connection it reports:
/// fewer than the smallest ring has room for.
const CHUNK: usize = 16;

/// The iterator, ready to begin.
#[derive(Debug)]
pub struct Progress {
    link: OwnedFd,
}

impl Progress {
    /// The iterator, where the user wants such events and the kernel's types are known.
    pub(super) fn wanted(
        settings: &Settings,
        ebpf: &mut Ebpf,
        btf: Option<&LazyBtf>,
    ) -> Result<Option<Self>, KernelError> {
        let wanted = settings.kinds.contains(&EventKind::Progress);
        let btf = btf.filter(|_| wanted);
        let links = btf
            .map(|btf| tie(ebpf, btf, PROGRAM, &[TABLE]))
            .transpose()?;
        let link = links.and_then(|mut links| links.pop());
        Ok(link.map(|link| Self { link }))
    }

    /// Begins to look at all connections that are open.
    pub fn look(&self) -> io::Result<Look> {
        Look::begin(&self.link)
    }
}

/// Loads an iterator's program and ties it to these tables, each by a link of its own.
pub(super) fn tie(
    ebpf: &mut Ebpf,
    btf: &LazyBtf,
    name: &str,
    tables: &[&str],
) -> Result<Vec<OwnedFd>, KernelError> {
    let failed = |error: ProgramError| KernelError::Snapshot(ladder::chain(&error));
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| KernelError::Snapshot(format!("no program {name}")))?;
    let program: &mut Iter = program.try_into().map_err(failed)?;
    let btf = btf.get().map_err(|error| failed(error.into()))?;
    program.load(ITERATED, btf).map_err(failed)?;
    let program = program
        .fd()
        .map_err(failed)?
        .try_clone()
        .map_err(|error| to_error(&error))?;
    let link = |table: &&str| {
        let Some(Map::HashMap(map)) = ebpf.map(table) else {
            return Err(KernelError::Snapshot(format!("no table {table}")));
        };
        bpf::iterate_map(program.as_fd(), map.fd().as_fd()).map_err(|error| to_error(&error))
    };
    tables.iter().map(link).collect()
}

fn to_error(error: &io::Error) -> KernelError {
    KernelError::Snapshot(error.to_string())
}

/// A look at all connections that are open, a few at a time.
#[derive(Debug)]
pub struct Look {
    file: File,
}

impl Look {
    /// Begins to look at all that the table of this link has.
    pub(super) fn begin(link: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            file: bpf::begin_iteration(link.as_fd())?.into(),
        })
    }

    /// Looks at a few more, which go into the ring; whether there may be others. Does not
    /// wait.
    pub fn read(&mut self) -> io::Result<bool> {
        match self.file.read(&mut [0; CHUNK]) {
            Ok(read) => Ok(read > 0),
            // The kernel pauses after a million.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}
