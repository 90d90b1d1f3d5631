//! The way out: a bounded queue and a thread that writes, so that a slow or
//! stopped reader costs events, which are counted, and never time.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use thiserror::Error;

use super::lines::Lines;
use crate::exit_code::ExitCode;

/// Bytes the queue holds at most, but always at least one chunk.
const MAX_BYTES: usize = 8 << 20;
/// A fresh buffer's capacity; a burst grows it once, then it is recycled. Chunks
/// that wait are joined up to this size: many small ones are no reason to lose
/// events while the reader is busy.
const BUFFER_BYTES: usize = 64 << 10;
/// Buffers kept for reuse, and the largest one worth keeping.
const MAX_SPARE: usize = 4;
const MAX_SPARE_BYTES: usize = 1 << 20;

/// Why a chunk was not taken. Its events are counted as dropped.
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
    #[error("write {target}: {error}; events not written: {dropped}")]
    Failed {
        /// What was written to.
        target: String,
        /// The system's error.
        error: io::Error,
        /// Events that are missing from it.
        dropped: u64,
    },
    /// The reader took nothing until the time was up.
    #[error("write {target}: its reader takes no data; events not written: up to {dropped}")]
    Stalled {
        /// What was written to.
        target: String,
        /// Events that are missing from it, or were in the write that hangs.
        dropped: u64,
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
    pub dropped: u64,
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

    /// Ends the output: what is queued will never be written.
    fn fail(&mut self, error: io::Error) {
        self.counts.dropped += self.pending;
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
        })
    }

    /// An empty buffer for the next chunk, recycled where possible.
    pub fn buffer(&self) -> Lines {
        let spare = self.shared.lock().spare.pop();
        spare.unwrap_or_else(|| Lines::with_capacity(BUFFER_BYTES))
    }

    /// Queues whole lines. Never blocks. Events without a line need no writing.
    pub fn try_push(&self, chunk: Lines) -> Result<(), Refused> {
        self.queue(chunk, MAX_BYTES)
    }

    /// The same of lines that are not too many by themselves, however many wait.
    pub fn push(&self, chunk: Lines) -> Result<(), Refused> {
        self.queue(chunk, usize::MAX)
    }

    fn queue(&self, chunk: Lines, max_bytes: usize) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        let fits = state.bytes == 0 || state.bytes + chunk.bytes.len() <= max_bytes;
        let refused = match &state.error {
            Some(_) => Some(Refused::Ended),
            None if fits => None,
            None => Some(Refused::Full),
        };
        if let Some(refused) = refused {
            state.counts.dropped += chunk.events();
            state.recycle(chunk);
            return Err(refused);
        }
        if chunk.is_empty() {
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

    /// Waits until everything is written or lost, but not longer than `timeout`.
    /// What is still on its way then counts as dropped.
    pub fn drain(&self, timeout: Duration) -> Counts {
        let state = self.wait_until_idle(timeout);
        Counts {
            written: state.counts.written,
            dropped: state.counts.dropped + state.pending,
        }
    }

    /// Drains, stops the thread and says how it went. A thread that its reader
    /// keeps stopped is left behind.
    pub fn finish(mut self, timeout: Duration) -> (Counts, Result<(), WriteError>) {
        self.shared.lock().finishing = true;
        self.shared.changed.notify_all();
        let counts = self.drain(timeout);
        let target = std::mem::take(&mut self.target);
        let mut state = self.shared.lock();
        let result = match state.error.take() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(WriteError::Closed { target })
            }
            Some(error) => Err(WriteError::Failed {
                target,
                error,
                dropped: counts.dropped,
            }),
            None if state.bytes > 0 => {
                let dropped = counts.dropped;
                return (counts, Err(WriteError::Stalled { target, dropped }));
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
        let (written_bytes, result) = write_chunk(&mut writer, chunk.as_bytes());
        let mut state = shared.lock();
        let written = match &result {
            Ok(()) => chunk.events(),
            Err(_) => chunk.events_within(written_bytes),
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
fn write_chunk(writer: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
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
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Takes what each message allows, in bytes; fails when there are none left.
    struct Stepped {
        steps: Receiver<usize>,
        taken: Sender<Vec<u8>>,
        error: io::ErrorKind,
    }

    impl Write for Stepped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let step = self.steps.recv().map_err(|_| self.error)?;
            let taken = &bytes[..step.min(bytes.len())];
            let _ = self.taken.send(taken.to_vec());
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output whose writer waits for steps.
    fn stepped(error: io::ErrorKind) -> (Output, Sender<usize>, Receiver<Vec<u8>>) {
        let (step, steps) = channel();
        let (taken, written) = channel();
        let writer = Stepped {
            steps,
            taken,
            error,
        };
        (Output::start("test".into(), writer).unwrap(), step, written)
    }

    fn counts(written: u64, dropped: u64) -> Counts {
        Counts { written, dropped }
    }

    #[test]
    fn chunks_come_out_whole_and_in_order() {
        let (output, step, written) = stepped(io::ErrorKind::Other);
        for _ in 0..4 {
            step.send(4).unwrap();
        }
        output.try_push(Lines::of(b"#header\n", 0)).unwrap();
        output.try_push(Lines::of(b"one\ntwo\n", 2)).unwrap();
        let (counted, result) = output.finish(LONG);
        assert_eq!(
            written.iter().collect::<Vec<_>>().concat(),
            b"#header\none\ntwo\n"
        );
        assert_eq!(counted, counts(2, 0));
        assert!(result.is_ok());
    }

    #[test]
    fn a_stopped_reader_costs_counted_events_and_no_time() {
        let (output, step, _written) = stepped(io::ErrorKind::Other);
        let event = vec![b'\n'; BUFFER_BYTES];
        let pushed = (MAX_BYTES / BUFFER_BYTES) as u64 + 10;
        let refused = (0..pushed)
            .filter(|_| output.try_push(Lines::of(&event, 1)) == Err(Refused::Full))
            .count() as u64;
        assert_eq!(refused, 10);
        let drained = output.drain(Duration::ZERO);
        assert_eq!(drained, counts(0, pushed));

        for _ in 0..pushed {
            step.send(BUFFER_BYTES).unwrap();
        }
        let (counted, result) = output.finish(LONG);
        assert_eq!(counted, counts(pushed - refused, refused));
        assert!(result.is_ok());
    }

    #[test]
    fn small_chunks_that_wait_are_joined_and_counted_one_by_one() {
        let (output, step, written) = stepped(io::ErrorKind::StorageFull);
        for _ in 0..1_000 {
            output.try_push(Lines::of(b"event\n", 1)).unwrap();
        }
        output.try_push(Lines::of(b"# gap\n", 0)).unwrap();
        output.try_push(Lines::of(b"event\n", 1)).unwrap();
        // At most: one in the writer's hands, the joined ones, the gap, the last.
        assert!(output.shared.lock().queue.len() <= 4);
        let all = 1_002 * b"event\n".len();
        for _ in 0..4 {
            step.send(all).unwrap();
        }
        assert_eq!(output.drain(LONG), counts(1_001, 0));
        assert_eq!(
            written.try_iter().map(|part| part.len()).sum::<usize>(),
            all
        );
    }

    #[test]
    fn bytes_are_bounded_but_one_chunk_always_goes() {
        let (output, _step, _written) = stepped(io::ErrorKind::Other);
        let large = vec![b'\n'; MAX_BYTES + 1];
        assert!(output.try_push(Lines::of(&large, 1)).is_ok());
        assert_eq!(output.try_push(Lines::of(b"\n", 1)), Err(Refused::Full));
    }

    #[test]
    fn what_is_pushed_is_taken_however_much_waits() {
        let (output, step, written) = stepped(io::ErrorKind::Other);
        assert!(output.is_idle_within(Duration::ZERO));
        let large = vec![b'\n'; MAX_BYTES];
        assert!(output.push(Lines::of(&large, 1)).is_ok());
        assert!(!output.is_idle_within(Duration::ZERO));
        assert!(output.push(Lines::of(&large, 1)).is_ok());
        for _ in 0..2 {
            step.send(MAX_BYTES).unwrap();
        }
        assert!(output.is_idle_within(LONG));
        assert_eq!(written.try_iter().count(), 2);
        assert_eq!(output.drain(LONG), counts(2, 0));
    }

    #[test]
    fn a_write_that_fails_half_way_counts_the_lines_that_made_it() {
        let (output, step, _written) = stepped(io::ErrorKind::StorageFull);
        output.try_push(Lines::of(b"one\ntwo\nthree\n", 3)).unwrap();
        output.try_push(Lines::of(b"four\n", 1)).unwrap();
        step.send(6).unwrap();
        drop(step);
        assert_eq!(output.drain(LONG), counts(1, 3));
        assert!(output.has_ended());
        assert_eq!(
            output.try_push(Lines::of(b"five\n", 1)),
            Err(Refused::Ended)
        );
        let (counted, result) = output.finish(LONG);
        assert_eq!(counted, counts(1, 4));
        let error = result.unwrap_err();
        assert!(matches!(error, WriteError::Failed { .. }), "{error:?}");
        assert_eq!(error.exit_code(), ExitCode::OutputFailed);
    }

    #[test]
    fn a_line_for_several_events_counts_them_all_or_none() {
        for (taken, events) in [(4, 1), (8, 1), (9, 41), (12, 41), (13, 42)] {
            let (output, step, _written) = stepped(io::ErrorKind::StorageFull);
            let mut chunk = Lines::of(b"one\nx 40\n", 1);
            chunk.count_events(40);
            chunk.append(&Lines::of(b"one\n", 1));
            output.try_push(chunk).unwrap();
            step.send(taken).unwrap();
            drop(step);
            assert_eq!(output.drain(LONG), counts(events, 42 - events), "{taken}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let (output, step, _written) = stepped(io::ErrorKind::BrokenPipe);
        drop(step);
        output.try_push(Lines::of(b"one\n", 1)).unwrap();
        let (counted, result) = output.finish(LONG);
        assert_eq!(counted, counts(0, 1));
        let error = result.unwrap_err();
        assert!(matches!(error, WriteError::Closed { .. }), "{error:?}");
        assert_eq!(error.exit_code(), ExitCode::Ok);
    }

    #[test]
    fn a_reader_that_never_takes_anything_does_not_keep_us() {
        let (output, _step, _written) = stepped(io::ErrorKind::Other);
        output.try_push(Lines::of(b"one\n", 1)).unwrap();
        let (counted, result) = output.finish(Duration::ZERO);
        assert_eq!(counted, counts(0, 1));
        let error = result.unwrap_err();
        assert!(matches!(error, WriteError::Stalled { .. }), "{error:?}");
    }

    #[test]
    fn buffers_come_back_empty() {
        let (output, step, _written) = stepped(io::ErrorKind::Other);
        let mut buffer = output.buffer();
        let capacity = buffer.bytes.capacity();
        buffer.append(&Lines::of(b"one\n", 1));
        step.send(4).unwrap();
        output.try_push(buffer).unwrap();
        assert_eq!(output.drain(LONG), counts(1, 0));
        let recycled = output.buffer();
        assert!(recycled.is_empty());
        assert_eq!(recycled.bytes.capacity(), capacity);
        assert!(output.shared.lock().spare.is_empty());
    }
}
