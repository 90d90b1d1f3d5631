//! The live view: what is, and not only what happens. Three parts that know nothing of a
//! terminal: the [`Model`] takes events, the [`Ui`] takes keys, and [`view::draw`] makes a
//! screen of both. Whoever runs them owns the terminal and the threads.

pub mod keys;
mod model;
pub mod replay;
mod ui;
pub mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::{
    keys::{Input, Press},
    model::{Model, Told},
    ui::{Find, OWN_WORDS, Ui, WORDS, Wanted, Wish, prompt::Asks},
};
use super::consumer::{Consumer, Needs, Overview, Stats};
use crate::events::record::{Account, Item};

/// What the view knows, shared by the thread that takes events and the one that draws.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Model>>);

impl Shared {
    /// The model, for as long as it is held. The events wait meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.shared.lock().take(item);
    }

    fn tick(&mut self, stats: &Stats) {
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
