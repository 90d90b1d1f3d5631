//! Who is told the events of a service: each client joins it as a consumer of its own, and
//! leaves it when it goes.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{mpsc::UnboundedSender, oneshot},
    task,
};

use super::{client::Client, report::Refusal};
use crate::consume::{
    consumer::Kinds,
    fan_out::{Change, Left, Request},
};

/// What the account calls each client. There are no more of them at a time.
pub const CLIENTS: [&str; 8] = [
    "client-1", "client-2", "client-3", "client-4", "client-5", "client-6", "client-7", "client-8",
];
/// How long is waited for the thread of a client that has gone.
const GONE_GRACE: Duration = Duration::from_secs(1);

/// What a client is told before the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The flags of `watch` that keep events back from everybody.
    pub filters: Vec<String>,
}

/// The events of a service, for clients of its socket. All copies are of one service.
#[derive(Clone, Debug)]
pub struct Events {
    requests: UnboundedSender<Request>,
    kinds: Kinds,
    welcome: Welcome,
    names: Names,
}

impl Events {
    /// Of a service that lets consumers come and go as `requests` ask for, has events of these
    /// `kinds`, and keeps some back by these `filters`.
    pub fn new(requests: UnboundedSender<Request>, kinds: Kinds, filters: Vec<String>) -> Self {
        Self {
            requests,
            kinds,
            welcome: Welcome { filters },
            names: Names::default(),
        }
    }

    /// Tells a client the events from now on, until it goes or the service ends.
    pub(super) async fn tell(self, mut stream: UnixStream) -> io::Result<()> {
        let Some(name) = self.names.take() else {
            let error = format!("{} clients are told events already", CLIENTS.len());
            return say(&mut stream, &Refusal { error }).await;
        };
        let name = Joined {
            name,
            events: &self,
            is_in: false,
        };
        say(&mut stream, &self.welcome).await?;
        name.attend(stream).await
    }

    /// Asks for consumers to come and go, and waits until they have.
    async fn ask(&self, change: Change) -> io::Result<Vec<Left>> {
        let over = || io::Error::other("the service comes to its end");
        let (done, is_done) = oneshot::channel();
        let request = Request { change, done };
        self.requests.send(request).map_err(|_| over())?;
        is_done.await.map_err(|_| over())
    }
}

/// Says something in a line.
async fn say(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// A client that has a name until this is dropped.
struct Joined<'a> {
    name: &'static str,
    events: &'a Events,
    is_in: bool,
}

impl Joined<'_> {
    async fn attend(mut self, stream: UnixStream) -> io::Result<()> {
        let stream = stream.into_std()?;
        let client = Client::new(self.name, self.events.kinds, stream.try_clone()?);
        let mut change = Change::default();
        change.join(Box::new(client))?;
        self.is_in = true;
        self.events.ask(change).await?;
        // It has nothing more to say but that it goes.
        let mut stream = UnixStream::from_std(stream)?;
        while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
        drop(stream);
        let mut change = Change::default();
        change.leave(self.name);
        let left = self.events.ask(change).await?;
        self.is_in = false;
        let finish = || {
            for left in left {
                let name = left.name();
                log::info!("{name} has left: {:?}", left.finish(GONE_GRACE));
            }
        };
        task::spawn_blocking(finish).await.map_err(io::Error::other)
    }
}

impl Drop for Joined<'_> {
    /// The next one that gets the name joins after this one has left.
    fn drop(&mut self) {
        if self.is_in {
            let mut change = Change::default();
            change.leave(self.name);
            let (done, _) = oneshot::channel();
            // A service that is over has no consumers.
            let _ = self.events.requests.send(Request { change, done });
        }
        self.events.names.give_back(self.name);
    }
}

/// The names that are taken.
#[derive(Clone, Debug, Default)]
struct Names(Arc<Mutex<[bool; CLIENTS.len()]>>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, [bool; CLIENTS.len()]> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<&'static str> {
        let mut taken = self.lock();
        let (name, is_taken) = CLIENTS
            .iter()
            .zip(taken.iter_mut())
            .find(|(_, is_taken)| !**is_taken)?;
        *is_taken = true;
        Some(name)
    }

    fn give_back(&self, name: &str) {
        let mut taken = self.lock();
        for (known, is_taken) in CLIENTS.iter().zip(taken.iter_mut()) {
            *is_taken &= *known != name;
        }
    }
}
