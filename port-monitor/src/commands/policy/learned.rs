//! The sink of `policy learn --for`: no lines, the events teach a policy.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    consume::{Lines, Sink},
    events::record::Item,
    policy::{Facts, Host, learn::Learner},
};

/// What the events of a run teach; read when the run is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned(Arc<Mutex<Learner>>);

impl Learned {
    /// All of it.
    pub(super) fn take(&self) -> Learner {
        mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Learner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Learned {
    fn write(&mut self, lines: &mut Lines, item: Item<'_>) {
        if let Item::Event(record) = item {
            let facts = Facts::of(&record.event, &record.process, record.wall_ns);
            self.lock().take(&facts, &Host);
            lines.count_events(1);
        }
    }
}
