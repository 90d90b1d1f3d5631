//! Consumers that come and go while events go on.

use std::{
    io, mem,
    time::{Duration, Instant},
};

use super::slow::Slow;
use crate::{consume::consumer::Consumer, events::record::Account};

/// Who takes events from now on, and who no longer does.
#[derive(Default)]
pub struct Change {
    pub(super) joining: Vec<Slow>,
    pub(super) leaving: Vec<&'static str>,
}

impl Change {
    /// Consumers of this name leave.
    pub fn leave(&mut self, name: &'static str) {
        self.leaving.push(name);
    }

    /// `consumer` joins, on a thread of its own that is there from now on.
    pub fn join(&mut self, consumer: Box<dyn Consumer>) -> io::Result<()> {
        self.joining.push(Slow::start(consumer)?);
        Ok(())
    }
}

impl Drop for Change {
    /// Ends the threads of those that did not come to join.
    fn drop(&mut self) {
        for slow in mem::take(&mut self.joining) {
            slow.finish(Instant::now());
        }
    }
}

/// A consumer that no event comes to any more. It still has to take those in its queue.
pub struct Left(pub(super) Slow);

impl Left {
    /// What the account calls it.
    pub const fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Waits until it has taken all. What it has not within `patience` is dropped.
    pub fn finish(self, patience: Duration) -> Account {
        let Self(mut slow) = self;
        let deadline = Instant::now() + patience;
        slow.wake();
        let account = slow.settle(deadline);
        slow.finish(deadline);
        account
    }
}
