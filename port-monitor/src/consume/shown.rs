//! The consumer whose lines are shown: a formatter, and an output that keeps nobody waiting.

use std::{mem, time::Duration};

use super::{
    Due, Lines, Sink,
    consumer::{Consumer, END_GRACE, Gaps, Needs, Room, Standing, Stats},
    output::writer::{Counts, Output, Refused, WriteError},
};
use crate::events::record::{Account, Dropped, Item, Record};

/// What is shown: the table, JSON lines, or a list at the end.
pub struct Shown {
    needs: Needs,
    /// No more events than so many.
    limit: Option<u64>,
    /// Whether a run goes on that nobody sees any more.
    unseen: Unseen,
    sink: Box<dyn Sink>,
    output: Output,
    chunk: Lines,
    gaps: Gaps,
    /// Columns of the terminal, where the output is one.
    width: Option<usize>,
    hidden: u64,
    formatted: u64,
    refused: Dropped,
    violations: u64,
}

/// What becomes of a run whose output has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unseen {
    /// It ends too.
    Ends,
    /// It goes on for others.
    GoesOn,
}

impl Shown {
    /// Every event, by `sink` on `output`.
    pub fn new(sink: Box<dyn Sink>, output: Output) -> Self {
        Self {
            needs: Needs::EVENTS,
            limit: None,
            unseen: Unseen::Ends,
            sink,
            width: output.terminal_width(),
            chunk: output.buffer(),
            output,
            gaps: Gaps::default(),
            hidden: 0,
            formatted: 0,
            refused: Dropped::default(),
            violations: 0,
        }
    }

    /// Only what these ask for, and no more events than `limit`.
    #[must_use]
    pub fn only(self, needs: Needs, limit: Option<u64>) -> Self {
        Self {
            needs,
            limit,
            ..self
        }
    }

    /// Goes on for others where nothing can be shown any more.
    #[must_use]
    pub fn beside_others(self) -> Self {
        let unseen = Unseen::GoesOn;
        Self { unseen, ..self }
    }

    /// As many events were shown as were asked for, or no more can be.
    pub fn is_done(&self) -> bool {
        self.is_full() || self.unseen == Unseen::Ends && self.output.has_ended()
    }

    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.formatted >= limit)
    }

    /// Events of the kinds asked for that broke the policy, shown or not.
    pub const fn violations(&self) -> u64 {
        self.violations
    }

    /// The output is a terminal, whose width is followed.
    pub const fn is_on_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Bytes that are formatted and not handed to the output yet.
    pub const fn waiting_bytes(&self) -> usize {
        self.chunk.len()
    }

    /// Takes an event.
    pub fn event(&mut self, record: &Record) {
        let needs = &self.needs;
        let is_violation = record.is_violation();
        let action = &record.event.action;
        let is_asked_for = needs.kinds.has(action.kind());
        let is_new = !action.is_told_again();
        self.violations += u64::from(is_violation && is_new && is_asked_for);
        if is_asked_for && (needs.allowed || is_violation) && !self.is_full() {
            self.sink.write(&mut self.chunk, Item::Event(record));
            self.formatted += 1;
        } else {
            self.hidden += 1;
        }
    }

    /// Hands what is formatted to the output, which may have no room for it.
    pub fn flush(&mut self) {
        self.hand_over(Output::try_push);
    }

    /// Hands formatted events from before the start to the output, however many wait: they
    /// are not more than there are sockets.
    pub fn flush_early(&mut self) {
        self.hand_over(Output::push);
    }

    /// Waits until all is written, but not longer than `patience`; whether it is.
    pub fn is_idle_within(&self, patience: Duration) -> bool {
        self.output.is_idle_within(patience)
    }

    /// How it stands by now. Nothing is waited for.
    pub fn standing(&self) -> Standing {
        let account = Account {
            error: self.output.has_ended().then(|| "it has ended".to_owned()),
            ..self.account_of(self.output.counts())
        };
        let done = account.taken + account.hidden + account.dropped.total();
        Standing {
            name: self.name(),
            waiting: Room::Lines(account.delivered.saturating_sub(done)),
            account,
        }
    }

    fn account_of(&self, counts: Counts) -> Account {
        // Of what is lost, what was refused is known; the rest was in the queue.
        let queued = counts.lost.saturating_sub(self.refused.total());
        let mut dropped = self.refused;
        if self.output.has_ended() {
            dropped.failed += queued;
        } else {
            dropped.unfinished += queued;
        }
        Account {
            delivered: self.hidden + self.formatted,
            taken: counts.written,
            hidden: self.hidden,
            dropped,
            error: None,
        }
    }

    /// Waits for the last line, but not for ever.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.flush();
        self.output.finish(END_GRACE).1
    }

    /// Something other than an event, after the events before it; whether it was taken.
    fn say(&mut self, item: Item<'_>) -> bool {
        self.release(Due::Now);
        self.sink.write(&mut self.chunk, item);
        self.hand_over(Output::try_push)
    }

    /// Hands the events that the sink holds back to the output, as far as they are `due`.
    fn release(&mut self, due: Due) {
        self.sink.release(&mut self.chunk, due);
        self.flush();
    }

    /// Lays the table out anew when its terminal has another width.
    fn follow_terminal(&mut self) {
        let width = self.output.terminal_width();
        if let Some(columns) = width.filter(|_| width != self.width) {
            self.sink.release(&mut self.chunk, Due::Now);
            self.sink.resize(&mut self.chunk, columns);
            self.flush();
            self.width = width;
        }
    }

    fn hand_over(&mut self, push: impl FnOnce(&Output, Lines) -> Result<(), Refused>) -> bool {
        if self.chunk.is_empty() && self.chunk.events() == 0 {
            return true;
        }
        let chunk = mem::replace(&mut self.chunk, self.output.buffer());
        let events = chunk.events();
        let result = push(&self.output, chunk);
        match result {
            Ok(()) => {}
            Err(Refused::Full) => self.refused.queue_full += events,
            Err(Refused::Ended) => self.refused.failed += events,
        }
        result.is_ok()
    }
}

impl Consumer for Shown {
    fn name(&self) -> &'static str {
        "output"
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Event(record) => self.event(record),
            Item::Header(_) | Item::Policy(_) | Item::Loss(_) | Item::Summary(_) => {
                self.say(item);
            }
        }
    }

    /// Shows the events held back that are due, and what was lost since the last tick.
    fn tick(&mut self, stats: &Stats) {
        self.output.reopen_if_asked();
        self.follow_terminal();
        self.release(Due::By(stats.wall_ns));
        let mut gaps = mem::take(&mut self.gaps);
        gaps.tell(stats, self.refused.total(), |loss| {
            self.say(Item::Loss(loss))
        });
        self.gaps = gaps;
    }

    fn reopen(&mut self) {
        self.output.reopen();
    }

    fn account(&mut self) -> Account {
        self.release(Due::Now);
        self.account_of(self.output.drain(END_GRACE))
    }
}
