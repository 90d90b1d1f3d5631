//! The way out: a bounded queue and a thread that writes, so that a slow or
//! stopped reader costs events, which are counted, and never time. What can be
//! written at once need not go that way: to wake the thread costs more than most
//! writes.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    file::Log,
    target::{Shortcut, Target, Terminal},
};
use crate::{base::exit_code::ExitCode, consume::lines::Lines};

/// Bytes the queue holds at most, but always at least one chunk.
const MAX_BYTES: usize = 8 << 20;
/// A fresh buffer's capacity; a burst grows it once, then it is recycled. Chunks
/// that wait are joined up to this size: many small ones are no reason to lose
/// events while the reader is busy.
const BUFFER_BYTES: usize = 64 << 10;
/// Buffers kept for reuse, and the largest one worth keeping.
const MAX_SPARE: usize = 4;
const MAX_SPARE_BYTES: usize = 1 << 20;
/// A write that takes longer is slow: the next one is the thread's, and those after it,
/// until one is quick again.
const SLOW: Duration = Duration::from_millis(10);

/// Why a chunk was not taken. Its events are counted as lost.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full: the output is too slow.
    #[error("the output is too slow")]
    Full,
    /// Nothing can be written any more; [`Output::finish`] says why.
    #[error("the output has ended")]
    Ended,
}

/// Why the output ended early.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The reader went away, as `head` does: no reason to complain.
    #[error("{target} was closed by its reader")]
    Closed {
        /// What was written to.
        target: String,
    },
    /// Writing failed.
    #[error("write {target}: {error}; events not written: {lost}")]
    Failed {
        /// What was written to.
        target: String,
        /// The system's error.
        error: io::Error,
        /// Events that are missing from it.
        lost: u64,
    },
    /// The reader took nothing until the time was up.
    #[error("write {target}: its reader takes no data; events not written: up to {lost}")]
    Stalled {
        /// What was written to.
        target: String,
        /// Events that are missing from it, or were in the write that hangs.
        lost: u64,
    },
}

impl WriteError {
    /// How the program exits.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Closed { .. } => ExitCode::Ok,
            Self::Failed { .. } | Self::Stalled { .. } => ExitCode::OutputFailed,
        }
    }
}

/// Events on their way out. Of all that were pushed, each is in exactly one of
/// these once the queue is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Written, whole lines.
    pub written: u64,
    /// Not written: the queue was full, or the output failed.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Lines>,
    /// Bytes in the queue and in the writer's hands.
    bytes: usize,
    /// Events in the queue and in the writer's hands.
    pending: u64,
    counts: Counts,
    spare: Vec<Lines>,
    shortcut: Option<Box<dyn Shortcut>>,
    /// The last write was.
    is_slow: bool,
    /// No more chunks will come.
    finishing: bool,
    /// The write that ended the output.
    error: Option<io::Error>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state changed.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn recycle(&mut self, mut buffer: Lines) {
        if self.spare.len() < MAX_SPARE && buffer.bytes.capacity() <= MAX_SPARE_BYTES {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Joins events to those that wait already, while that makes no large chunk.
    fn enqueue(&mut self, chunk: Lines) {
        let last = self.queue.back_mut().filter(|last| {
            let bytes = last.bytes.len() + chunk.bytes.len();
            last.events() > 0 && chunk.events() > 0 && bytes <= BUFFER_BYTES
        });
        if let Some(last) = last {
            last.append(&chunk);
            self.recycle(chunk);
        } else {
            self.queue.push_back(chunk);
        }
    }

    /// Writes what goes at once, if nothing waits that comes before it; how many bytes
    /// that were. Of a long chunk nothing: while it is written, the next one is made.
    fn write_at_once(&mut self, bytes: &[u8]) -> usize {
        if self.bytes > 0 || self.is_slow || bytes.len() > BUFFER_BYTES {
            return 0;
        }
        let Some(shortcut) = &mut self.shortcut else {
            return 0;
        };
        let start = Instant::now();
        let written = shortcut.try_write(bytes).unwrap_or(0);
        self.is_slow = start.elapsed() > SLOW;
        written
    }

    /// Lets the events go that wait, but for those of which a part is written. What is not
    /// an event stays: it tells of what is missing.
    fn let_go(&mut self) {
        let waiting = self.queue.len();
        for _ in 0..waiting {
            let Some(chunk) = self.queue.pop_front() else {
                return;
            };
            if chunk.written > 0 || chunk.events() == 0 {
                self.queue.push_back(chunk);
                continue;
            }
            self.bytes -= chunk.bytes.len();
            self.pending -= chunk.events();
            self.counts.lost += chunk.events();
            self.recycle(chunk);
        }
    }

    /// Ends the output: what is queued will never be written.
    fn fail(&mut self, error: io::Error) {
        self.counts.lost += self.pending;
        self.pending = 0;
        self.bytes = 0;
        self.queue.clear();
        self.error = Some(error);
    }
}

/// The end of the stream: a bounded queue, and a thread that writes what is in it.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
    target: String,
    thread: Option<JoinHandle<()>>,
    /// The file that can be opened again.
    log: Option<Log>,
    terminal: Option<Terminal>,
}

impl Output {
    /// Starts writing to `writer`, which messages call `target`.
    pub fn start(target: String, writer: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new().name("output".into()).spawn({
            let shared = Arc::clone(&shared);
            move || write_all_chunks(&shared, writer)
        })?;
        Ok(Self {
            shared,
            target,
            thread: Some(thread),
            log: None,
            terminal: None,
        })
    }

    /// Writes what goes at once by `shortcut`, if there is one.
    #[must_use]
    pub fn with_shortcut(self, shortcut: Option<impl Shortcut + 'static>) -> Self {
        self.shared.lock().shortcut = shortcut.map(|shortcut| Box::new(shortcut) as _);
        self
    }

    /// Starts writing to `target` and asks it, beside the writing, what can be asked.
    pub fn to(target: Target) -> io::Result<Self> {
        let (shortcut, log, terminal) = (target.shortcut(), target.log(), target.terminal());
        let mut output = Self::start(target.name().to_owned(), target)?.with_shortcut(shortcut);
        output.log = log;
        output.terminal = terminal;
        Ok(output)
    }

    /// Opens the output file again by its name: somebody may have moved it away.
    pub fn reopen(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Opens the output file again by its name, if that was asked for while somebody was
    /// writing.
    pub fn reopen_if_asked(&self) {
        if let Some(log) = &self.log {
            log.reopen_if_asked();
        }
    }

    /// Columns of the terminal by now; `None` when it is none.
    pub fn terminal_width(&self) -> Option<usize> {
        self.terminal.as_ref().map(Terminal::width)
    }

    /// An empty buffer for the next chunk, recycled where possible.
    pub fn buffer(&self) -> Lines {
        let spare = self.shared.lock().spare.pop();
        spare.unwrap_or_else(|| Lines::with_capacity(BUFFER_BYTES))
    }

    /// Writes or queues whole lines. Never waits. Events without a line need no writing.
    pub fn try_push(&self, chunk: Lines) -> Result<(), Refused> {
        self.queue(chunk, MAX_BYTES)
    }

    /// Writes or queues whole lines that are not too many by themselves, however many wait.
    pub fn push(&self, chunk: Lines) -> Result<(), Refused> {
        self.queue(chunk, usize::MAX)
    }

    fn queue(&self, mut chunk: Lines, max_bytes: usize) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        let fits = state.bytes == 0 || state.bytes + chunk.bytes.len() <= max_bytes;
        let refused = match &state.error {
            Some(_) => Some(Refused::Ended),
            None if fits => None,
            None => Some(Refused::Full),
        };
        if let Some(refused) = refused {
            state.counts.lost += chunk.events();
            state.recycle(chunk);
            return Err(refused);
        }
        chunk.written = state.write_at_once(chunk.as_bytes());
        if chunk.rest().is_empty() {
            state.counts.written += chunk.events();
            state.recycle(chunk);
        } else {
            state.bytes += chunk.bytes.len();
            state.pending += chunk.events();
            state.enqueue(chunk);
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// Nothing can be written any more; [`Output::finish`] says why.
    pub fn has_ended(&self) -> bool {
        self.shared.lock().error.is_some()
    }

    /// Waits until everything is written or lost, but not longer than `timeout`; whether
    /// it is.
    pub fn is_idle_within(&self, timeout: Duration) -> bool {
        self.wait_until_idle(timeout).bytes == 0
    }

    fn wait_until_idle(&self, timeout: Duration) -> MutexGuard<'_, State> {
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), timeout, |state| state.bytes > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state
    }

    /// What is written, and what is lost, by now.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Waits until everything is written or lost, but not longer than `timeout`. What still
    /// waits then is lost. What is in the writer's hands counts as written: whoever reads
    /// what comes behind it has read that too.
    pub fn drain(&self, timeout: Duration) -> Counts {
        let mut state = self.wait_until_idle(timeout);
        state.let_go();
        Counts {
            written: state.counts.written + state.pending,
            lost: state.counts.lost,
        }
    }

    /// Waits until everything is written or lost, but not longer than `timeout`, stops the
    /// thread and says how it went. A thread that its reader keeps stopped is left behind:
    /// what is still on its way counts as lost.
    pub fn finish(mut self, timeout: Duration) -> (Counts, Result<(), WriteError>) {
        self.shared.lock().finishing = true;
        self.shared.changed.notify_all();
        let target = std::mem::take(&mut self.target);
        let mut state = self.wait_until_idle(timeout);
        let counts = Counts {
            written: state.counts.written,
            lost: state.counts.lost + state.pending,
        };
        let result = match state.error.take() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(WriteError::Closed { target })
            }
            Some(error) => Err(WriteError::Failed {
                target,
                error,
                lost: counts.lost,
            }),
            None if state.bytes > 0 => {
                let lost = counts.lost;
                return (counts, Err(WriteError::Stalled { target, lost }));
            }
            None => Ok(()),
        };
        drop(state);
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, its message is out already.
            let _ = thread.join();
        }
        (counts, result)
    }
}

impl Drop for Output {
    /// Lets the thread end, for the paths that do not come to [`Output::finish`].
    fn drop(&mut self) {
        self.shared.lock().finishing = true;
        self.shared.changed.notify_all();
    }
}

/// The thread: writes chunks until there will be no more, or a write fails.
fn write_all_chunks(shared: &Shared, mut writer: impl Write) {
    while let Some(chunk) = next_chunk(shared) {
        let start = Instant::now();
        let (written_bytes, result) = write_chunk(&mut writer, chunk.rest());
        let is_slow = start.elapsed() > SLOW;
        let mut state = shared.lock();
        state.is_slow = is_slow;
        let written = match &result {
            Ok(()) => chunk.events(),
            Err(_) => chunk.events_within(chunk.written + written_bytes),
        };
        state.counts.written += written;
        state.pending -= written;
        match result {
            Ok(()) => {
                state.bytes -= chunk.bytes.len();
                state.recycle(chunk);
            }
            Err(error) => state.fail(error),
        }
        let failed = state.error.is_some();
        drop(state);
        shared.changed.notify_all();
        if failed {
            return;
        }
    }
}

/// Waits for a chunk; `None` when there will be no more.
fn next_chunk(shared: &Shared) -> Option<Lines> {
    shared
        .changed
        .wait_while(shared.lock(), |state| {
            state.queue.is_empty() && !state.finishing
        })
        .unwrap_or_else(PoisonError::into_inner)
        .queue
        .pop_front()
}

/// Writes and flushes; the bytes written, also when that failed half-way.
pub(in crate::consume) fn write_chunk(
    writer: &mut impl Write,
    bytes: &[u8],
) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match writer.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, writer.flush())
}

#[cfg(test)]
mod tests;
