//! A consumer behind a bounded queue, on a thread of its own.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{
    consume::{
        consumer::{Consumer, END_GRACE, Needs, Overview, Room, Standing, Stats},
        found::{Open, Part},
    },
    events::record::{Account, Dropped, Header, Item, Loss, Record, Summary},
};

/// Messages that wait at most: more than the default ring holds.
pub(super) const ROOM: usize = 32_768;

/// Messages that the thread takes at once: what it did with earlier ones is known by then.
const HANDFUL: usize = 256;

/// What is told to a consumer.
pub(super) enum Message {
    Header(Arc<Header>),
    Policy(Arc<Header>),
    Event(Arc<Record>),
    /// Tell there what is open, of which so many events were lost on their way.
    TellOpen(Sender<Open>, u64),
    /// What is open is told there, by a stream that begins at this time.
    Open(Receiver<Open>, i128),
    Loss(Loss),
    Overview(Arc<Overview>),
    Tick(Stats),
    Reopen,
    Settle,
    Summary(Arc<Summary>),
}

/// A consumer on a thread of its own, seen from outside.
pub(super) struct Slow {
    name: &'static str,
    needs: Needs,
    hears_of_others: bool,
    is_owed_all: bool,
    part: Part,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    /// Events that came to it.
    delivered: u64,
    hidden: u64,
    dropped: Dropped,
    /// What was counted before it joined.
    before: Stats,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state changed.
    changed: Condvar,
    /// What the consumer has not taken by now is dropped.
    drops: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    /// The thread has messages in its hands.
    is_busy: bool,
    /// No more messages will come.
    is_finishing: bool,
    /// The thread has ended.
    has_ended: bool,
    /// What it was told of that was open when it joined.
    found: Found,
    /// Of what it had when it was last through with all of that.
    account: Account,
}

/// Events that tell what was open when a consumer joined.
#[derive(Clone, Copy, Default)]
struct Found {
    /// Those that were told.
    told: u64,
    /// Those that nobody remembers enough for.
    missing: u64,
}

impl State {
    fn is_idle(&self) -> bool {
        self.has_ended || self.queue.is_empty() && !self.is_busy
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(
        &self,
        deadline: Instant,
        is_reached: impl Fn(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waits = |state: &mut State| !is_reached(state);
        let waited = self.changed.wait_timeout_while(self.lock(), left, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Slow {
    pub(super) fn start(consumer: Box<dyn Consumer>) -> io::Result<Self> {
        let (name, needs) = (consumer.name(), consumer.needs());
        let (hears_of_others, is_owed_all) = (consumer.hears_of_others(), consumer.is_owed_all());
        let part = consumer.part();
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new().name(name.to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let ended = Ended(shared);
                run(&ended.0, consumer);
            }
        })?;
        Ok(Self {
            name,
            needs,
            hears_of_others,
            is_owed_all,
            part,
            shared,
            thread,
            delivered: 0,
            hidden: 0,
            dropped: Dropped::default(),
            before: Stats::default(),
        })
    }

    /// Tells it from now on only of what was counted after `stats`.
    pub(super) const fn count_from(&mut self, stats: Stats) {
        self.before = stats;
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) const fn needs(&self) -> Needs {
        self.needs
    }

    /// It asks how the run stands.
    pub(super) const fn hears_of_others(&self) -> bool {
        self.hears_of_others
    }

    /// It asks for what is open when it joins.
    pub(super) fn asks_for_open(&self) -> bool {
        self.part == Part::Asks
    }

    /// It remembers what is open.
    pub(super) fn remembers_open(&self) -> bool {
        self.part == Part::Remembers
    }

    /// Has what is open here told to `other`, whose stream begins at this time and behind the
    /// events that were given to this one. Nobody waits but `other`.
    pub(super) fn tell_open(&self, other: &Self, wall_ns: i128) {
        let (told, open) = channel();
        self.send(Message::TellOpen(told, self.dropped.queue_full));
        other.send(Message::Open(open, wall_ns));
        self.wake();
        other.wake();
    }

    /// How it stands by now.
    pub(super) fn standing(&self) -> Standing {
        let state = self.shared.lock();
        let mut account = self.account(&state);
        if state.has_ended {
            account.error.get_or_insert_with(panicked);
        }
        Standing {
            name: self.name,
            account,
            waiting: Room::Queue(state.queue.len(), ROOM),
        }
    }

    /// What came to it, and what the thread did with that so far.
    fn account(&self, state: &State) -> Account {
        let account = state.account.clone();
        let Found { told, missing } = state.found;
        let mut dropped = self.dropped.and(account.dropped);
        dropped.queue_full += missing;
        Account {
            delivered: self.delivered + told + missing,
            hidden: self.hidden + account.hidden,
            dropped,
            ..account
        }
    }

    /// Tells it how the run stands; the next time says it too.
    pub(super) fn hear(&self, overview: &Arc<Overview>) {
        if self.shared.lock().queue.len() < ROOM {
            self.send(Message::Overview(Arc::clone(overview)));
        }
    }

    /// Queues an event that it needs, if there is room.
    pub(super) fn event(&mut self, record: &Arc<Record>) {
        self.delivered += 1;
        if !self.needs.has(record) {
            self.hidden += 1;
            return;
        }
        let mut state = self.shared.lock();
        if state.has_ended {
            self.dropped.failed += 1;
        } else if state.queue.len() >= ROOM {
            self.dropped.queue_full += 1;
        } else {
            state.queue.push_back(Message::Event(Arc::clone(record)));
        }
    }

    /// Queues what was counted so far; the next tick says it too.
    pub(super) fn tick(&mut self, stats: &Stats) {
        let missing = self.shared.lock().found.missing;
        let stats = Stats {
            queue_full: self.dropped.queue_full + missing,
            ..stats.since(&self.before)
        };
        if self.shared.lock().queue.len() < ROOM {
            self.send(Message::Tick(stats));
            self.wake();
        }
    }

    /// Queues what is not an event: there are few of these.
    pub(super) fn send(&self, message: Message) {
        let mut state = self.shared.lock();
        if !state.has_ended {
            state.queue.push_back(message);
        }
    }

    /// Has the thread look at the queue.
    pub(super) fn wake(&self) {
        self.shared.changed.notify_all();
    }

    /// Half of the queue is full.
    pub(super) fn is_behind(&self) -> bool {
        self.shared.lock().queue.len() >= ROOM / 2
    }

    /// Waits until all is taken, but not longer than until `deadline`; whether it is.
    pub(super) fn is_idle_by(&self, deadline: Instant) -> bool {
        self.shared.wait_until(deadline, State::is_idle).is_idle()
    }

    /// Waits until all is taken. What is not by then is dropped.
    pub(super) fn settle(&mut self, mut deadline: Instant) -> Account {
        if !self.is_owed_all {
            deadline = deadline.min(Instant::now() + END_GRACE);
        }
        self.send(Message::Settle);
        self.wake();
        let mut state = self.shared.wait_until(deadline, State::is_idle);
        state.queue.clear();
        if !state.is_idle() {
            self.shared.drops.store(true, Ordering::Relaxed);
        }
        let mut account = self.account(&state);
        let has_ended = state.has_ended;
        drop(state);
        let known = account.taken + account.hidden + account.dropped.total();
        let rest = account.delivered.saturating_sub(known);
        if has_ended {
            account.dropped.failed += rest;
            account.error.get_or_insert_with(panicked);
        } else if !self.is_owed_all {
            account.dropped.queue_full += rest;
        } else {
            account.dropped.unfinished += rest;
            if rest > 0 {
                log::warn!(
                    "{}: not done in time; events dropped: up to {rest}",
                    self.name
                );
            }
        }
        account
    }

    /// Lets the thread end, and waits for that. One that hangs is left behind.
    pub(super) fn finish(self, deadline: Instant) {
        self.shared.lock().is_finishing = true;
        self.wake();
        let state = self.shared.wait_until(deadline, |state| state.has_ended);
        let has_ended = state.has_ended;
        drop(state);
        if has_ended {
            // If it panicked, its message is out already.
            let _ = self.thread.join();
        }
    }
}

/// Why a thread has ended that nobody let end.
fn panicked() -> String {
    "it panicked".to_owned()
}

/// Tells that the thread has ended, however it does.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_ended = true;
        state.queue.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

/// The thread: gives the consumer what is queued until no more will come.
fn run(shared: &Shared, mut consumer: Box<dyn Consumer>) {
    let mut messages = VecDeque::new();
    let mut found = Found::default();
    loop {
        {
            let waits = |state: &mut State| state.queue.is_empty() && !state.is_finishing;
            let state = shared.changed.wait_while(shared.lock(), waits);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            if state.queue.is_empty() {
                return;
            }
            let count = state.queue.len().min(HANDFUL);
            messages.extend(state.queue.drain(..count));
            state.is_busy = true;
        }
        for message in messages.drain(..) {
            match message {
                Message::Header(header) => consumer.take(Item::Header(&header)),
                Message::Policy(header) => consumer.take(Item::Policy(&header)),
                Message::Event(_) if shared.drops.load(Ordering::Relaxed) => {}
                Message::Event(record) => consumer.take(Item::Event(&record)),
                // Whoever asked may be gone.
                Message::TellOpen(told, lost) => drop(told.send(consumer.open(lost))),
                Message::Open(open, wall_ns) => {
                    found = tell_found(shared, &mut *consumer, &open, wall_ns);
                }
                Message::Loss(loss) => consumer.take(Item::Loss(&loss)),
                Message::Overview(overview) => consumer.hear(&overview),
                Message::Tick(stats) => consumer.tick(&stats),
                Message::Reopen => consumer.reopen(),
                Message::Settle => consumer.settle(),
                Message::Summary(summary) => consumer.take(Item::Summary(&summary)),
            }
        }
        let account = consumer.account();
        let mut state = shared.lock();
        state.account = account;
        state.found = found;
        state.is_busy = false;
        drop(state);
        shared.changed.notify_all();
    }
}

/// Gives the consumer what is open, once that is told.
fn tell_found(
    shared: &Shared,
    consumer: &mut dyn Consumer,
    open: &Receiver<Open>,
    wall_ns: i128,
) -> Found {
    let mut found = Found::default();
    // Nobody tells it where the thread that remembers it has panicked, as its account says.
    let Ok(open) = open.recv() else {
        return found;
    };
    found.missing = open.missing();
    for record in open.records(wall_ns) {
        if shared.drops.load(Ordering::Relaxed) {
            break;
        }
        consumer.take(Item::Event(&record));
        found.told += 1;
    }
    found
}
