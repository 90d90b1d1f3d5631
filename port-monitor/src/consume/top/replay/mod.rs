//! A recording that is played: what was known at any time of it. Pure: whoever plays it tells
//! how much time has passed, and how long it may take.
//!
//! What is shown at a time follows from the recording and that time alone: all that was told
//! until then is taken in its order, with a tick each half of a second of the recording. So it
//! is the same whether it was reached by playing, by steps, or by a jump back or forth.

use std::time::Duration;

use super::model::{Model, Recorded, Told};
use crate::{
    consume::consumer::Stats,
    events::record::{Header, Item, Loss, Record},
};

/// How often a live view is told the time.
const TICK_NS: i128 = 500_000_000;
/// Ticks after which nothing changes any more but the time.
const QUIET_TICKS: u8 = 2;
/// States that are kept to begin from when it goes back, and how many connections one has.
const KEPT_STATES: usize = 16;
const KEPT_CONNECTIONS: usize = 20_000;
/// Entries that are taken between two looks at the clock.
const AT_ONCE: u32 = 256;

/// How many times faster than it was it is played.
pub const SPEEDS: [u32; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];

/// What a line of a recording tells.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of them are the largest one"
)]
pub enum Entry {
    /// A run begins.
    Start(Box<Header>),
    /// Events may be judged by another policy from here on, which the header names.
    Policy(Box<Header>),
    /// An event.
    Event(Record),
    /// A gap.
    Loss(Loss),
    /// A run ends at this time, ns since the Unix epoch.
    End(i128, Told),
}

impl Entry {
    const fn wall_ns(&self) -> i128 {
        match self {
            Self::Start(header) | Self::Policy(header) => header.wall_ns,
            Self::Event(record) => record.wall_ns,
            Self::Loss(loss) => loss.wall_ns,
            Self::End(wall_ns, _) => *wall_ns,
        }
    }
}

/// A recording.
#[derive(Debug, Default)]
pub struct Recording {
    /// Each with the time at which it is told. That never goes back, as a clock may.
    entries: Vec<(i128, Entry)>,
    of: Recorded,
    events: usize,
}

impl Recording {
    /// An empty one of this name.
    pub fn new(name: String) -> Self {
        Self {
            of: Recorded {
                name,
                ..Recorded::default()
            },
            ..Self::default()
        }
    }

    /// What the next line tells.
    pub fn push(&mut self, entry: Entry) {
        if let Entry::Event(record) = &entry {
            self.events += 1;
            let action = record.event.action;
            self.of.listeners += u64::from(action.is_listener());
            self.of.progress +=
                u64::from(matches!(action, crate::events::decode::Action::Progress(_)));
        }
        let last = self.entries.last().map_or(i128::MIN, |(at_ns, _)| *at_ns);
        self.entries.push((entry.wall_ns().max(last), entry));
    }

    /// A line that is not known.
    pub const fn pass_over(&mut self) {
        self.of.unknown += 1;
    }

    /// Events in it.
    pub const fn events(&self) -> usize {
        self.events
    }

    /// Lines that are not known.
    pub const fn unknown(&self) -> u64 {
        self.of.unknown
    }
}

/// Where the playing stands, for who looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// When it begins, ns since the Unix epoch.
    pub begin_ns: i128,
    /// When it ends.
    pub end_ns: i128,
    /// The time that is shown.
    pub now_ns: i128,
    /// How fast it is played.
    pub speed: u32,
    /// Time goes on.
    pub is_playing: bool,
    /// The time that was asked for is not reached yet.
    pub is_behind: bool,
}

/// What somebody wants of the playing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To go on, or to stop.
    Toggle,
    /// To the next event, or to the one before.
    Step(Way),
    /// So many seconds on, or back.
    By(i64),
    /// To this time, ns since the Unix epoch.
    To(i128),
    /// Faster, or slower.
    Speed(Way),
}

/// One way or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On.
    Forth,
    /// Back.
    Back,
}

/// How far the entries are taken.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The entry that comes next.
    next: usize,
    /// The tick that comes next.
    tick_ns: i128,
    /// Ticks since the last entry.
    quiet: u8,
}

/// Plays a recording.
#[derive(Debug)]
pub struct Player {
    recording: Recording,
    model: Model,
    place: Place,
    /// The time that is to be shown.
    target_ns: i128,
    speed: usize,
    is_playing: bool,
    kept: Vec<(Place, Box<Model>)>,
}

impl Player {
    /// Plays a recording from its beginning on; `None` where nothing is in it.
    pub fn new(recording: Recording) -> Option<Self> {
        let (begin_ns, _) = *recording.entries.first()?;
        let mut player = Self {
            model: Model::default(),
            place: Place {
                next: 0,
                tick_ns: begin_ns + TICK_NS,
                quiet: 0,
            },
            target_ns: begin_ns,
            speed: 0,
            is_playing: true,
            kept: Vec::new(),
            recording,
        };
        player.rewind();
        Some(player)
    }

    /// What is known at the time that is reached.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Where the playing stands.
    pub fn bar(&self) -> Bar {
        let reached = self.recording.entries.get(self.place.next.wrapping_sub(1));
        let is_behind = !self.is_there();
        Bar {
            begin_ns: self.begin_ns(),
            end_ns: self.end_ns(),
            now_ns: match reached {
                Some((at_ns, _)) if is_behind => *at_ns,
                _ => self.target_ns,
            },
            speed: SPEEDS.get(self.speed).copied().unwrap_or(1),
            is_playing: self.is_playing,
            is_behind,
        }
    }

    /// Does as somebody wants.
    pub fn take(&mut self, wanted: Move) {
        match wanted {
            Move::Toggle if self.target_ns >= self.end_ns() => {
                self.seek(self.begin_ns());
                self.is_playing = true;
            }
            Move::Toggle => self.is_playing = !self.is_playing,
            Move::Step(way) => {
                self.is_playing = false;
                self.seek(self.neighbour(way));
            }
            Move::By(seconds) => {
                self.seek(self.target_ns + i128::from(seconds) * 1_000_000_000);
            }
            Move::To(ns) => self.seek(ns),
            Move::Speed(way) => {
                self.speed = match way {
                    Way::Forth => (self.speed + 1).min(SPEEDS.len() - 1),
                    Way::Back => self.speed.saturating_sub(1),
                };
            }
        }
    }

    /// So much time has passed. A time that is not reached yet is waited for.
    pub fn pass(&mut self, passed: Duration) {
        if self.is_playing && self.is_there() {
            let passed = i128::try_from(passed.as_nanos()).unwrap_or(0);
            let speed = SPEEDS.get(self.speed).copied().unwrap_or(1);
            let target_ns = self.target_ns + passed * i128::from(speed);
            self.target_ns = target_ns.min(self.end_ns());
            // Who goes back from there finds it standing still.
            self.is_playing = self.target_ns < self.end_ns();
        }
    }

    /// Takes what is told until the time that is to be shown, for as long as there `is_time`;
    /// whether it is reached.
    pub fn approach(&mut self, mut is_time: impl FnMut() -> bool) -> bool {
        let mut taken = 0_u32;
        while self.step() {
            taken += 1;
            if taken.is_multiple_of(AT_ONCE) && !is_time() {
                return self.is_there();
            }
        }
        true
    }

    fn begin_ns(&self) -> i128 {
        self.recording.entries.first().map_or(0, |(ns, _)| *ns)
    }

    fn end_ns(&self) -> i128 {
        self.recording.entries.last().map_or(0, |(ns, _)| *ns)
    }

    fn next_ns(&self) -> Option<i128> {
        let next = self.recording.entries.get(self.place.next);
        next.map(|(at_ns, _)| *at_ns)
    }

    fn is_there(&self) -> bool {
        self.place.tick_ns > self.target_ns && self.next_ns().is_none_or(|ns| ns > self.target_ns)
    }

    /// The time of the next entry that is told at another time, or of the one before.
    fn neighbour(&self, way: Way) -> i128 {
        let entries = &self.recording.entries;
        match way {
            Way::Forth => {
                let next = entries.partition_point(|(ns, _)| *ns <= self.target_ns);
                entries.get(next).map_or(self.target_ns, |(ns, _)| *ns)
            }
            Way::Back => {
                let last = entries.partition_point(|(ns, _)| *ns < self.target_ns);
                let last = last.checked_sub(1).and_then(|last| entries.get(last));
                last.map_or(self.target_ns, |(ns, _)| *ns)
            }
        }
    }

    fn seek(&mut self, wall_ns: i128) {
        let wall_ns = wall_ns.clamp(self.begin_ns(), self.end_ns());
        if wall_ns < self.target_ns {
            self.go_back(wall_ns);
        }
        self.target_ns = wall_ns;
    }

    /// To a state before that time, or at it.
    fn go_back(&mut self, wall_ns: i128) {
        let kept = self.kept.iter().rev();
        let mut kept = kept.filter(|(place, _)| self.is_before(*place, wall_ns));
        if let Some((place, model)) = kept.next() {
            self.place = *place;
            self.model.clone_from(model);
        } else {
            self.rewind();
        }
    }

    /// Nothing that was taken until there is told after that time.
    fn is_before(&self, place: Place, wall_ns: i128) -> bool {
        let last = place.next.checked_sub(1);
        let last = last.and_then(|last| self.recording.entries.get(last));
        place.tick_ns - TICK_NS <= wall_ns && last.is_none_or(|(ns, _)| *ns <= wall_ns)
    }

    fn rewind(&mut self) {
        self.model = Model::of_recording(self.recording.of.clone());
        self.place = Place {
            next: 0,
            tick_ns: self.begin_ns() + TICK_NS,
            quiet: 0,
        };
    }

    /// Takes what comes next, if that is not after the time that is to be shown.
    fn step(&mut self) -> bool {
        let next_ns = self.next_ns().filter(|ns| *ns <= self.target_ns);
        if next_ns.is_some_and(|ns| ns < self.place.tick_ns) {
            self.keep();
            self.tell();
            return true;
        }
        if self.place.tick_ns > self.target_ns {
            return false;
        }
        // However long nothing is told, it takes no time.
        if self.place.quiet >= QUIET_TICKS {
            let until_ns = next_ns.unwrap_or(self.target_ns);
            let ticks = (until_ns - self.place.tick_ns).max(0) / TICK_NS;
            self.place.tick_ns += ticks * TICK_NS;
        }
        self.model.tick(&Stats {
            wall_ns: self.place.tick_ns,
            ..Stats::default()
        });
        self.place.tick_ns += TICK_NS;
        self.place.quiet = self.place.quiet.saturating_add(1);
        true
    }

    fn tell(&mut self) {
        let Some((_, entry)) = self.recording.entries.get(self.place.next) else {
            return;
        };
        match entry {
            Entry::Start(header) => {
                if self.model.header.is_some() {
                    self.model.begin_again();
                }
                self.model.take(Item::Header(header));
            }
            Entry::Policy(header) => self.model.take(Item::Policy(header)),
            Entry::Event(record) => self.model.take(Item::Event(record)),
            Entry::Loss(loss) => self.model.take(Item::Loss(loss)),
            Entry::End(_, told) => {
                if let Some(recorded) = &mut self.model.recorded {
                    recorded.end = Some(*told);
                }
            }
        }
        self.place.next += 1;
        self.place.quiet = 0;
    }

    /// Keeps the state where it is one of those that going back may begin from.
    fn keep(&mut self) {
        let every = self.recording.entries.len() / KEPT_STATES + 1;
        let next = self.place.next;
        let is_kept = || {
            self.kept
                .last()
                .is_some_and(|(place, _)| place.next >= next)
        };
        if next == 0 || !next.is_multiple_of(every) || is_kept() {
            return;
        }
        if self.model.connections().count() <= KEPT_CONNECTIONS {
            self.kept.push((self.place, Box::new(self.model.clone())));
        }
    }
}

#[cfg(test)]
mod tests;
