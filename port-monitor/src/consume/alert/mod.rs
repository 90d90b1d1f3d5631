//! Tells people of what they asked to be told of at once: in the journal, and by a command.
//! What is told of and how loudly is in `choice`, how often in `gate`, in which words in
//! `words`.

mod args;
mod choice;
mod command;
mod gate;
mod journal;
mod words;

use std::{
    mem, thread,
    time::{Duration, Instant},
};

use port_monitor_common::event::EventKind;

pub use self::args::Args;
use self::{
    choice::Choice,
    command::{Commands, Job},
    gate::{Gate, Rate, Told},
    journal::Journal,
    words::Words,
};
use super::consumer::{Consumer, END_GRACE, Gaps, Kinds, Needs, Stats};
use crate::events::{
    alert::AlertKind,
    record::{Account, Dropped, Item, Loss, Record},
};

/// What the end waits for commands: less than it waits for consumers.
const COMMAND_GRACE: Duration = END_GRACE.saturating_sub(Duration::from_millis(500));

/// How often the end looks whether commands are done.
const LOOK: Duration = Duration::from_millis(10);

/// How urgent it is, as syslog numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Priority {
    /// Worth waking somebody.
    Alert = 1,
    Error = 3,
    Warning = 4,
    Notice = 5,
}

/// What somebody is told of.
#[derive(Clone, Debug)]
struct Alert {
    kind: AlertKind,
    priority: Priority,
    subject: Subject,
}

#[derive(Clone, Debug)]
enum Subject {
    Event(Box<Record>),
    Loss(Loss),
}

/// When a loss is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// As soon as it may be.
    MayBe,
    /// Now: nothing comes after it.
    AtTheEnd,
}

/// Events that commands are done with, or never will be.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    taken: u64,
    failed: u64,
}

/// Tells of events.
pub struct Alerts {
    choice: Choice,
    gate: Gate,
    words: Words,
    journal: Option<Journal>,
    commands: Option<Commands>,
    gaps: Gaps,
    /// What was counted by the last tick.
    stats: Stats,
    hidden: u64,
    done: Done,
}

impl Alerts {
    /// Alerts of these kinds, at most so many, told nowhere.
    fn new(on: &[AlertKind], rate: Rate) -> Self {
        Self {
            choice: Choice::new(on),
            gate: Gate::new(rate),
            words: Words::default(),
            journal: None,
            commands: None,
            gaps: Gaps::default(),
            stats: Stats::default(),
            hidden: 0,
            done: Done::default(),
        }
    }

    fn event(&mut self, record: &Record, now: Instant) {
        let Some((kind, priority)) = self.choice.of(record) else {
            self.hidden += 1;
            return;
        };
        let alert = Alert {
            kind,
            priority,
            subject: Subject::Event(Box::new(record.clone())),
        };
        match self.gate.offer(alert, now) {
            Ok(told) => self.tell(&told, now),
            Err(alert) => self.gate.hold(alert, now),
        }
    }

    /// Tells what was lost, where `when` lets that through; or else the next time, with more.
    fn losses(&mut self, now: Instant, when: When) {
        let stats = self.stats;
        let mut gaps = mem::take(&mut self.gaps);
        gaps.tell(&stats, stats.queue_full, |loss| {
            let Some((kind, priority)) = self.choice.of_loss() else {
                return true;
            };
            let alert = Alert {
                kind,
                priority,
                subject: Subject::Loss(*loss),
            };
            let told = match when {
                When::MayBe => self.gate.offer(alert, now),
                When::AtTheEnd => Ok(Told::alone(alert)),
            };
            told.map(|told| self.tell(&told, now)).is_ok()
        });
        self.gaps = gaps;
    }

    /// Brings one, and the number of those that were held back before it, to where they are told.
    fn tell(&mut self, told: &Told, now: Instant) {
        let line = self.words.line(told);
        let is_told = match &mut self.journal {
            Some(journal) => journal.send(&self.words.entry(told, &line)),
            None => true,
        };
        let job = Job {
            line,
            events: told.events(),
            is_told,
        };
        match &mut self.commands {
            Some(commands) => commands.queue(job, now, &mut self.done),
            None => self.done.add(job.events, is_told),
        }
    }

    /// What time alone brings: the ends of commands, and numbers that nothing else would tell.
    fn look(&mut self, now: Instant) {
        if let Some(commands) = &mut self.commands {
            commands.look(now, &mut self.done);
        }
        for told in self.gate.due(now) {
            self.tell(&told, now);
        }
    }

    /// Waits for commands, and kills those that go on.
    fn finish(&mut self, deadline: Instant) {
        let Some(commands) = &mut self.commands else {
            return;
        };
        while !commands.is_idle() {
            let now = Instant::now();
            commands.look(now, &mut self.done);
            if now >= deadline {
                commands.abandon(&mut self.done);
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

impl Done {
    const fn add(&mut self, events: u64, is_told: bool) {
        if is_told {
            self.taken += events;
        } else {
            self.failed += events;
        }
    }
}

impl Consumer for Alerts {
    fn name(&self) -> &'static str {
        "alert"
    }

    fn needs(&self) -> Needs {
        Needs {
            kinds: kinds(),
            allowed: self.choice.asks_for_allowed(),
            peers: false,
        }
    }

    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Header(header) | Item::Policy(header) => self.words.begin(header),
            Item::Event(record) => self.event(record, Instant::now()),
            Item::Loss(_) | Item::Summary(_) => {}
        }
    }

    fn tick(&mut self, stats: &Stats) {
        self.stats = *stats;
        let now = Instant::now();
        self.losses(now, When::MayBe);
        self.look(now);
    }

    fn settle(&mut self) {
        let now = Instant::now();
        self.losses(now, When::AtTheEnd);
        for told in self.gate.rest(now) {
            self.tell(&told, now);
        }
        self.finish(now + COMMAND_GRACE);
    }

    fn account(&mut self) -> Account {
        let Done { taken, failed } = self.done;
        let journal = self.journal.as_ref().and_then(Journal::error);
        let commands = self.commands.as_ref().and_then(Commands::error);
        Account {
            delivered: taken + self.hidden + failed,
            taken,
            hidden: self.hidden,
            dropped: Dropped {
                failed,
                ..Dropped::default()
            },
            error: journal.or(commands).map(str::to_owned),
        }
    }
}

/// Kinds of events that may be told of: an attempt is, with its outcome.
fn kinds() -> Kinds {
    let kinds = [
        EventKind::Connected,
        EventKind::Failed,
        EventKind::Accept,
        EventKind::Preexisting,
        EventKind::Listen,
        EventKind::Restored,
    ];
    kinds.into_iter().collect()
}

#[cfg(test)]
mod tests;
