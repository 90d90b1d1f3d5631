//! Where others ask a consumer something. Whoever asks, and however slowly, holds up nobody:
//! there are few connections at a time, none of them for long, on a thread of their own.

use std::{
    future::Future,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

/// Connections at a time. More wait in the kernel until one of them is over.
pub(super) const CONNECTIONS: usize = 16;
/// A connection is over after so long, whatever it waits for.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long nobody is let in where that has failed: there are no more files to be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(super) trait Listener: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.accept().await?;
        Ok(stream)
    }
}

/// An endpoint. It closes when it is dropped.
#[derive(Debug)]
pub(super) struct Endpoint {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Has each connection answered from now on, by a thread of this name. `listener` is made
    /// within the thread's runtime.
    pub(super) fn start<L: Listener, F: Future<Output = ()> + Send + 'static>(
        name: &str,
        listener: impl FnOnce() -> io::Result<L>,
        answer: impl Fn(L::Stream) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _context = runtime.enter();
            listener()?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    // Its sender tells it by its end.
                    _ = stopped => {}
                    () = accept(listener, answer) => {}
                }
            });
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Endpoint {
    /// Whoever listens at the same place next finds it free.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is out already.
            let _ = thread.join();
        }
    }
}

async fn accept<L: Listener, F: Future<Output = ()> + Send + 'static>(
    listener: L,
    answer: impl Fn(L::Stream) -> F,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // It fails when it is closed, which nobody does.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok(stream) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let answered = answer(stream);
        tokio::spawn(async move {
            // One that fails, or takes too long, is for whoever asks to tell of.
            let _ = timeout(CONNECTION_TIME, answered).await;
            drop(place);
        });
    }
}
