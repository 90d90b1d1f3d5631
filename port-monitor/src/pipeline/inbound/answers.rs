//! The thread that finds out whose inbound connections are: a look at who has which listener
//! open answers all questions that were there when it began.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    sync::mpsc::{Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::{
    Found, PATIENCE,
    closers::Closers,
    judge::{is_nowhere, judge},
};
use crate::{
    events::record::Missing,
    host::holding::{Seen, Source},
};

/// A look at all open files is followed by a pause this many times as long as it kept a
/// processor busy: at most 10 % of its time.
const PAUSE_FACTOR: u32 = 9;
/// And at least as long as this: where thousands of connections come in a second, a look
/// answers for many.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// So many questions end a pause before its time: those who ask must not lose patience.
pub(super) const HURRY: usize = PATIENCE / 8;
/// How long a pause goes on before the questions are counted again.
const SLICE: Duration = Duration::from_millis(10);
/// How long a listener that nobody has open, and that nobody has closed, is on its way from
/// one to the other as a rule. Where processors are busy, it may take longer: each time it is
/// waited for [`CLOSING_FACTOR`] times as long as before, up to [`CLOSING_LATEST`].
const CLOSING: Duration = Duration::from_millis(2);
const CLOSING_FACTOR: u32 = 4;
const CLOSING_LATEST: Duration = Duration::from_millis(512);
/// Listeners that are known to be where no look finds them.
pub(super) const HIDDEN: usize = 1 << 10;
/// So many of the latest answers of a look are tried before a question gets its own.
const TRIED: usize = 16;

/// The connection to ask about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) listener: u32,
    pub(super) port: u32,
    /// When it came in, `CLOCK_BOOTTIME` ns.
    pub(super) ts_ns: u64,
}

/// One answer to so many questions, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) count: usize,
    pub(super) found: Found,
}

/// Answers until nobody can ask any more, in the order of the questions. Each question is
/// answered by a look at what is open that began after it.
pub(super) fn answer_all(
    source: &mut impl Source,
    questions: &Receiver<Vec<Question>>,
    answers: &Sender<Vec<Answer>>,
    answered: &Notify,
) {
    let mut rested = Instant::now();
    let mut memory = Memory::default();
    while let Ok(first) = questions.recv() {
        let batch = gather(first, questions, rested);
        let begin = processor_time();
        let found = find(source, &batch, &mut memory);
        let busy = processor_time().saturating_sub(begin);
        rested = Instant::now() + LEAST_PAUSE.max(busy * PAUSE_FACTOR);
        if answers.send(found).is_err() {
            return;
        }
        answered.notify_one();
    }
}

/// What earlier looks have shown.
#[derive(Default)]
pub(super) struct Memory {
    /// Those that the last questions took, the last one last.
    before: Vec<Seen>,
    /// Who has closed listeners.
    closers: Closers,
    /// Listeners that were waited for in vain: nobody has them open who could be found, and
    /// nobody has closed them. They are not waited for again.
    pub(super) hidden: HashSet<u32>,
}

impl Memory {
    /// Takes a listener that was waited for in vain.
    pub(super) fn hide(&mut self, listener: u32) {
        if self.hidden.len() >= HIDDEN {
            self.hidden.clear();
        }
        self.hidden.insert(listener);
    }
}

/// What is asked until the thread has rested, or until many wait.
pub(super) fn gather(
    first: Vec<Question>,
    questions: &Receiver<Vec<Question>>,
    rested: Instant,
) -> Vec<Question> {
    let mut batch = first;
    loop {
        batch.extend(questions.try_iter().flatten());
        let pause = rested.saturating_duration_since(Instant::now());
        if pause.is_zero() || batch.len() >= HURRY {
            return batch;
        }
        thread::sleep(pause.min(SLICE));
    }
}

/// How long the calling thread has kept processors busy.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// The answers to all of these.
pub(super) fn find(
    source: &mut impl Source,
    questions: &[Question],
    memory: &mut Memory,
) -> Vec<Answer> {
    let mut answers = Answers::to(questions);
    let earlier = memory.before.len();
    let mut look = |memory: &mut Memory| {
        let mut seen = source.look()?;
        memory.closers.take(&mut seen, &memory.before);
        let on_their_way = answers.take(&seen, &memory.closers);
        // Who closed one while it lasted may be told by the next one.
        memory.before.push(seen);
        io::Result::Ok(on_their_way)
    };
    let mut looked = look(memory);
    let mut pause = CLOSING;
    while let Ok(on_their_way) = &looked {
        let are_hidden = on_their_way.iter().all(|one| memory.hidden.contains(one));
        if pause > CLOSING_LATEST || are_hidden {
            break;
        }
        thread::sleep(pause);
        pause *= CLOSING_FACTOR;
        looked = look(memory);
    }
    match looked {
        Ok(in_vain) => {
            for listener in answers.found_listeners() {
                memory.hidden.remove(&listener);
            }
            for listener in in_vain {
                memory.hide(listener);
            }
            memory.before.drain(..earlier);
        }
        Err(error) => {
            log::warn!("look who has listeners open: {error}");
            answers.give_up();
        }
    }
    let last_asked = questions.iter().map(|asked| asked.ts_ns).max();
    memory.closers.forget_before(last_asked.unwrap_or(0));
    answers.in_order()
}

/// The answers to questions, as far as they are known. Very many connections may have come
/// to one listener: what is found out of one of them is true of the others, as long as
/// nothing lies between their times that would make a difference.
pub(super) struct Answers<'a> {
    questions: &'a [Question],
    /// Of each question, the place of its answer among those that are known.
    places: Vec<usize>,
    known: Vec<Known>,
}

/// What is known of the connections that came to a listener at these times.
struct Known {
    listener: u32,
    port: u32,
    times: Range<u64>,
    found: Found,
}

impl<'a> Answers<'a> {
    /// None of them is known yet.
    pub(super) fn to(questions: &'a [Question]) -> Self {
        let nothing = Known {
            listener: 0,
            port: 0,
            times: 0..0,
            found: Found::nobody(Missing::Unheld),
        };
        Self {
            questions,
            places: vec![0; questions.len()],
            known: vec![nothing],
        }
    }

    /// Takes what a look tells of those that nobody is known of; the
    /// listeners that may be on their way from one process to another.
    pub(super) fn take(&mut self, seen: &Seen, closers: &Closers) -> Vec<u32> {
        let Self {
            questions,
            places,
            known,
        } = self;
        let earlier = known.len();
        let mut on_their_way = Vec::new();
        for (place, question) in places.iter_mut().zip(*questions) {
            if known
                .get(*place)
                .is_none_or(|known| !is_nowhere(&known.found))
            {
                continue;
            }
            let looked = known.iter().enumerate().skip(earlier);
            let mut latest = looked.rev().take(TRIED);
            if let Some((same, _)) = latest.find(|(_, known)| known.tells_of(question)) {
                *place = same;
                continue;
            }
            let mut found = answer(question, seen, closers);
            if is_nowhere(&found) && closers.since(question).is_none() {
                if closers.may_lack(question) {
                    found = Found::nobody(Missing::Late);
                } else {
                    on_their_way.push(question.listener);
                }
            }
            *place = known.len();
            known.push(Known {
                listener: question.listener,
                port: question.port,
                times: times(question, seen, closers),
                found,
            });
        }
        on_their_way
    }

    /// No more looks can be had.
    fn give_up(&mut self) {
        for known in &mut self.known {
            if is_nowhere(&known.found) {
                known.found = Found::nobody(Missing::Late);
            }
        }
    }

    /// The listeners of which something was found out.
    fn found_listeners(&self) -> impl Iterator<Item = u32> {
        let found = self.known.iter().filter(|known| !is_nowhere(&known.found));
        found.map(|known| known.listener)
    }

    /// In the order of the questions.
    pub(super) fn in_order(&self) -> Vec<Answer> {
        let runs = self.places.chunk_by(|one, next| one == next);
        let answers = runs.filter_map(|run| {
            let known = self.known.get(*run.first()?)?;
            Some(Answer {
                count: run.len(),
                found: known.found,
            })
        });
        answers.collect()
    }
}

impl Known {
    fn tells_of(&self, question: &Question) -> bool {
        self.listener == question.listener
            && self.port == question.port
            && self.times.contains(&question.ts_ns)
    }
}

/// Whose the connection is, by what a look and those before it have shown.
pub(super) fn answer(question: &Question, seen: &Seen, closers: &Closers) -> Found {
    judge(
        question,
        seen.of(question.listener),
        closers.since(question),
    )
}

/// The times around the question's in which nothing begins or ends that its answer depends
/// on: the first one, and the one that does not belong to them any more.
fn times(question: &Question, seen: &Seen, closers: &Closers) -> Range<u64> {
    let holders = seen.of(question.listener).iter();
    let begins = holders.map(|holder| holder.owner.start_ns);
    let mut times = 0..u64::MAX;
    for turn in begins.chain(closers.turns(question)) {
        if turn <= question.ts_ns {
            times.start = times.start.max(turn);
        } else {
            times.end = times.end.min(turn);
        }
    }
    times
}
