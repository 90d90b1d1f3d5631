//! A recording that somebody begins and ends by a key while the view goes on.
//!
//! Whoever asks for it does not wait: what is asked is done by the thread that takes events,
//! between two of them. Where the file takes nothing, that thread waits alone.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Shared, model::Model};
use crate::{
    base::exit_code::Failure,
    consume::{
        consumer::{Consumer as _, Gaps, Kinds, Stats},
        consumers::recording::Recording,
        counted::Counted,
    },
    events::record::{Account, Header, Item, Summary},
};

/// Who has told what is recorded, in the account.
const TELLER: &str = "top";

/// How a recording stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Its file.
    pub name: String,
    /// Events that are in it.
    pub taken: u64,
    /// Events that are missing there.
    pub missing: u64,
    /// What it has failed of.
    pub error: Option<String>,
}

/// What is asked for, and how it stands.
#[derive(Default)]
pub(super) struct Board(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    asked: VecDeque<Asked>,
    stands: Option<Recorded>,
    ended: Option<Recorded>,
}

enum Asked {
    Begin(Box<Recording>),
    End,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what comes from now on recorded at `path`.
    pub(super) fn begin(&self, path: &Path) -> Result<(), Failure> {
        let recording = Recording::open(path, None, Kinds::ALL, None)?;
        let mut noted = self.lock();
        noted.stands = Some(Recorded {
            name: recording.name_of_file().to_owned(),
            ..Recorded::default()
        });
        noted.asked.push_back(Asked::Begin(Box::new(recording)));
        Ok(())
    }

    /// Has it ended.
    pub(super) fn end(&self) {
        let mut noted = self.lock();
        noted.stands = None;
        noted.asked.push_back(Asked::End);
    }

    /// How it stands, while there is one.
    pub(super) fn stands(&self) -> Option<Recorded> {
        self.lock().stands.clone()
    }

    /// How one stood that has ended meanwhile, once.
    pub(super) fn ended(&self) -> Option<Recorded> {
        self.lock().ended.take()
    }
}

/// Records, as the board asks for.
#[derive(Default)]
pub(super) struct Recorder {
    running: Option<Running>,
    /// What was counted at the last tick.
    stats: Stats,
}

struct Running {
    recording: Recording,
    began: Instant,
    /// What was counted before it began.
    before: Stats,
    counted: Counted,
    gaps: Gaps,
    violations: u64,
}

impl Recorder {
    /// An item comes, which `shared` does not know yet.
    pub(super) fn take(&mut self, shared: &Shared, item: Item<'_>) {
        self.begin(shared);
        let Item::Summary(summary) = item else {
            if let Some(running) = &mut self.running {
                running.take(item);
            }
            return;
        };
        while self.turn(shared) {}
        if let Some(running) = self.running.take() {
            // That is the account of the whole run, and not of what is recorded.
            running.end(summary.wall_ns);
        }
    }

    /// Time passes, which `shared` does not know yet.
    pub(super) fn tick(&mut self, shared: &Shared, stats: &Stats) {
        self.begin(shared);
        if let Some(running) = &mut self.running {
            running.tick(stats);
        }
        self.stats = *stats;
        while self.turn(shared) {}
        if let Some(running) = &mut self.running {
            let stands = running.stands();
            let mut noted = shared.0.board.lock();
            // Not where its end is asked for by now.
            if noted.asked.is_empty() {
                noted.stands = Some(stands);
            }
        }
    }

    /// Begins one, if that is what is asked for next. Ends wait for the next tick: what was lost
    /// until then is known there.
    fn begin(&mut self, shared: &Shared) -> bool {
        let mut noted = shared.0.board.lock();
        if self.running.is_some() || !matches!(noted.asked.front(), Some(Asked::Begin(_))) {
            return false;
        }
        let Some(Asked::Begin(recording)) = noted.asked.pop_front() else {
            return false;
        };
        drop(noted);
        let running = self.running.insert(Running {
            recording: *recording,
            began: Instant::now(),
            before: self.stats,
            counted: Counted::default(),
            gaps: Gaps::default(),
            violations: 0,
        });
        running.begin(shared);
        true
    }

    /// Does what is asked for next; whether there was something.
    fn turn(&mut self, shared: &Shared) -> bool {
        if self.begin(shared) {
            return true;
        }
        let mut noted = shared.0.board.lock();
        if noted.asked.pop_front().is_none() {
            return false;
        }
        drop(noted);
        if let Some(running) = self.running.take() {
            let now_ns = shared.lock().now_ns.max(self.stats.wall_ns);
            let ended = running.end(now_ns);
            shared.0.board.lock().ended = Some(ended);
        }
        true
    }
}

impl Running {
    /// Tells what is watched, and what is open by now.
    fn begin(&mut self, shared: &Shared) {
        let (header, mut open) = {
            let model = shared.lock();
            let open = model.connections().filter(|row| row.state.is_open());
            let open: Vec<_> = open.map(|row| (row.began_ns, row.id())).collect();
            (header(&model), open)
        };
        let Some(header) = header else {
            return;
        };
        self.take(Item::Header(&header));
        open.sort_unstable();
        for (_, id) in open {
            // One at a time: whoever draws waits for no file.
            let found = shared
                .lock()
                .connection(id)
                .and_then(|row| row.as_found(header.wall_ns));
            if let Some(record) = found {
                self.take(Item::Event(&record));
            }
        }
    }

    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Event(record) => {
                self.counted.events += 1;
                let is_told_again = record.event.action.is_told_again();
                self.violations += u64::from(record.is_violation() && !is_told_again);
            }
            Item::Loss(loss) => self.counted.lose(loss),
            Item::Header(_) | Item::Policy(_) | Item::Summary(_) => {}
        }
        self.recording.take(item);
    }

    fn tick(&mut self, stats: &Stats) {
        // What was lost before is missing from nothing of it.
        let stats = stats.since(&self.before);
        let counted = &mut self.counted;
        self.gaps.tell(&stats, stats.queue_full, |loss| {
            counted.lose(loss);
            true
        });
        self.recording.tick(&stats);
    }

    fn stands(&mut self) -> Recorded {
        let account = self.recording.account();
        self.recorded(account)
    }

    fn recorded(&self, account: Account) -> Recorded {
        let summary = self.summary(0, account.clone());
        Recorded {
            name: self.recording.name_of_file().to_owned(),
            taken: account.taken,
            missing: summary.lost(),
            error: account.error,
        }
    }

    fn summary(&self, wall_ns: i128, account: Account) -> Summary {
        let consumers = vec![(self.recording.name(), account)];
        let ended = (wall_ns, self.began.elapsed());
        self.counted
            .summary(TELLER, ended, consumers, self.violations)
    }

    /// Ends it with an account of its own.
    fn end(mut self, wall_ns: i128) -> Recorded {
        let account = self.recording.account();
        let summary = self.summary(wall_ns, account);
        self.recording.take(Item::Summary(&summary));
        let account = self.recording.account();
        self.recorded(account)
    }
}

/// What a recording that begins now begins with.
fn header(model: &Model) -> Option<Header> {
    let header = model.header.clone()?;
    Some(Header {
        wall_ns: model.now_ns.max(header.wall_ns),
        ..header
    })
}
