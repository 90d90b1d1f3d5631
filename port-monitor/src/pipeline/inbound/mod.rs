//! Whose an inbound connection is where the kernel side does not know (tracepoint backend): a
//! thread asks who has its listener open when it has come in, and events wait for the
//! answer, in their order.

mod closers;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io, mem,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use port_monitor_common::{
    event::OwnerSource,
    listener::{HOLDER_PASSES, Holder},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::{
    events::{
        decode::{Action, Close, Direction, Event, Owner},
        record::Missing,
    },
    host::holding::{Seen, Source, Wanted},
};

use closers::{Closer, Closers};

/// Events that wait at most; then the first of them goes without an owner.
const PATIENCE: usize = 1 << 14;
/// Connections whose owner is remembered until they end: twice as many at most.
const REMEMBERED: usize = 1 << 17;
/// Owners told of last, of which there is one copy each.
const RECENT: usize = 32;
/// A look at all open files is followed by a pause this many times as long as it kept a
/// processor busy: at most 10 % of its time.
const PAUSE_FACTOR: u32 = 9;
/// And at least as long as this: where thousands of connections come in a second, a look
/// answers for many.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// So many questions end a pause before its time: those who ask must not lose patience.
const HURRY: usize = PATIENCE / 8;
/// How long a pause goes on before the questions are counted again.
const SLICE: Duration = Duration::from_millis(10);
/// How long a listener that nobody has open, and that nobody has closed, is on its way from
/// one to the other as a rule. Where processors are busy, it may take longer: each time it is
/// waited for [`CLOSING_FACTOR`] times as long as before, up to [`CLOSING_LATEST`].
const CLOSING: Duration = Duration::from_millis(2);
const CLOSING_FACTOR: u32 = 4;
const CLOSING_LATEST: Duration = Duration::from_millis(512);
/// Listeners that are known to be where no look finds them.
const HIDDEN: usize = 1 << 10;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    /// Or why nobody knows.
    owner: Result<Owner, Missing>,
    /// Processes that had the listener open.
    holders: u32,
    /// The owner filters let it pass.
    passes: bool,
}

impl Found {
    /// Nobody can be named.
    const fn nobody(reason: Missing) -> Self {
        Self {
            owner: Err(reason),
            holders: 0,
            passes: false,
        }
    }
}

/// The connection to ask about.
#[derive(Clone, Copy, Debug)]
struct Question {
    id: u64,
    listener: u32,
    port: u32,
    ts_ns: u64,
}

/// An event with its owner.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// Why it has no owner, if it has none.
    pub missing: Missing,
    /// The owner filters keep it back.
    pub is_filtered: bool,
    /// They would have to know its owner, which was not found out in time.
    pub is_lost: bool,
    /// Nobody has asked for events of this kind: it was for its end.
    pub is_aside: bool,
}

/// Events on their way.
pub struct Inbound {
    /// `None` where there is nobody to ask.
    questions: Option<Sender<Question>>,
    answers: Receiver<(u64, Found)>,
    next_answer: Option<(u64, Found)>,
    answered: Arc<Notify>,
    waiting: VecDeque<Event>,
    owners: Owners,
    /// There are filters of owners.
    filters: bool,
    /// Accepts are asked for.
    shows_accepts: bool,
    /// Ends or progress are asked for.
    tells_again: bool,
}

impl Inbound {
    /// Asks `source`, in a thread of its own; without one, whose connections are is not
    /// known.
    pub fn new(source: Option<impl Source + 'static>, wanted: Wanted) -> io::Result<Self> {
        let (questions, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let answered = Arc::new(Notify::new());
        let notify = Arc::clone(&answered);
        let has_source = source.is_some();
        if let Some(mut source) = source {
            thread::Builder::new()
                .name("listeners".to_owned())
                .spawn(move || answer_all(&mut source, &asked, &answer, &notify))?;
        }
        Ok(Self {
            questions: has_source.then_some(questions),
            answers,
            next_answer: None,
            answered,
            waiting: VecDeque::new(),
            owners: Owners::default(),
            filters: wanted.filters,
            shows_accepts: wanted.accepts,
            tells_again: wanted.ends,
        })
    }

    /// Told when there are answers.
    pub fn answered(&self) -> Arc<Notify> {
        Arc::clone(&self.answered)
    }

    /// Nobody has asked for events of this kind.
    pub const fn is_aside(&self, event: &Event) -> bool {
        !self.shows_accepts && matches!(event.action, Action::Accept)
    }

    /// Takes an event, which comes out again by [`Self::pop`].
    pub fn take(&mut self, event: Event) {
        if let (Some(listener), Some(questions)) = (asks(&event), &self.questions) {
            let _ = questions.send(Question {
                id: event.id,
                listener,
                port: event.local_port.unwrap_or(0).into(),
                ts_ns: event.ts_ns,
            });
        }
        self.waiting.push_back(event);
    }

    /// The next event in order, if its owner is known by now, or will not be.
    pub fn pop(&mut self) -> Option<Told> {
        let mut event = *self.waiting.front()?;
        let found = if asks(&event).is_some() {
            let found = self.answer(&event)?;
            if self.tells_again {
                self.owners.remember(event.id, found);
            }
            Some(found)
        } else {
            told_again(&event).map(|carried| {
                let found = match event.action {
                    Action::Progress(_) => self.owners.know(event.id),
                    _ => self.owners.recall(event.id),
                };
                found.unwrap_or_else(|| self.unknown(carried))
            })
        };
        self.waiting.pop_front();
        let mut missing = Missing::NoOwner;
        if let Some(found) = found {
            event.listener.holders = found.holders;
            match found.owner {
                Ok(owner) => {
                    event.owner = Some(owner);
                    if let Action::Close(close) = &mut event.action {
                        close.closing_pid = close.closing_pid.filter(|&pid| pid != owner.pid);
                    }
                }
                Err(reason) => missing = reason,
            }
        }
        let is_kept_back = self.filters && found.is_some_and(|found| !found.passes);
        Some(Told {
            missing,
            is_filtered: is_kept_back && missing != Missing::Late,
            is_lost: is_kept_back && missing == Missing::Late,
            is_aside: self.is_aside(&event),
            event,
        })
    }

    /// So many events wait that others will not have their owners asked for in time.
    pub fn is_crowded(&self) -> bool {
        self.waiting.len() >= PATIENCE / 2
    }

    /// Waits until there is a next event; false when none waits.
    pub fn wait(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        if self.next_answer.is_none() {
            self.next_answer = self.answers.recv().ok();
        }
        true
    }

    /// Whose it is where no beginning is remembered: it was before the start, or the kernel
    /// saw it, and it was lost or is too long ago.
    const fn unknown(&self, carried: &Close) -> Found {
        let was_seen = self.questions.is_some() && carried.duration_ns.is_some();
        Found::nobody(if was_seen {
            Missing::Late
        } else {
            Missing::NoOwner
        })
    }

    fn answer(&mut self, event: &Event) -> Option<Found> {
        if self.questions.is_none() {
            return Some(Found::nobody(Missing::NoOwner));
        }
        loop {
            let next = match self.next_answer.take() {
                Some(next) => Ok(next),
                None => self.answers.try_recv(),
            };
            match next {
                Ok((id, found)) if id == event.id => return Some(found),
                // Of an event that has waited too long.
                Ok(_) => {}
                Err(TryRecvError::Empty) if self.waiting.len() < PATIENCE => return None,
                Err(_) => return Some(Found::nobody(Missing::Late)),
            }
        }
    }
}

/// The listener to ask about.
fn asks(event: &Event) -> Option<u32> {
    let is_open = event.owner.is_none() && event.listener.number != 0;
    is_open.then_some(event.listener.number)
}

/// What an inbound connection was at its end, or is so far: its beginning tells whose it is.
const fn told_again(event: &Event) -> Option<&Close> {
    let is_inbound = matches!(event.direction(), Direction::Inbound);
    if event.owner.is_none() && is_inbound {
        event.action.carried()
    } else {
        None
    }
}

/// The owners of connections that have not ended: those that began first are forgotten when
/// there are too many. Of one owner there is one copy, as far as it is told of again soon.
#[derive(Default)]
struct Owners {
    young: HashMap<u64, Arc<Found>>,
    old: HashMap<u64, Arc<Found>>,
    recent: VecDeque<Arc<Found>>,
}

impl Owners {
    fn remember(&mut self, id: u64, found: Found) {
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        let found = self.shared(found);
        self.young.insert(id, found);
    }

    fn shared(&mut self, found: Found) -> Arc<Found> {
        if let Some(known) = self.recent.iter().find(|known| ***known == found) {
            return Arc::clone(known);
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        let found = Arc::new(found);
        self.recent.push_back(Arc::clone(&found));
        found
    }

    fn know(&self, id: u64) -> Option<Found> {
        let found = self.young.get(&id).or_else(|| self.old.get(&id));
        found.map(|found| **found)
    }

    fn recall(&mut self, id: u64) -> Option<Found> {
        let found = self.young.remove(&id).or_else(|| self.old.remove(&id));
        found.map(|found| *found)
    }
}

/// Answers until nobody can ask any more. Each question is answered by a look at what is
/// open that began after it.
fn answer_all(
    source: &mut impl Source,
    questions: &Receiver<Question>,
    answers: &Sender<(u64, Found)>,
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
        for (question, found) in batch.iter().zip(found) {
            if answers.send((question.id, found)).is_err() {
                return;
            }
        }
        answered.notify_one();
    }
}

/// What earlier looks have shown.
#[derive(Default)]
struct Memory {
    /// The last of them.
    before: Seen,
    /// Who has closed listeners.
    closers: Closers,
    /// Listeners that were waited for in vain: nobody has them open who could be found, and
    /// nobody has closed them. They are not waited for again.
    hidden: HashSet<u32>,
}

impl Memory {
    /// Takes a listener that was waited for in vain.
    fn hide(&mut self, listener: u32) {
        if self.hidden.len() >= HIDDEN {
            self.hidden.clear();
        }
        self.hidden.insert(listener);
    }
}

/// What is asked until the thread has rested, or until many wait.
fn gather(first: Question, questions: &Receiver<Question>, rested: Instant) -> Vec<Question> {
    let mut batch = vec![first];
    loop {
        batch.extend(questions.try_iter());
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

/// The answers, one for each question.
fn find(source: &mut impl Source, questions: &[Question], memory: &mut Memory) -> Vec<Found> {
    let Memory {
        before,
        closers,
        hidden,
    } = memory;
    let mut look = |found: &mut [Found]| {
        let mut seen = source.look()?;
        closers.take(&mut seen, before);
        let open = found.iter_mut().zip(questions);
        let mut are_on_their_way = Vec::new();
        for (found, question) in open.filter(|(found, _)| is_nowhere(found)) {
            *found = answer(question, &seen, closers);
            if is_nowhere(found) && closers.since(question).is_none() {
                if closers.may_lack(question) {
                    *found = Found::nobody(Missing::Late);
                } else {
                    are_on_their_way.push(question.listener);
                }
            }
        }
        io::Result::Ok((seen, are_on_their_way))
    };
    let mut found = vec![Found::nobody(Missing::Unheld); questions.len()];
    let mut looked = look(&mut found);
    let mut pause = CLOSING;
    while let Ok((_, on_their_way)) = &looked {
        if pause > CLOSING_LATEST || on_their_way.iter().all(|one| hidden.contains(one)) {
            break;
        }
        thread::sleep(pause);
        pause *= CLOSING_FACTOR;
        looked = look(&mut found);
    }
    match looked {
        Ok((seen, in_vain)) => {
            for (found, asked) in found.iter().zip(questions) {
                if !is_nowhere(found) {
                    memory.hidden.remove(&asked.listener);
                }
            }
            for listener in in_vain {
                memory.hide(listener);
            }
            memory.before = seen;
        }
        Err(error) => {
            log::warn!("look who has listeners open: {error}");
            for found in found.iter_mut().filter(|found| is_nowhere(found)) {
                *found = Found::nobody(Missing::Late);
            }
        }
    }
    let last_asked = questions.iter().map(|asked| asked.ts_ns).max();
    memory.closers.forget_before(last_asked.unwrap_or(0));
    found
}

fn is_nowhere(found: &Found) -> bool {
    found.owner == Err(Missing::Unheld)
}

fn answer(question: &Question, seen: &Seen, closers: &Closers) -> Found {
    judge(
        question,
        seen.of(question.listener),
        closers.since(question),
    )
}

/// Whose the connection is, of those who have its listener open and of who closed it since.
fn judge(question: &Question, holders: &[Holder], closer: Option<&Closer>) -> Found {
    let is_listener = |holder: &&Holder| {
        (holder.listener, holder.port) == (question.listener, question.port)
            && holder.owner.tgid != 0
    };
    // Who began later has it from one who had it then.
    let is_meant =
        |holder: &&Holder| is_listener(holder) && holder.owner.start_ns <= question.ts_ns;
    let meant: Vec<&Holder> = holders
        .iter()
        .chain(closer.map(|closer| &closer.last))
        .filter(is_meant)
        .collect();
    let mut processes: Vec<&Holder> = Vec::new();
    for &holder in &meant {
        if !processes.iter().any(|other| key(other) == key(holder)) {
            processes.push(holder);
        }
    }
    let is_alone = closer.is_none_or(|closer| closer.is_alone_since(question.ts_ns));
    let count = u32::try_from(processes.len()).unwrap_or(u32::MAX);
    let is_open = holders.iter().any(|holder| is_listener(&holder));
    if !is_open && !closer.is_some_and(|closer| closer.had_it) {
        return Found {
            passes: closer.is_some_and(|closer| closer.last.flags & HOLDER_PASSES != 0),
            ..Found::nobody(Missing::Unheld)
        };
    }
    let first = first(&processes).filter(|first| is_alone && holds_all(first, &meant));
    if let Some(first) = first {
        return Found {
            owner: Ok(Owner::of(&first.owner, OwnerSource::Listener)),
            holders: count,
            passes: first.flags & HOLDER_PASSES != 0,
        };
    }
    if processes.is_empty() {
        return Found::nobody(Missing::Unheld);
    }
    let passes = processes.iter().all(|one| one.flags & HOLDER_PASSES != 0);
    Found {
        owner: Err(Missing::Shared),
        holders: count,
        passes: passes && is_alone,
    }
}

const fn key(holder: &Holder) -> (u32, u64) {
    (holder.owner.tgid, holder.owner.start_ns)
}

/// The only process; of several that execute one program in one cgroup, the one that all
/// others descend from by others of them.
fn first<'a>(processes: &[&'a Holder]) -> Option<&'a Holder> {
    let (one, others) = processes.split_first()?;
    let program = |holder: &Holder| {
        let owner = &holder.owner;
        (owner.exe_device, owner.exe_inode, owner.cgroup_id)
    };
    let is_alike = |other: &&Holder| program(other) == program(one);
    if !others.is_empty() && (one.owner.exe_inode == 0 || !others.iter().all(is_alike)) {
        return None;
    }
    let is_child = |holder: &Holder| {
        let is_parent = |other: &&Holder| {
            other.owner.tgid == holder.parent_tgid && other.owner.start_ns <= holder.owner.start_ns
        };
        processes.iter().any(is_parent)
    };
    let mut firsts = processes.iter().filter(|holder| !is_child(holder));
    match (firsts.next(), firsts.next()) {
        (Some(first), None) => Some(first),
        _ => None,
    }
}

/// The process has every socket of the listener: whichever the connection came to.
fn holds_all(process: &Holder, meant: &[&Holder]) -> bool {
    meant.iter().all(|one| {
        let same = |other: &&Holder| key(other) == key(process) && other.socket == one.socket;
        meant.iter().any(same)
    })
}

#[cfg(test)]
mod tests;
