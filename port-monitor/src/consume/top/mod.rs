//! The live view: what is, and not only what happens. Three parts that know nothing of a
//! terminal: the [`Model`] takes events, the [`Ui`] takes keys, and [`view::draw`] makes a
//! screen of both. Whoever runs them owns the terminal and the threads.

pub mod keys;
mod model;
mod recorder;
pub mod replay;
mod ui;
pub mod view;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::recorder::{Board, Recorder};
pub use self::{
    keys::{Input, Press},
    model::{Model, Told},
    recorder::Recorded,
    ui::{Find, OWN_WORDS, Rule, Ui, WORDS, Wanted, Wish, prompt::Asks},
    view::export::{Exported, Form, copied, export},
};
use super::consumer::{Consumer, Needs, Overview, Stats};
use crate::{
    base::exit_code::Failure,
    events::record::{Account, Item},
};

/// What the view knows, shared by the thread that takes events and the one that draws.
#[derive(Clone, Default)]
pub struct Shared(Arc<Known>);

#[derive(Default)]
struct Known {
    model: Mutex<Model>,
    board: Board,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// The model, for as long as it is held. The events wait meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Model> {
        self.0.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what is open now, and all that is told from now on, recorded at `path` as JSON lines.
    pub fn begin_recording(&self, path: &Path) -> Result<(), Failure> {
        self.0.board.begin(path)
    }

    /// Has the recording ended, as soon as it is known what it lacks.
    pub fn end_recording(&self) {
        self.0.board.end();
    }

    /// How the recording stands, while there is one.
    pub fn recording(&self) -> Option<Recorded> {
        self.0.board.stands()
    }

    /// How a recording stood that has ended since this was asked.
    pub fn ended_recording(&self) -> Option<Recorded> {
        self.0.board.ended()
    }
}

/// The consumer that keeps the model up to date.
pub struct Top {
    shared: Shared,
    needs: Needs,
    recorder: Recorder,
}

impl Top {
    /// Keeps `shared` up to date, by events that meet `needs`.
    pub fn new(shared: Shared, needs: Needs) -> Self {
        Self {
            shared,
            needs,
            recorder: Recorder::default(),
        }
    }
}

impl Consumer for Top {
    fn name(&self) -> &'static str {
        "top"
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn take(&mut self, item: Item<'_>) {
        self.recorder.take(&self.shared, item);
        self.shared.lock().take(item);
    }

    fn tick(&mut self, stats: &Stats) {
        self.recorder.tick(&self.shared, stats);
        self.shared.lock().tick(stats);
    }

    fn hears_of_others(&self) -> bool {
        true
    }

    fn is_owed_all(&self) -> bool {
        false
    }

    fn hear(&mut self, overview: &Overview) {
        self.shared.lock().hear(overview);
    }

    fn account(&mut self) -> Account {
        let taken = self.shared.lock().events();
        Account {
            delivered: taken,
            taken,
            ..Account::default()
        }
    }
}
