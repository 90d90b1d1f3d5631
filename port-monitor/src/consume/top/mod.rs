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

use self::recorder::Recorder;
pub use self::{
    keys::{Input, Press},
    model::{Model, Told},
    recorder::Recorded,
    ui::{Find, OWN_WORDS, Rule, Ui, WORDS, Wanted, Wish, prompt::Asks},
    view::export::{Exported, Form, export},
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
    recorder: Recorder,
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

    /// Records all that is told from now on at `path`, as JSON lines.
    pub fn begin_recording(&self, path: &Path) -> Result<(), Failure> {
        let header = recorder::header(&self.lock());
        self.0.recorder.begin(path, header)
    }

    /// Records no more; how the recording stood.
    pub fn end_recording(&self) -> Option<Recorded> {
        self.0.recorder.end()
    }

    /// How the recording stands, while there is one.
    pub fn recording(&self) -> Option<Recorded> {
        self.0.recorder.stands()
    }
}

/// The consumer that keeps the model up to date.
#[derive(Debug)]
pub struct Top {
    shared: Shared,
    needs: Needs,
}

impl Top {
    /// Keeps `shared` up to date, by events that meet `needs`.
    pub const fn new(shared: Shared, needs: Needs) -> Self {
        Self { shared, needs }
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
        self.shared.0.recorder.take(item);
        self.shared.lock().take(item);
    }

    fn tick(&mut self, stats: &Stats) {
        self.shared.0.recorder.tick(stats);
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
