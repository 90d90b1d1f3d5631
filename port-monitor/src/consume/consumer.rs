//! What takes events, what it asks for, and what it tells of itself.

use std::time::Duration;

use port_monitor_common::event::EventKind;

use super::found::{Open, Part};
use crate::events::record::{Account, Item, Loss, LossCause, Record};

/// How long the end of a run waits for consumers.
pub const END_GRACE: Duration = Duration::from_secs(2);

/// Takes events, and brings them somewhere. It is called by one thread at a time.
///
/// One that may wait, for a disk or for a peer, is given a thread of its own by the
/// [`FanOut`](super::FanOut), and may take as long as it likes.
pub trait Consumer: Send {
    /// What the account calls it: one word.
    fn name(&self) -> &'static str;

    /// What it asks for.
    fn needs(&self) -> Needs;

    /// Takes an item: the header first, then events that it needs, at the end the summary.
    fn take(&mut self, item: Item<'_>);

    /// Comes about twice a second.
    fn tick(&mut self, stats: &Stats);

    /// It asks to [`hear`](Self::hear) how the run stands.
    fn hears_of_others(&self) -> bool {
        false
    }

    /// What it is too slow for is a fault of the run; otherwise it is its own alone, and the end
    /// waits [`END_GRACE`] for it at most.
    fn is_owed_all(&self) -> bool {
        true
    }

    /// What it has to do with what is open when another one joins.
    fn part(&self) -> Part {
        Part::None
    }

    /// What is open by now, as far as it remembers that: so many events were lost before they
    /// came to it.
    fn open(&mut self, _lost: u64) -> Open {
        Open::default()
    }

    /// How the run stands. Comes before each tick to one that asks for it.
    fn hear(&mut self, _overview: &Overview) {}

    /// Opens again by its name what it writes to: somebody may have moved it away.
    fn reopen(&mut self) {}

    /// All events were given: does all that was put off.
    fn settle(&mut self) {}

    /// Nothing more comes for now: does what can be done at once, and tells what became of the
    /// events that it was given.
    fn account(&mut self) -> Account;
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// It is one of these.
    pub const fn has(self, kind: EventKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        let all = EventKind::ALL.into_iter();
        all.filter(move |kind| self.has(*kind))
    }
}

impl FromIterator<EventKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        let bits = kinds.into_iter().map(EventKind::bit);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

/// What a consumer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Events of these kinds.
    pub kinds: Kinds,
    /// Events that break no rule, too.
    pub allowed: bool,
    /// Who is at the other end of connections within this host.
    pub peers: bool,
}

impl Needs {
    /// Every event.
    pub const EVENTS: Self = Self {
        kinds: Kinds::ALL,
        allowed: true,
        peers: false,
    };

    /// What either asks for.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            kinds: self.kinds.or(other.kinds),
            allowed: self.allowed || other.allowed,
            peers: self.peers || other.peers,
        }
    }

    /// It asks for this event.
    pub fn has(&self, record: &Record) -> bool {
        self.kinds.has(record.event.action.kind()) && (self.allowed || record.is_violation())
    }
}

/// How a consumer stands while a run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What the account calls it.
    pub name: &'static str,
    /// What became by now of the events that came to it. Those on their way are in none of the
    /// parts.
    pub account: Account,
    /// What waits for it, in [`Room`].
    pub waiting: Room,
}

/// How a run stands while it goes on, whoever joined it later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// When it began, ns since the Unix epoch.
    pub began_ns: i128,
    /// What was counted since then.
    pub stats: Stats,
    /// How every consumer stands, first the one that shows events.
    pub standings: Vec<Standing>,
}

/// What waits for a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many events are formatted and not written yet.
    Lines(u64),
    /// Its queue has so many messages, of so many that there is room for.
    Queue(usize, usize),
}

/// What was counted so far, on its way to every consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By now, ns since the Unix epoch.
    pub wall_ns: i128,
    /// Events that the kernel side has seen, those of skipped programs too.
    pub seen: u64,
    /// Of these, those that a filter has kept back from every consumer.
    pub filtered: u64,
    /// Events lost because the kernel's ring was full.
    pub ring_full: u64,
    /// Events lost because the kernel skipped a program.
    pub skipped: u64,
    /// Records that this version cannot read.
    pub undecodable: u64,
    /// Events whose owner was not found out in time, where a filter has to know it.
    pub owner_late: u64,
    /// Events that this consumer's queue had no room for.
    pub queue_full: u64,
}

impl Stats {
    /// Of what was counted, what came after `before`.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            wall_ns: self.wall_ns,
            seen: self.seen.saturating_sub(before.seen),
            filtered: self.filtered.saturating_sub(before.filtered),
            ring_full: self.ring_full.saturating_sub(before.ring_full),
            skipped: self.skipped.saturating_sub(before.skipped),
            undecodable: self.undecodable.saturating_sub(before.undecodable),
            owner_late: self.owner_late.saturating_sub(before.owner_late),
            queue_full: self.queue_full.saturating_sub(before.queue_full),
        }
    }
}

/// The losses that a consumer has told of.
#[derive(Debug, Default)]
pub(super) struct Gaps([u64; 5]);

impl Gaps {
    /// Has `say` tell of those since the last time; where it cannot, the next time.
    pub(super) fn tell(&mut self, stats: &Stats, dropped: u64, mut say: impl FnMut(&Loss) -> bool) {
        let totals = [
            (LossCause::RingFull, stats.ring_full),
            (LossCause::ProgramSkipped, stats.skipped),
            (LossCause::OutputSlow, dropped),
            (LossCause::Undecodable, stats.undecodable),
            (LossCause::OwnerLate, stats.owner_late),
        ];
        for ((cause, total), told) in totals.into_iter().zip(&mut self.0) {
            let loss = Loss {
                wall_ns: stats.wall_ns,
                lost: total.saturating_sub(*told),
                total,
                cause,
            };
            if loss.lost > 0 && say(&loss) {
                *told = total;
            }
        }
    }
}
