//! A recording that somebody begins and ends by a key while the view goes on.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::model::Model;
use crate::{
    base::exit_code::Failure,
    consume::{
        consumer::{Consumer as _, Kinds, Stats},
        consumers::recording::Recording,
    },
    events::record::{Account, Header, Item},
};

/// The recording, while there is one.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Option<Running>>);

struct Running {
    recording: Recording,
    /// What was lost before it began.
    before: Option<Stats>,
    account: Account,
}

/// How a recording stands.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Running {
    fn stands(&self) -> Recorded {
        Recorded {
            name: self.recording.name_of_file().to_owned(),
            taken: self.account.taken,
            missing: self.account.dropped.total(),
            error: self.account.error.clone(),
        }
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one, with a line of what is watched by `header` from now on.
    pub(super) fn begin(&self, path: &Path, header: Option<Header>) -> Result<(), Failure> {
        let mut running = self.lock();
        let mut recording = Recording::open(path, None, Kinds::ALL, None)?;
        if let Some(header) = header {
            recording.take(Item::Header(&header));
        }
        let account = recording.account();
        *running = Some(Running {
            recording,
            before: None,
            account,
        });
        Ok(())
    }

    /// Ends it; how it stood.
    pub(super) fn end(&self) -> Option<Recorded> {
        let mut running = self.lock().take()?;
        running.account = running.recording.account();
        Some(running.stands())
    }

    /// How it stands.
    pub(super) fn stands(&self) -> Option<Recorded> {
        self.lock().as_ref().map(Running::stands)
    }

    pub(super) fn take(&self, item: Item<'_>) {
        if let Some(running) = &mut *self.lock() {
            running.recording.take(item);
            if let Item::Summary(_) = item {
                running.account = running.recording.account();
            }
        }
    }

    pub(super) fn tick(&self, stats: &Stats) {
        if let Some(running) = &mut *self.lock() {
            // What was lost before is missing from nothing of it.
            let before = running.before.get_or_insert(*stats);
            running.recording.tick(&stats.since(before));
            running.account = running.recording.account();
        }
    }
}

/// What a recording that begins now begins with.
pub(super) fn header(model: &Model) -> Option<Header> {
    let header = model.header.clone()?;
    Some(Header {
        wall_ns: model.now_ns.max(header.wall_ns),
        ..header
    })
}
