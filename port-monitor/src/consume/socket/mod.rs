//! A Unix socket at which a run tells how it stands. Whoever may write to the file may ask.
//!
//! A request is one line. The answer to [`STATUS`] is one line of JSON, a [`Report`], and the end
//! of the connection. The answer to [`EVENTS`] is a line of JSON, a [`Welcome`], and the events
//! from then on as JSON lines, until the client or the service ends it. What is refused is told
//! in one line of JSON, `{"error":"…"}`.

mod ask;
mod client;
mod events;
mod place;
pub mod report;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use port_monitor_common::event::EventKind;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

pub use self::{
    ask::{AskError, ask, attend},
    events::{CLIENTS, Events, Welcome},
    report::Report,
};
use self::{place::Place, report::Told};
use super::{
    consumer::{Consumer, Kinds, Needs, Overview, Stats},
    endpoint::Endpoint,
    enforced,
};
use crate::events::record::{Account, Item};

/// Where a service has it, and others look for it.
pub const PATH: &str = "/run/port-monitor/socket";
/// The request for a [`Report`].
pub const STATUS: &str = "status";
/// The request for events.
pub const EVENTS: &str = "events";

/// Bytes of a request.
const REQUEST_BYTES: u64 = 1 << 10;

/// The socket, and what is told there.
pub struct Socket {
    shared: Arc<Shared>,
    _endpoint: Endpoint,
    // Removed when nobody answers there any more.
    _place: Place,
}

/// What is known, for those that ask.
#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Told>,
    /// How the policy stands that is enforced.
    enforced: Arc<enforced::Board>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Told> {
        // Nothing panics while it holds the lock.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &str) -> serde_json::Result<String> {
        let error = match request {
            STATUS => {
                let enforced = self.enforced.standing();
                return serde_json::to_string(&self.lock().report(enforced.as_ref()));
            }
            EVENTS => "events are told by a service: `port-monitor serve` is one".to_owned(),
            _ => format!("not a request: `{STATUS}` and `{EVENTS}` are"),
        };
        serde_json::to_string(&report::Refusal { error })
    }
}

impl Socket {
    /// Answers at the socket of this name from now on, and tells the `events` to whoever asks,
    /// where it is a service's. How the policy stands that is enforced is on a board. A socket
    /// that nobody answers at is replaced.
    pub fn open(
        path: &Path,
        events: Option<Events>,
        enforced: Arc<enforced::Board>,
    ) -> io::Result<Self> {
        let (place, listener) = Place::take(path)?;
        let shared = Arc::new(Shared {
            told: Mutex::default(),
            enforced,
        });
        let told = Arc::clone(&shared);
        let endpoint = Endpoint::start(
            "socket-answer",
            || UnixListener::from_std(listener),
            move |stream| {
                let (told, events) = (Arc::clone(&told), events.clone());
                async move {
                    // One that fails is for whoever asks to tell of.
                    let _ = connection(stream, &told, events).await;
                }
            },
        )?;
        Ok(Self {
            shared,
            _endpoint: endpoint,
            _place: place,
        })
    }
}

/// Answers the one request of a connection. One that takes long goes on by itself.
async fn connection(
    mut stream: UnixStream,
    told: &Shared,
    events: Option<Events>,
) -> io::Result<()> {
    let mut request = String::new();
    BufReader::new((&mut stream).take(REQUEST_BYTES))
        .read_line(&mut request)
        .await?;
    let request = request.trim_end();
    if let (EVENTS, Some(events)) = (request, events) {
        tokio::spawn(async {
            // As above.
            let _ = events.tell(stream).await;
        });
        return Ok(());
    }
    let mut answer = told.answer(request)?;
    answer.push('\n');
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

impl Consumer for Socket {
    fn name(&self) -> &'static str {
        "socket"
    }

    fn needs(&self) -> Needs {
        Needs {
            kinds: Kinds::from_iter([] as [EventKind; 0]),
            allowed: false,
            peers: false,
        }
    }

    fn take(&mut self, item: Item<'_>) {
        if let Item::Header(header) | Item::Policy(header) = item {
            self.shared.lock().header = Some(header.clone());
        }
    }

    fn hears_of_others(&self) -> bool {
        true
    }

    fn hear(&mut self, overview: &Overview) {
        self.shared.lock().overview.clone_from(overview);
    }

    fn tick(&mut self, _stats: &Stats) {}

    fn account(&mut self) -> Account {
        Account::default()
    }
}

#[cfg(test)]
mod tests;
