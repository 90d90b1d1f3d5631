//! What a run reports, on its way to who shows it.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};

use super::{Holders, ring};
use crate::host::holding::Wanted;

/// What the programs report.
pub struct Records {
    pub(super) ring: RingBuf<MapData>,
    pub(super) violations: Option<RingBuf<MapData>>,
    pub(super) latency: Duration,
    /// What of inbound connections is asked for, where the records do not tell whose they
    /// are; and who tells it, unless the kernel refuses that.
    pub inbound: Option<(Wanted, Option<Holders>)>,
    /// What arrived while the self-test ran, oldest first.
    pub early: Vec<Vec<u8>>,
}

impl Records {
    /// Registers the ring with the running tokio runtime.
    pub fn into_ring(self) -> io::Result<ring::Ring> {
        ring::Ring::new(self.ring, self.violations, self.latency)
    }
}
