//! The queue, the thread and the way around it.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::consume::output::writer::*;

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

/// Takes so many bytes at once.
#[derive(Debug)]
struct Room {
    bytes: usize,
    taken: Sender<Vec<u8>>,
}

impl Shortcut for Room {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = &bytes[..self.bytes.min(bytes.len())];
        self.bytes -= taken.len();
        let _ = self.taken.send(taken.to_vec());
        Ok(taken.len())
    }
}

/// A shortcut with room for so many bytes.
fn room(bytes: usize) -> (Option<Room>, Receiver<Vec<u8>>) {
    let (taken, written) = channel();
    (Some(Room { bytes, taken }), written)
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

fn counts(written: u64, lost: u64) -> Counts {
    Counts { written, lost }
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
    for _ in 0..pushed {
        step.send(BUFFER_BYTES).unwrap();
    }
    let (counted, result) = output.finish(LONG);
    assert_eq!(counted, counts(pushed - refused, refused));
    assert!(result.is_ok());
}

/// Waits until the writer has all that was pushed in its hands.
fn await_taken(output: &Output) {
    while !output.shared.lock().queue.is_empty() {
        thread::yield_now();
    }
}

#[test]
fn what_is_counted_as_lost_is_not_written_and_what_is_written_is_not_lost() {
    let (output, step, written) = stepped(io::ErrorKind::Other);
    output.try_push(Lines::of(b"one\ntwo\n", 2)).unwrap();
    await_taken(&output);
    output.try_push(Lines::of(b"three\n", 1)).unwrap();
    output.try_push(Lines::of(b"# gap\n", 0)).unwrap();
    output.try_push(Lines::of(b"four\nfive\n", 2)).unwrap();
    let told = output.drain(Duration::ZERO);
    assert_eq!(told, counts(2, 3));
    // The reader is back.
    output.try_push(Lines::of(b"# account\n", 0)).unwrap();
    for _ in 0..3 {
        step.send(100).unwrap();
    }
    let (counted, result) = output.finish(LONG);
    assert!(result.is_ok());
    assert_eq!(counted, told);
    let text = written.try_iter().collect::<Vec<_>>().concat();
    assert_eq!(text, b"one\ntwo\n# gap\n# account\n");
}

#[test]
fn a_line_that_is_begun_is_written_to_its_end() {
    let (output, step, written) = stepped(io::ErrorKind::Other);
    let (shortcut, at_once) = room(6);
    let output = output.with_shortcut(shortcut);
    output.try_push(Lines::of(b"one\ntwo\n", 2)).unwrap();
    output.try_push(Lines::of(b"three\n", 1)).unwrap();
    let told = output.drain(Duration::ZERO);
    assert_eq!(told.written + told.lost, 3);
    for _ in 0..2 {
        step.send(100).unwrap();
    }
    assert_eq!(output.finish(LONG).0, told);
    let text = [at_once, written].map(|parts| parts.try_iter().collect::<Vec<_>>().concat());
    assert!(text.concat().starts_with(b"one\ntwo\n"), "{text:?}");
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

#[test]
fn what_goes_at_once_waits_for_no_thread() {
    let (output, _step, _written) = stepped(io::ErrorKind::Other);
    let (shortcut, at_once) = room(usize::MAX);
    let output = output.with_shortcut(shortcut);
    for _ in 0..2 {
        output.try_push(Lines::of(b"one\ntwo\n", 2)).unwrap();
    }
    assert_eq!(output.drain(Duration::ZERO), counts(4, 0));
    assert_eq!(at_once.try_iter().count(), 2);
    // The buffers came back, and are used again.
    assert_eq!(output.shared.lock().spare.len(), 2);
}

#[test]
fn what_does_not_go_at_once_is_the_thread_s_and_so_is_what_comes_after() {
    let (output, step, written) = stepped(io::ErrorKind::Other);
    let (shortcut, at_once) = room(6);
    let output = output.with_shortcut(shortcut);
    output.try_push(Lines::of(b"one\ntwo\n", 2)).unwrap();
    output.try_push(Lines::of(b"three\n", 1)).unwrap();
    for _ in 0..2 {
        step.send(100).unwrap();
    }
    assert_eq!(output.drain(LONG), counts(3, 0));
    let texts = [at_once, written].map(|parts| parts.try_iter().collect::<Vec<_>>().concat());
    assert_eq!(texts, [&b"one\ntw"[..], b"o\nthree\n"]);
}

#[test]
fn a_write_that_fails_after_a_part_went_at_once_counts_the_lines_that_made_it() {
    for (taken, events) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
        let (output, step, _written) = stepped(io::ErrorKind::StorageFull);
        let (shortcut, _at_once) = room(6);
        let output = output.with_shortcut(shortcut);
        output.try_push(Lines::of(b"one\ntwo\n4\n5\n", 4)).unwrap();
        step.send(taken).unwrap();
        drop(step);
        assert_eq!(output.drain(LONG), counts(events, 4 - events), "{taken}");
        let (counted, result) = output.finish(LONG);
        assert_eq!(counted, counts(events, 4 - events));
        assert!(matches!(result, Err(WriteError::Failed { .. })));
    }
}

#[test]
fn a_long_chunk_is_written_while_the_next_one_is_made() {
    let (output, step, written) = stepped(io::ErrorKind::Other);
    let (shortcut, at_once) = room(usize::MAX);
    let output = output.with_shortcut(shortcut);
    let long = vec![b'\n'; BUFFER_BYTES + 1];
    output.try_push(Lines::of(&long, 1)).unwrap();
    step.send(long.len()).unwrap();
    assert_eq!(output.drain(LONG), counts(1, 0));
    assert_eq!(written.try_iter().count(), 1);
    assert_eq!(at_once.try_iter().count(), 0);
}

#[test]
fn after_a_slow_write_the_next_one_is_the_thread_s() {
    let (output, step, written) = stepped(io::ErrorKind::Other);
    let (shortcut, at_once) = room(usize::MAX);
    let output = output.with_shortcut(shortcut);
    output.shared.lock().is_slow = true;
    step.send(100).unwrap();
    output.try_push(Lines::of(b"slow\n", 1)).unwrap();
    assert_eq!(output.drain(LONG), counts(1, 0));
    assert_eq!(written.try_iter().count(), 1);
    assert_eq!(at_once.try_iter().count(), 0);
}
