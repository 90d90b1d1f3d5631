//! `--progress`: when open connections are looked at, and how much of the time that takes.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::kernel::progress::{Look, Progress};

/// How many times longer than a look took the next one waits.
const REST: u32 = 100;

/// Parts of a look that are read before signals and timers get their turn.
const PARTS: usize = 16;

/// When the next look is due, and the one that is under way.
pub(super) struct Ticks {
    interval: Duration,
    due: Instant,
    begun: Instant,
    look: Option<Look>,
    /// Processor time that the one under way has taken.
    taken: Duration,
}

impl Ticks {
    /// A look every `interval`, the first one after the first.
    pub(super) fn new(interval: Duration) -> Self {
        let begun = Instant::now();
        Self {
            interval,
            due: begun + interval,
            begun,
            look: None,
            taken: Duration::ZERO,
        }
    }

    /// Waits until there is something to look at.
    pub(super) async fn wait(&self) {
        if self.look.is_none() {
            tokio::time::sleep_until(self.due.into()).await;
        }
    }

    /// A look is under way.
    pub(super) const fn is_looking(&self) -> bool {
        self.look.is_some()
    }

    /// Looks at some of the connections, a few at a time, and has `drain` take what is in the
    /// ring after those. What fails is tried again when the next look is due.
    pub(super) fn step(
        &mut self,
        progress: &Progress,
        mut drain: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        if self.look.is_none() {
            self.begun = Instant::now();
            self.taken = Duration::ZERO;
        }
        let start = processor_time();
        let stepped = self.read(progress, &mut drain);
        self.taken += processor_time().saturating_sub(start);
        if self.look.is_none() {
            self.due = next(self.begun, Instant::now(), self.interval, self.taken);
            log::debug!("progress: a look took {:?} of processor time", self.taken);
        }
        stepped
    }

    /// The look stays where there may be more to read.
    fn read(
        &mut self,
        progress: &Progress,
        drain: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut look = match self.look.take() {
            Some(look) => look,
            None => progress.look()?,
        };
        for _ in 0..PARTS {
            let is_over = !look.read()?;
            drain()?;
            if is_over {
                return Ok(());
            }
        }
        self.look = Some(look);
        Ok(())
    }
}

/// When the look after one is due that took so much processor time: at its turn, unless that
/// was more than a hundredth of the time.
fn next(begun: Instant, ended: Instant, interval: Duration, taken: Duration) -> Instant {
    (begun + interval).max(ended + taken * REST)
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use crate::commands::watch::progress::*;

    #[test]
    fn a_look_takes_a_hundredth_of_the_time_at_most() {
        let begun = Instant::now();
        let ms = Duration::from_millis;
        let after = |taken| next(begun, begun + taken, ms(1_000), taken) - begun;
        assert_eq!(after(ms(0)), ms(1_000));
        assert_eq!(after(ms(9)), ms(1_000));
        assert_eq!(after(ms(50)), ms(5_050));
    }
}
