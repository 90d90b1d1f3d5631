//! Counts what comes, and tells the numbers to whoever scrapes them or reads them in a file.
//! What they mean is in `series`; none of them has an address or a process for a label.

mod endpoint;
mod exposition;
mod histogram;
mod negotiate;
mod series;
mod services;
mod tally;
mod textfile;

use std::{
    fmt, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::{
    exposition::Format,
    tally::{Counting, Tally},
    textfile::TextFile,
};
use super::{
    consumer::{Consumer, Kinds, Needs, Overview, Stats},
    endpoint::Endpoint,
    enforced,
    export::Board,
};
use crate::events::record::{Account, Item};

/// The metrics, and where they are told.
pub struct Metrics {
    kinds: Kinds,
    counting: Counting,
    shared: Arc<Shared>,
    file: Option<TextFile>,
    _endpoint: Option<Endpoint>,
}

/// What was counted, for those that tell it.
#[derive(Debug, Default)]
struct Shared {
    tally: Mutex<Tally>,
    /// How exports stand, which count for themselves.
    exports: Arc<Board>,
    /// How the policy stands that is enforced.
    enforced: Arc<enforced::Board>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Nothing panics while it holds the lock.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics by now. Counting waits for a copy alone.
    fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut tally = self.lock().clone();
        tally.exports = self.exports.standings();
        tally.enforced = self.enforced.standing();
        exposition::write(tally, format)
    }
}

impl Metrics {
    /// Metrics of events of these `kinds`, told nowhere.
    pub fn new(kinds: Kinds) -> Self {
        Self {
            kinds,
            counting: Counting::new(),
            shared: Arc::default(),
            file: None,
            _endpoint: None,
        }
    }

    /// Tells of the exports and of the policy on these boards too.
    #[must_use]
    pub fn with_boards(self, exports: Arc<Board>, enforced: Arc<enforced::Board>) -> Self {
        let shared = Shared {
            exports,
            enforced,
            ..Shared::default()
        };
        Self {
            shared: Arc::new(shared),
            ..self
        }
    }

    /// Has them scraped at `address`, from now on.
    pub fn listen(self, address: SocketAddr) -> io::Result<Self> {
        let endpoint = endpoint::open(address, Arc::clone(&self.shared))?;
        Ok(Self {
            _endpoint: Some(endpoint),
            ..self
        })
    }

    /// Has them written to the file at `path`, from now on.
    pub fn write_to(self, path: &Path) -> io::Result<Self> {
        let text = self.shared.text(Format::Text).map_err(io::Error::other)?;
        let file = TextFile::create(path, &text)?;
        Ok(Self {
            file: Some(file),
            ..self
        })
    }

    fn write_file(&mut self) {
        if let Some(file) = &mut self.file
            && let Ok(text) = self.shared.text(Format::Text)
        {
            file.write(&text);
        }
    }
}

impl Consumer for Metrics {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn needs(&self) -> Needs {
        Needs {
            kinds: self.kinds,
            allowed: true,
            peers: false,
        }
    }

    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Event(record) => self.counting.take(record, &mut self.shared.lock()),
            Item::Header(header) | Item::Policy(header) => self.shared.lock().begin(header),
            Item::Loss(_) => {}
            Item::Summary(summary) => {
                self.shared.lock().settle(summary);
                self.write_file();
            }
        }
    }

    fn hears_of_others(&self) -> bool {
        true
    }

    fn hear(&mut self, overview: &Overview) {
        self.shared.lock().standings.clone_from(&overview.standings);
    }

    fn tick(&mut self, stats: &Stats) {
        self.shared.lock().stats = *stats;
        if self.file.as_ref().is_some_and(TextFile::is_due) {
            self.write_file();
        }
    }

    fn settle(&mut self) {
        self.write_file();
    }

    fn account(&mut self) -> Account {
        let taken = self.shared.lock().taken();
        let error = self.file.as_ref().and_then(TextFile::error);
        Account {
            delivered: taken,
            taken,
            error: error.map(str::to_owned),
            ..Account::default()
        }
    }
}

#[cfg(test)]
mod tests;
