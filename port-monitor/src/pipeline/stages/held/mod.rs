//! Events that wait for what threads of their own look up of their processes: in order, not
//! too many, and none for long.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::events::{decode::Event, record::Missing};

/// Events held back before no more are to be taken, until some are told.
const ROOM: usize = 8_192;
/// Events held back where those to come wait as well elsewhere: they take less memory there.
const FEW: usize = 256;
/// Events told at once: more are no good size for an output.
const AT_ONCE: usize = 4_096;
/// What is not known of a process by then is late.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long answers are waited for where more events wait than there is room for.
const SHORT_PATIENCE: Duration = Duration::from_millis(250);
/// How long they are waited for where a wrong verdict or a missing line may come of it, or
/// where processors are busy.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// How long whoever takes events waits for answers at once.
const PAUSE: Duration = Duration::from_millis(5);
/// A wait in vain and what comes before the next take so long, unless processors are busy:
/// then those who look up get no turn either.
const ROUND: Duration = Duration::from_millis(20);

/// An event that waits.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) event: Event,
    /// Why it has no owner, if it has none.
    pub(super) missing: Missing,
    pub(super) since: Instant,
    /// Waits in vain before it.
    pub(super) waits: u32,
}

impl Pipeline {
    /// What is written depends on what is looked up of processes: that is waited for longer.
    pub const fn be_patient(&mut self) {
        self.is_patient = true;
    }

    /// Events wait to be told.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty() || self.has_more
    }

    /// Some more events may be taken.
    pub fn has_room(&self) -> bool {
        self.held.len() < ROOM
    }

    /// Tells the events whose processes are known by now, or have taken too long, unless
    /// there are very many; waits for a moment where there are others.
    pub fn catch_up(&mut self) {
        self.release();
        if !self.held.is_empty() {
            self.tell_held();
        }
    }

    /// Waits until few events are held back, but not longer than `patience`; returns what is
    /// left of that.
    pub fn hold_few(&mut self, patience: Duration) -> Duration {
        if self.held.len() <= FEW {
            return patience;
        }
        let began = Instant::now();
        while self.held.len() > FEW && began.elapsed() < patience {
            self.tell_held();
        }
        patience.saturating_sub(began.elapsed())
    }

    /// Waits until there is room, which is not long.
    pub fn make_room(&mut self) {
        while !self.has_room() {
            self.catch_up();
        }
    }

    /// Tells those of whose processes enough is known, and waits for others for a moment.
    fn tell_held(&mut self) {
        let deadline = Instant::now() + PAUSE;
        let mut room = AT_ONCE;
        loop {
            self.tell_known(&mut room);
            let left = deadline.saturating_duration_since(Instant::now());
            if self.held.is_empty() || room == 0 {
                return;
            }
            if left.is_zero() {
                self.waits = self.waits.wrapping_add(1);
                return self.enricher.hurry();
            }
            self.enricher.wait(left);
        }
    }

    fn tell_known(&mut self, room: &mut usize) {
        while let Some(&held) = self.held.front().filter(|_| *room > 0) {
            let Held { event, missing, .. } = held;
            let process = match (self.find(&event, missing), &event.owner) {
                (Some(process), _) => process,
                (None, _) if !self.is_late(&held) => return,
                (None, Some(owner)) => self.enricher.give_up(owner),
                (None, None) => self.enricher.nobody(missing),
            };
            self.held.pop_front();
            self.tell(&event, process);
            *room -= 1;
        }
    }

    /// What it waits for takes long: by the clock, and by the turns that there were.
    fn is_late(&self, held: &Held) -> bool {
        let waited = held.since.elapsed();
        let turns = ROUND * self.waits.wrapping_sub(held.waits);
        waited >= LONG_PATIENCE || waited.min(turns) >= self.patience(&held.event)
    }

    fn patience(&self, event: &Event) -> Duration {
        if self.is_patient || self.judging.is_some() && event.stamp.is_none() {
            LONG_PATIENCE
        } else if self.has_room() {
            PATIENCE
        } else {
            SHORT_PATIENCE
        }
    }
}

#[cfg(test)]
mod tests;
