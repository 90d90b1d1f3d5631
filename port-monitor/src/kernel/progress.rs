//! What open connections have carried so far, by an iterator over the table of those that
//! are remembered: its cost depends on nothing else that the host has open.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::Ebpf;
use port_monitor_common::event::EventKind;

use super::{
    aya_workarounds::forged_btf::LazyBtf, bpf, error::KernelError, iterator, settings::Settings,
};

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
        let over = (iterator::TABLE, Some(TABLE));
        let link = btf.map(|btf| iterator::prepare(ebpf, btf, PROGRAM, over));
        Ok(link.transpose()?.map(|link| Self { link }))
    }

    /// Begins to look at all connections that are open.
    pub fn look(&self) -> io::Result<Look> {
        Look::begin(&self.link)
    }
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
        let read = iterator::read(&mut self.file, &mut [0; CHUNK])?;
        Ok(read.is_none_or(|read| read > 0))
    }
}
