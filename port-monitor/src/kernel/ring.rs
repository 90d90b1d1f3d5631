//! The ring buffers on tokio: sleeps while there is nothing, then drains in
//! capped batches.

use std::{io, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, MapError, RingBuf},
};
use port_monitor_common::TcpEvent;
use rustix::{thread::nanosleep, time::Timespec};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes as _;

/// The map that is the ring of events.
pub(super) const EVENTS: &str = "pm_events";
/// The map that is the ring of those that the policy does not want.
pub(super) const VIOLATIONS: &str = "pm_violations";

/// Records drained at a time, so that signals and timers get their turn.
pub const BATCH: usize = 4_096;

/// So briefly the thread sleeps by itself: a signal ends that, and whatever else happens
/// meanwhile can wait as long. A timer of the runtime costs several times as much.
const BRIEF: Duration = Duration::from_millis(20);

/// The consumer's end of the rings.
pub struct Ring {
    fd: AsyncFd<RingBuf<MapData>>,
    violations: Option<Violations>,
    /// How long the reader lets events gather after a wake-up. The kernel wakes it
    /// only when it has caught up, so a burst costs one wake-up instead of
    /// thousands; a wake-up costs ten times everything else an event does.
    latency: Duration,
    /// The last batch ended at its cap, or there was none yet: more is waiting.
    is_behind: bool,
    /// The last batch was not empty: more will come, and nobody needs to be woken for it.
    is_busy: bool,
}

impl Ring {
    /// Registers the ring with the running tokio runtime.
    pub(super) fn new(
        ring: RingBuf<MapData>,
        violations: Option<RingBuf<MapData>>,
        latency: Duration,
    ) -> io::Result<Self> {
        let violations = violations.map(|ring| {
            Ok::<_, io::Error>(Violations {
                fd: register(ring)?,
                next: None,
            })
        });
        Ok(Self {
            fd: register(ring)?,
            violations: violations.transpose()?,
            latency,
            // What came during the start has waited long enough.
            is_behind: true,
            is_busy: false,
        })
    }

    /// Waits until there is something to drain. Cancel-safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        if self.is_behind {
            return Ok(());
        }
        if !self.is_busy {
            match &self.violations {
                Some(violations) => tokio::select! {
                    ready = self.fd.readable() => ready?.retain_ready(),
                    ready = violations.fd.readable() => ready?.retain_ready(),
                },
                None => self.fd.readable().await?.retain_ready(),
            }
        }
        gather(self.latency).await;
        Ok(())
    }

    /// Whether the next wait may go by without the runtime, which then sees neither
    /// signals nor timers unless it gets its turn.
    pub const fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Hands about [`BATCH`] records to `take`, those of both rings in the order of
    /// their times; returns how many.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut taken = 0;
        while taken < BATCH {
            let Some(record) = self.fd.get_mut().next() else {
                break;
            };
            if let Some(violations) = &mut self.violations {
                taken += violations.drain_until(time_of(&record), &mut take);
            }
            take(&record);
            taken += 1;
        }
        self.is_behind = taken >= BATCH;
        if !self.is_behind {
            clear_ready(&mut self.fd);
            if let Some(violations) = &mut self.violations {
                clear_ready(&mut violations.fd);
                let rest = violations.drain_until(u64::MAX, &mut take);
                self.is_behind = rest == BATCH;
                taken += rest;
            }
        }
        self.is_busy = taken > 0;
        Ok(taken)
    }
}

/// Lets events gather for so long.
async fn gather(latency: Duration) {
    if latency > BRIEF {
        return tokio::time::sleep(latency).await;
    }
    // A signal is a good reason to wait no longer.
    let _ = nanosleep(&Timespec {
        tv_sec: 0,
        tv_nsec: latency.subsec_nanos().into(),
    });
}

/// The ring of violations: drained with the other, in one order.
struct Violations {
    fd: AsyncFd<RingBuf<MapData>>,
    /// Its oldest record, if that was looked at.
    next: Option<Vec<u8>>,
}

impl Violations {
    /// Hands all that are not later to `take`; returns how many.
    fn drain_until(&mut self, time_ns: u64, take: &mut impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        while taken < BATCH {
            if self.next.is_none() {
                self.next = self.fd.get_mut().next().map(|record| record.to_vec());
            }
            match &self.next {
                Some(next) if time_of(next) <= time_ns => take(next),
                _ => break,
            }
            self.next = None;
            taken += 1;
        }
        taken
    }
}

/// When the event of a record was, `CLOCK_BOOTTIME` ns; zero if it is none.
pub(super) fn time_of(record: &[u8]) -> u64 {
    TcpEvent::read_from_prefix(record).map_or(0, |(event, _)| event.ts_ns)
}

fn register(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, and `AsyncFd` owns the ring: it
    // stays open, and the same, for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
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

/// Takes a ring out of the object.
pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<RingBuf<MapData>, MapError> {
    let map = ebpf.take_map(name).ok_or_else(|| MapError::InvalidName {
        name: name.to_owned(),
    })?;
    RingBuf::try_from(map)
}
