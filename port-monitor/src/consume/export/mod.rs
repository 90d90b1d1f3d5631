//! The export: rows of the history, to a database that has those of many hosts. The history is
//! the outbox; what is not sent yet waits there, however long the receiver is away. Nothing
//! else waits for it: each export has a thread of its own.

mod clickhouse;
mod connect;
mod http;
mod lines;
mod nats;
mod otlp;
mod receiver;
pub mod schema;
mod secret;
mod sender;
pub mod settings;
pub mod tls;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime, sync::watch};

use self::sender::Sender;
pub use self::settings::Settings;
use super::history::outbox::{Outbox, OutboxError, Progress};

/// How long the end waits for one, besides [`sender::LAST_TIME`].
const END_TIME: Duration = Duration::from_secs(2);

/// How every export stands, for those that tell it.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<String, Standing>>);

/// How an export stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What became of its rows.
    pub progress: Progress,
    /// What it tried last did not succeed.
    pub is_failing: bool,
}

impl Board {
    /// Each by its name.
    pub fn standings(&self) -> BTreeMap<String, Standing> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.clone()
    }

    pub(in crate::consume) fn note(&self, name: &str, standing: Standing) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.insert(name.to_owned(), standing);
    }

    fn forget(&self, name: &str) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.remove(name);
    }
}

/// An export that runs.
#[derive(Debug)]
pub struct Export {
    name: String,
    board: Arc<Board>,
    stop: watch::Sender<bool>,
    ended: Receiver<Standing>,
}

impl Export {
    /// Sends what the history at `path` has for the export of that name, from now on.
    pub fn start(
        path: &Path,
        name: &str,
        settings: &Settings,
        board: &Arc<Board>,
    ) -> Result<Self, StartError> {
        let outbox = Outbox::open(path, name)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = channel();
        let mut sender = Sender::new(outbox, name, settings.clone(), Arc::clone(board));
        thread::Builder::new()
            .name("export".to_owned())
            .spawn(move || {
                let standing = runtime.block_on(sender.run(stopped));
                // Nobody waits for the end of one that took too long.
                let _ = end.send(standing);
                // A name that is still being resolved holds nobody up.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            name: name.to_owned(),
            board: Arc::clone(board),
            stop,
            ended,
        })
    }

    /// Asks it to end.
    pub fn stop(&self) {
        // It may have ended already.
        let _ = self.stop.send(true);
    }

    /// Waits for its end, but not for ever, and tells what became of its rows.
    pub fn finish(self) -> String {
        self.stop();
        let deadline = Instant::now() + sender::LAST_TIME + END_TIME;
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = self.ended.recv_timeout(left);
        let known = self.board.standings().remove(&self.name);
        self.board.forget(&self.name);
        let progress = match ended {
            Ok(standing) => standing.progress,
            Err(_) => known.unwrap_or_default().progress,
        };
        format!("export {}: {progress}", self.name)
    }
}

/// Why an export cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The history is the matter.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The system refused.
    #[error("start a thread: {0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests;
