//! What is left at the stop of connections and listeners whose end every program missed, by
//! an iterator over the tables of those that are remembered.

use std::{io, os::fd::OwnedFd};

use aya::Ebpf;

use super::{
    aya_workarounds::forged_btf::LazyBtf, backends::Needs, error::KernelError, iterator, progress,
};

/// The program that looks at what is remembered.
pub(super) const PROGRAM: &str = "pm_left_it";

/// The tables.
const TABLES: [&str; 2] = ["pm_connections", "pm_listening"];

/// The iterators, ready to begin.
#[derive(Debug)]
pub(super) struct Left {
    links: Vec<OwnedFd>,
}

impl Left {
    /// The iterators, where anything is remembered.
    pub(super) fn wanted(
        needs: &Needs,
        ebpf: &mut Ebpf,
        btf: &LazyBtf,
    ) -> Result<Self, KernelError> {
        let links = if needs.wants_outcomes() {
            let program = iterator::load(ebpf, btf, PROGRAM, iterator::TABLE)?;
            let tie = |table: &&str| iterator::tie(ebpf, &program, Some(table));
            TABLES.iter().map(tie).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        Ok(Self { links })
    }

    /// Looks once. The first look, while the programs are attached, notes what is over; the
    /// second one, when none runs any more, counts what is still there of that. A failure is
    /// logged.
    pub(super) fn look(&self) {
        if let Err(error) = self.links.iter().try_for_each(look) {
            log::warn!("look at what is left of connections: {error}");
        }
    }
}

fn look(link: &OwnedFd) -> io::Result<()> {
    let mut look = progress::Look::begin(link)?;
    while look.read()? {}
    Ok(())
}
