//! Who has a listener open now, and who has closed one: asked of the kernel when connections
//! have come in on the tracepoint backend.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use port_monitor_common::{listener::Holder, site::Site};
use zerocopy::FromBytes as _;

use super::{
    aya_workarounds::forged_btf::LazyBtf, bpf, btf::Need, counters::Counters, error::KernelError,
    host_btf::Types, iterator, ring, snapshot,
};
use crate::host::{
    clock,
    holding::{Seen, Source},
};

/// The program that tells who has it open.
pub(super) const PROGRAM: &str = "pm_holders_it";
/// The ring of those who have closed one.
pub(super) const CLOSERS: &str = "pm_closers";

/// How much is read at a time: whole records.
const CHUNK: usize = 256 * size_of::<Holder>();

/// The kernel's answers. Needs nothing else that is loaded or attached. Nothing is looked up
/// in a table: while it is, the kernel runs no programs of perf events on that processor, on
/// a preemptible one not even those of others.
pub struct Holders {
    /// Each look at all open files is a file of its own.
    open: OwnedFd,
    closed: RingBuf<MapData>,
    counters: Counters,
    /// Closers that the ring had no room for.
    lost: u64,
}

impl Holders {
    /// Those of a run, where the kernel has what is asked; else there is one blind spot more.
    pub(super) fn of(
        types: &Types,
        ebpf: &mut Ebpf,
        btf: &LazyBtf,
        blind_spots: &mut Vec<String>,
    ) -> Option<Self> {
        let holders = match types.lacks(Need::Holders) {
            Some(error) => Err(KernelError::Snapshot(error.to_string())),
            None => Self::open(ebpf, btf),
        };
        let holders = holders.map_err(|error| {
            blind_spots.push(format!("who owns inbound connections: {error}"));
        });
        holders.ok()
    }

    /// Loads the programs.
    fn open(ebpf: &mut Ebpf, btf: &LazyBtf) -> Result<Self, KernelError> {
        Ok(Self {
            open: iterator::prepare(ebpf, btf, PROGRAM, (snapshot::ITERATED, None))?,
            closed: ring::take(ebpf, CLOSERS)?,
            counters: Counters::map(ebpf)?,
            lost: 0,
        })
    }
}

impl Source for Holders {
    fn look(&mut self) -> io::Result<Seen> {
        // Whoever closes it meanwhile is among the one or the other.
        let open = read(self.open.as_fd())?;
        let mut closed = Vec::new();
        while let Some(record) = self.closed.next() {
            closed.extend(Holder::read_from_bytes(&record).ok());
        }
        let lost = self.counters.failures_at(Site::TellCloser);
        let is_lost = lost != mem::replace(&mut self.lost, lost);
        Ok(Seen {
            lost_ns: is_lost.then(clock::boot_ns),
            ..Seen::new(open, closed)
        })
    }
}

fn read(link: BorrowedFd<'_>) -> io::Result<Vec<Holder>> {
    let mut file = File::from(bpf::begin_iteration(link)?);
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match iterator::read(&mut file, &mut chunk)? {
            Some(0) => break,
            Some(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            None => {}
        }
    }
    let records = bytes.chunks_exact(size_of::<Holder>());
    Ok(records
        .filter_map(|record| Holder::read_from_bytes(record).ok())
        .collect())
}
