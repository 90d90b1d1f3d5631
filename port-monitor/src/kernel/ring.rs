//! The ring buffer on tokio: sleeps while there is nothing, then drains in
//! capped batches.

use std::{io, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, MapError, RingBuf},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Records drained at a time, so that signals and timers get their turn.
pub const BATCH: usize = 4_096;

/// The consumer's end of the ring.
pub struct Ring {
    fd: AsyncFd<RingBuf<MapData>>,
    /// How long the reader lets events gather after a wake-up. The kernel wakes it
    /// only when it has caught up, so a burst costs one wake-up instead of
    /// thousands; a wake-up costs ten times everything else an event does.
    latency: Duration,
    /// The last batch ended at its cap: more is waiting.
    is_behind: bool,
}

impl Ring {
    /// Registers the ring with the running tokio runtime.
    pub(super) fn new(ring: RingBuf<MapData>, latency: Duration) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, and `AsyncFd` owns the ring: it
        // stays open, and the same, for as long as it is registered.
        let fd = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self {
            fd,
            latency,
            is_behind: false,
        })
    }

    /// Waits until there is something to drain. Cancel-safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        if !self.is_behind {
            self.fd.readable().await?.retain_ready();
            tokio::time::sleep(self.latency).await;
        }
        Ok(())
    }

    /// Hands up to [`BATCH`] records to `take`; returns how many.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut taken = 0;
        while taken < BATCH {
            let Some(record) = self.fd.get_mut().next() else {
                break;
            };
            take(&record);
            taken += 1;
        }
        self.is_behind = taken == BATCH;
        if !self.is_behind {
            clear_ready(&mut self.fd);
        }
        Ok(taken)
    }
}

/// Forgets the wake-up that led to a complete drain; the next one comes with
/// the next record.
fn clear_ready(fd: &mut AsyncFd<RingBuf<MapData>>) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    if let std::task::Poll::Ready(Ok(mut guard)) = fd.poll_read_ready(&mut context) {
        guard.clear_ready();
    }
}

/// Moves what is in the ring to the end of `records`.
pub(super) fn drain_into(ring: &mut RingBuf<MapData>, records: &mut Vec<Vec<u8>>) {
    while let Some(record) = ring.next() {
        records.push(record.to_vec());
    }
}

/// Takes the ring out of the object.
pub(super) fn take(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, MapError> {
    let map = ebpf
        .take_map("pm_events")
        .ok_or_else(|| MapError::InvalidName {
            name: "pm_events".to_owned(),
        })?;
    RingBuf::try_from(map)
}
