//! Every event to every consumer: what is shown in line, each other one by a queue and a
//! thread of its own, so that none of them can harm another one, or keep the ring waiting.

mod change;
mod slow;

use std::{
    io, iter, mem,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::change::{Change, Left, Request};
use self::slow::{Message, Slow};
use super::{
    consumer::{Consumer, END_GRACE, Needs, Overview, Stats},
    output::writer::WriteError,
    shown::Shown,
};
use crate::events::record::{Account, Header, Item, LoadedPolicy, Loss, Record, Summary};

/// All that take events.
pub struct FanOut {
    shown: Shown,
    slow: Vec<Slow>,
    /// What they began with.
    header: Option<Header>,
    /// What they were told to be counted by now.
    stats: Stats,
}

impl FanOut {
    /// To nobody but to what is shown.
    pub fn new(shown: Shown) -> Self {
        Self {
            shown,
            slow: Vec::new(),
            header: None,
            stats: Stats::default(),
        }
    }

    /// To `consumer` too, which gets a thread of its own.
    pub fn add(&mut self, consumer: Box<dyn Consumer>) -> io::Result<()> {
        self.slow.push(Slow::start(consumer)?);
        Ok(())
    }

    /// What any of them asks for.
    pub fn needs(&self) -> Needs {
        let others = self.slow.iter().map(Slow::needs);
        others.fold(self.shown.needs(), Needs::or)
    }

    /// What is shown.
    pub const fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Gives them the header.
    pub fn begin(&mut self, header: &Header) {
        self.shown.take(Item::Header(header));
        self.send(|| Message::Header(Arc::new(header.clone())));
        self.header = Some(header.clone());
    }

    /// Tells them that events may be judged by this policy from here on, whose file it is too.
    pub fn judged_by(&mut self, file: String, loaded: LoadedPolicy) {
        let Some(header) = &mut self.header else {
            return;
        };
        header.policy = Some(file);
        header.policy_loaded = Some(loaded);
        let header = Arc::new(header.clone());
        self.shown.take(Item::Policy(&header));
        self.send(|| Message::Policy(Arc::clone(&header)));
    }

    /// Lets consumers come and go between two events, each of which comes either to those
    /// before or to those after. For those that join, the stream begins at this time by either
    /// clock, in ns. Returns those that left.
    pub fn change(&mut self, mut change: Change, wall_ns: i128, boot_ns: u64) -> Vec<Left> {
        let leaves = |slow: &Slow| change.leaving.contains(&slow.name());
        let (left, stay) = mem::take(&mut self.slow).into_iter().partition(leaves);
        self.slow = stay;
        if change.reopens {
            self.reopen();
        }
        for mut slow in mem::take(&mut change.joining) {
            if slow.remembers_open() && self.slow.iter().any(Slow::remembers_open) {
                // That one knows more.
                slow.finish(Instant::now());
                continue;
            }
            slow.count_from(self.stats);
            if let Some(header) = &self.header {
                let header = Header {
                    wall_ns,
                    boot_ns,
                    ..header.clone()
                };
                slow.send(Message::Header(Arc::new(header)));
                slow.wake();
            }
            let register = self.slow.iter().find(|one| one.remembers_open());
            if let Some(register) = register.filter(|_| slow.asks_for_open()) {
                register.tell_open(&slow, wall_ns);
            }
            self.slow.push(slow);
        }
        Vec::into_iter(left).map(Left::new).collect()
    }

    /// Gives them an event. It is shared, and copied for that, only with others than what is
    /// shown.
    #[inline]
    pub fn take(&mut self, record: &Record) {
        self.shown.event(record);
        if !self.slow.is_empty() {
            self.share(record);
        }
    }

    fn share(&mut self, record: &Record) {
        let record = Arc::new(record.clone());
        for slow in &mut self.slow {
            slow.event(&record);
        }
    }

    /// Tells them of a loss before all of them.
    pub fn lose(&mut self, loss: &Loss) {
        self.shown.take(Item::Loss(loss));
        self.send(|| Message::Loss(*loss));
    }

    /// Nothing more comes for now.
    pub fn flush(&mut self) {
        self.shown.flush();
        self.slow.iter().for_each(Slow::wake);
    }

    /// Nothing more from before the start comes for now, or from before the end: whatever
    /// waits, what is shown has room for it.
    pub fn flush_early(&mut self) {
        self.shown.flush_early();
        self.slow.iter().for_each(Slow::wake);
    }

    /// So much from before the start waits that it is time to wait for them: `bytes` that are
    /// to be shown, or half of a queue.
    pub fn are_behind(&self, bytes: usize) -> bool {
        self.shown.waiting_bytes() >= bytes || self.slow.iter().any(Slow::is_behind)
    }

    /// Waits until they have taken all, but not longer than `patience`; whether they have.
    pub fn are_idle_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.shown.is_idle_within(patience)
            && self.slow.iter().all(|slow| slow.is_idle_by(deadline))
    }

    /// Tells them what was counted so far.
    pub fn tick(&mut self, stats: &Stats) {
        self.stats = *stats;
        self.shown.tick(stats);
        self.tell_overview();
        for slow in &mut self.slow {
            slow.tick(stats);
        }
    }

    /// Tells those that ask for it how the run stands.
    fn tell_overview(&self) {
        if !self.slow.iter().any(Slow::hears_of_others) {
            return;
        }
        let others = self.slow.iter().map(Slow::standing);
        let overview = Arc::new(Overview {
            began_ns: self.header.as_ref().map_or(0, |header| header.wall_ns),
            stats: self.stats,
            standings: iter::once(self.shown.standing()).chain(others).collect(),
        });
        for slow in self.slow.iter().filter(|slow| slow.hears_of_others()) {
            slow.hear(&overview);
        }
    }

    /// Has them open again what they write to.
    pub fn reopen(&mut self) {
        self.shown.reopen();
        self.send(|| Message::Reopen);
    }

    /// All events were given: what became of them, first of those for what is shown. What
    /// is not taken within `patience` is dropped.
    pub fn accounts(&mut self, patience: Duration) -> Vec<(&'static str, Account)> {
        let deadline = Instant::now() + patience;
        self.slow.iter().for_each(Slow::wake);
        let mut accounts = vec![(self.shown.name(), self.shown.account())];
        let others = self.slow.iter_mut();
        accounts.extend(others.map(|slow| (slow.name(), slow.settle(deadline))));
        accounts
    }

    /// Gives them the summary, and waits until they have it, but not for ever.
    pub fn end(mut self, summary: &Summary) -> Result<(), WriteError> {
        self.shown.take(Item::Summary(summary));
        self.send(|| Message::Summary(Arc::new(summary.clone())));
        let deadline = Instant::now() + END_GRACE;
        let written = self.shown.finish();
        for slow in self.slow {
            slow.finish(deadline);
        }
        written
    }

    fn send(&mut self, message: impl Fn() -> Message) {
        for slow in &mut self.slow {
            slow.send(message());
            slow.wake();
        }
    }
}

#[cfg(test)]
mod tests;
