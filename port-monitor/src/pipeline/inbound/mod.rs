//! Whose an inbound connection is where the kernel side does not know (tracepoint backend): a
//! thread asks who has its listener open when it has come in, and events wait for the
//! answer, in their order.

mod answers;
mod closers;
mod judge;

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread, vec,
};

use tokio::sync::Notify;

use self::answers::{Answer, HURRY, Question};
use crate::{
    events::{
        decode::{Action, Close, Direction, Event, Owner},
        record::Missing,
    },
    host::holding::{Source, Wanted},
};

/// Events that wait at most; then the first of them goes without an owner.
const PATIENCE: usize = 1 << 14;
/// Connections whose owner is remembered until they end: twice as many at most.
const REMEMBERED: usize = 1 << 17;
/// Owners told of last, of which there is one copy each.
const RECENT: usize = 32;
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

/// An event with its owner.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The event.
    pub event: &'a Event,
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
    questions: Option<Sender<Vec<Question>>>,
    /// Questions of events that wait, which nobody was asked yet.
    unasked: Vec<Question>,
    answers: Receiver<Vec<Answer>>,
    /// Answers that are there, but for the one to the next events.
    received: vec::IntoIter<Answer>,
    /// The answer to so many next events that ask.
    next: (usize, Arc<Found>),
    /// Events that have not waited for their answers, which are still to come.
    gone: usize,
    answered: Arc<Notify>,
    waiting: VecDeque<Event>,
    /// The first of them waits for its answer, as far as is known.
    is_blocked: bool,
    owners: Owners,
    unknown: Arc<Found>,
    wanted: Wanted,
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
                .spawn(move || answers::answer_all(&mut source, &asked, &answer, &notify))?;
        }
        let unknown = Arc::new(Found::nobody(Missing::NoOwner));
        Ok(Self {
            questions: has_source.then_some(questions),
            unasked: Vec::new(),
            answers,
            received: Vec::new().into_iter(),
            next: (0, Arc::clone(&unknown)),
            gone: 0,
            answered,
            waiting: VecDeque::new(),
            is_blocked: false,
            owners: Owners::default(),
            unknown,
            wanted,
        })
    }

    /// Told when there are answers.
    pub fn answered(&self) -> Arc<Notify> {
        Arc::clone(&self.answered)
    }

    /// Nobody has asked for events of this kind.
    pub const fn is_aside(&self, event: &Event) -> bool {
        is_aside(event, self.wanted)
    }

    /// Takes an event, which comes out again by [`Self::tell_next`]. What it asks is asked by
    /// [`Self::ask`], unless very much is.
    pub fn take(&mut self, event: &Event) {
        if let (Some(listener), Some(_)) = (asks(event), &self.questions) {
            self.unasked.push(Question {
                listener,
                port: event.local_port.unwrap_or(0).into(),
                ts_ns: event.ts_ns,
            });
            if self.unasked.len() >= HURRY {
                self.ask();
            }
        }
        self.waiting.push_back(*event);
    }

    /// Asks whose the connections are of which nobody was asked yet: of all at once, for a
    /// message costs more than a question.
    pub fn ask(&mut self) {
        if let Some(questions) = self.questions.as_ref().filter(|_| !self.unasked.is_empty()) {
            let _ = questions.send(mem::take(&mut self.unasked));
        }
    }

    /// Hands the next event in order to `tell`, if its owner is known by now, or will not be;
    /// whether it is so. Nothing is copied: events are large.
    pub fn tell_next(&mut self, tell: impl FnOnce(Told<'_>)) -> bool {
        let Some(front) = self.waiting.front() else {
            return false;
        };
        let (id, action) = (front.id, &front.action);
        let found = if asks(front).is_some() {
            let found = self.answer();
            self.is_blocked = found.is_none();
            let Some(found) = found else {
                return false;
            };
            if self.wanted.ends {
                self.owners.remember(id, Arc::clone(&found));
            }
            Some(found)
        } else {
            let is_progress = matches!(action, Action::Progress(_));
            let began_seen = told_again(front).map(|carried| carried.duration_ns.is_some());
            began_seen.map(|was_seen| {
                let found = if is_progress {
                    self.owners.know(id)
                } else {
                    self.owners.recall(id)
                };
                found.unwrap_or_else(|| self.unremembered(was_seen))
            })
        };
        let wanted = self.wanted;
        if let Some(event) = self.waiting.front_mut() {
            tell(told(event, found.as_deref(), wanted));
        }
        self.waiting.pop_front();
        true
    }

    /// The next event waits for its answer, of which nothing is known since the last look
    /// for it; and there is room for others to wait.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked && self.waiting.len() < PATIENCE
    }

    /// So many events wait that others will not have their owners asked for in time.
    pub fn is_crowded(&self) -> bool {
        self.waiting.len() >= PATIENCE / 2
    }

    /// Whether such an event waits.
    pub fn has(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.waiting.iter().any(is_it)
    }

    /// Waits until there is a next event; false when none waits.
    pub fn wait(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        self.ask();
        if self.next.0 == 0 && self.received.len() == 0 {
            self.received = self.answers.recv().unwrap_or_default().into_iter();
        }
        true
    }

    /// Whose it is where no beginning is remembered: it was before the start, or the kernel
    /// saw it (`was_seen`), and it was lost or is too long ago.
    fn unremembered(&self, was_seen: bool) -> Arc<Found> {
        if self.questions.is_some() && was_seen {
            Arc::new(Found::nobody(Missing::Late))
        } else {
            Arc::clone(&self.unknown)
        }
    }

    /// The answer to the next event that asks, if it is there, or will not be in time.
    fn answer(&mut self) -> Option<Arc<Found>> {
        if self.questions.is_none() {
            return Some(Arc::clone(&self.unknown));
        }
        loop {
            let (count, found) = &mut self.next;
            let late = self.gone.min(*count);
            self.gone -= late;
            *count -= late;
            if *count > 0 {
                *count -= 1;
                return Some(Arc::clone(found));
            }
            if let Some(answer) = self.received.next() {
                self.next = (answer.count, self.owners.shared(answer.found));
                continue;
            }
            match self.answers.try_recv() {
                Ok(answers) => self.received = answers.into_iter(),
                Err(TryRecvError::Empty) if self.waiting.len() < PATIENCE => return None,
                Err(_) => {
                    self.gone += 1;
                    return Some(self.owners.shared(Found::nobody(Missing::Late)));
                }
            }
        }
    }
}

/// The event with what was found out, if anything was to be.
fn told<'a>(event: &'a mut Event, found: Option<&Found>, wanted: Wanted) -> Told<'a> {
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
    let is_kept_back = wanted.filters && found.is_some_and(|found| !found.passes);
    Told {
        missing,
        is_filtered: is_kept_back && missing != Missing::Late,
        is_lost: is_kept_back && missing == Missing::Late,
        is_aside: is_aside(event, wanted),
        event,
    }
}

const fn is_aside(event: &Event, wanted: Wanted) -> bool {
    !wanted.accepts && matches!(event.action, Action::Accept)
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
    fn remember(&mut self, id: u64, found: Arc<Found>) {
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(id, found);
    }

    /// The one copy of it.
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

    fn know(&self, id: u64) -> Option<Arc<Found>> {
        let found = self.young.get(&id).or_else(|| self.old.get(&id));
        found.map(Arc::clone)
    }

    fn recall(&mut self, id: u64) -> Option<Arc<Found>> {
        self.young.remove(&id).or_else(|| self.old.remove(&id))
    }
}

#[cfg(test)]
mod tests;
