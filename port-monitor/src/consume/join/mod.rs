//! One [`Connection`] of all that is told of one: of its attempt, outcome or accept, its
//! progress and its end. A listener is one too.
//!
//! Events are joined by their id alone. What does not fit in is pushed out and marked as such;
//! nothing is guessed. It knows no clock and does no I/O.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use port_monitor_common::{event::OwnerSource, tcp_state::TcpState};

use crate::events::{
    decode::{Action, Owner},
    record::{Field, Process, Record},
};

/// Connections that are open at most: as many as the kernel remembers by default.
pub const ROOM: usize = 131_072;

/// Connections that have ended and wait for events that come late, at most.
const LATE_ROOM: usize = 1_024;

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nobody has told.
    Unseen,
    /// This host tried to open it.
    Attempt,
    /// This host accepted it, or it is a listener that began to listen.
    Inbound,
    /// A process put it into a socket by `TCP_REPAIR`.
    Restored,
    /// It was there before the monitor.
    Preexisting,
}

impl Beginning {
    /// What an event tells of it.
    const fn told_by(action: &Action) -> Self {
        match action {
            Action::Connect => Self::Attempt,
            Action::Accept | Action::Listen => Self::Inbound,
            Action::Restored => Self::Restored,
            Action::Preexisting { .. } => Self::Preexisting,
            Action::Connected { .. }
            | Action::Failed { .. }
            | Action::Close(_)
            | Action::Unlisten
            | Action::Progress(_) => Self::Unseen,
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This host tries to open it.
    Attempted,
    /// It is open; a listener listens.
    Open,
    /// The attempt failed.
    Failed,
    /// It has ended.
    Closed,
    /// Nobody watched it any more when it ended.
    CutOff,
    /// There was no room to remember it until its end.
    PushedOut,
}

impl State {
    /// What an event tells of it.
    const fn told_by(action: &Action) -> Self {
        match action {
            Action::Connect => Self::Attempted,
            Action::Accept
            | Action::Connected { .. }
            | Action::Preexisting { .. }
            | Action::Listen
            | Action::Restored
            | Action::Progress(_) => Self::Open,
            Action::Failed { .. } => Self::Failed,
            Action::Close(_) | Action::Unlisten => Self::Closed,
        }
    }

    /// More will be told.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Attempted | Self::Open)
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Attempted => 0,
            Self::Open => 1,
            Self::Failed | Self::Closed | Self::CutOff | Self::PushedOut => 2,
        }
    }
}

/// A connection, or a listener.
#[derive(Clone, Debug)]
pub struct Connection<M> {
    /// How it began.
    pub beginning: Beginning,
    /// When it began, ns since the Unix epoch; where that was not seen, the first event of it.
    pub began_ns: i128,
    /// It is known how old it is: that time is of its beginning.
    pub is_dated: bool,
    /// How far it has come.
    pub state: State,
    /// From the attempt to the established connection, µs.
    pub handshake_us: Option<u32>,
    /// Events that it is made of.
    pub events: u32,
    /// All that is known of it. The action and the times are those of the event that says most
    /// of how far it has come.
    pub record: Record,
    /// What its user keeps with it.
    pub mark: M,
}

impl<M: Default> Connection<M> {
    fn new(record: &Record) -> Self {
        let action = &record.event.action;
        let mut connection = Self {
            beginning: Beginning::told_by(action),
            began_ns: record.wall_ns,
            is_dated: false,
            state: State::told_by(action),
            handshake_us: None,
            events: 1,
            record: record.clone(),
            mark: M::default(),
        };
        connection.see_times(record);
        connection
    }
}

impl<M> Connection<M> {
    /// Its number.
    pub const fn id(&self) -> u64 {
        self.record.event.id
    }

    /// It is a listener.
    pub const fn is_listener(&self) -> bool {
        self.record.event.action.is_listener()
    }

    /// As somebody tells of it who begins at this time, ns since the Unix epoch; `None` where
    /// nothing more is expected of it.
    pub fn as_found(&self, wall_ns: i128) -> Option<Record> {
        let mut record = self.record.clone();
        let event = &mut record.event;
        let state = match (self.state, event.action) {
            (_, Action::Preexisting { state, .. }) => state,
            _ if self.is_listener() => TcpState::LISTEN,
            (State::Attempted, _) => TcpState::SYN_SENT,
            _ => TcpState::ESTABLISHED,
        };
        if !self.state.is_open() {
            return None;
        }
        let age_ns = u64::try_from(wall_ns - self.began_ns).unwrap_or(0);
        event.action = Action::Preexisting {
            direction: event.direction(),
            state,
            duration_ns: self.is_dated.then_some(age_ns),
        };
        let later_ns = u64::try_from(wall_ns - record.wall_ns).unwrap_or(0);
        event.ts_ns = event.ts_ns.saturating_add(later_ns);
        record.wall_ns = record.wall_ns.max(wall_ns);
        Some(record)
    }

    /// What it has carried so far, as it was told last.
    pub fn so_far(&self) -> Option<&Record> {
        let is_so_far = matches!(self.record.event.action, Action::Progress(_));
        (is_so_far && self.state.is_open()).then_some(&self.record)
    }

    fn merge(&mut self, record: &Record) {
        let action = &record.event.action;
        self.events = self.events.saturating_add(1);
        let beginning = Beginning::told_by(action);
        // What is older than the monitor stays so.
        if beginning != Beginning::Unseen && self.beginning != Beginning::Preexisting {
            self.beginning = beginning;
        }
        self.see_times(record);
        self.learn(record);
        let state = State::told_by(action);
        let own = (self.state.rank(), self.record.event.ts_ns);
        if (state.rank(), record.event.ts_ns) >= own {
            self.state = state;
            self.record.wall_ns = record.wall_ns;
            self.record.event.action = *action;
            self.record.event.ts_ns = record.event.ts_ns;
        }
    }

    /// When it began, and how long the handshake took.
    fn see_times(&mut self, record: &Record) {
        let action = &record.event.action;
        let duration_ns = action.duration_ns();
        let began_ns = record.wall_ns - i128::from(duration_ns.unwrap_or(0));
        let is_found = matches!(action, Action::Preexisting { .. });
        // The kernel's own measure says it of connections whose beginning is not told, and so
        // does a service.
        if self.beginning == Beginning::Unseen || is_found || duration_ns.is_none() {
            self.began_ns = self.began_ns.min(began_ns);
        }
        self.is_dated |= duration_ns.is_some()
            || matches!(
                Beginning::told_by(action),
                Beginning::Attempt | Beginning::Inbound | Beginning::Restored
            );
        if let Action::Connected { handshake_us } = action {
            self.handshake_us = self.handshake_us.or(*handshake_us);
        }
    }

    /// Takes over what this event knows better.
    fn learn(&mut self, record: &Record) {
        let own = &mut self.record;
        let is_better = match (&own.event.owner, &record.event.owner) {
            (None, Some(_)) => true,
            (Some(own), Some(new)) => is_found_later(own) && !is_found_later(new),
            (_, None) => false,
        };
        if is_better {
            own.event.owner = record.event.owner;
            own.process = record.process.clone();
        } else if record.event.owner.is_some() && knows_more(&record.process, &own.process) {
            own.process = record.process.clone();
        }
        if own.event.local_port.is_none() {
            own.event.local_ip = record.event.local_ip;
            own.event.local_port = record.event.local_port;
            own.ports.local = record.ports.local;
        }
        if own.peer.is_none() {
            own.peer.clone_from(&record.peer);
        }
        if own.judgement.is_none() {
            own.judgement.clone_from(&record.judgement);
        }
    }
}

/// The owner is not who acted, but who was found to have the socket.
const fn is_found_later(owner: &Owner) -> bool {
    matches!(owner.source, OwnerSource::Holder | OwnerSource::Listener)
}

/// More was found out of the one process than of the other one.
const fn knows_more(one: &Process, other: &Process) -> bool {
    matches!((&one.exe, &other.exe), (Field::Known(_), Field::Missing(_)))
        || (one.container_missing.is_none() && other.container_missing.is_some())
        || (one.user_missing.is_none() && other.user_missing.is_some())
}

/// Joins events.
#[derive(Clone, Debug)]
pub struct Join<M> {
    /// Each is copied when it changes while a list still has it.
    connections: HashMap<u64, Arc<Connection<M>>>,
    /// Ids by age; of some, the connection is not here any more.
    by_age: VecDeque<u64>,
    /// Those that have ended, in this order.
    ended: VecDeque<u64>,
    /// So many of them had ended at the last sweep.
    swept: usize,
    room: usize,
}

impl<M: Clone + Default> Default for Join<M> {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl<M: Clone + Default> Join<M> {
    /// For `room` open connections at most.
    pub fn with_room(room: usize) -> Self {
        Self {
            connections: HashMap::new(),
            by_age: VecDeque::new(),
            ended: VecDeque::new(),
            swept: 0,
            room,
        }
    }

    /// Takes an event; the connection that it is of. What nothing more is expected of, and
    /// what has to make room, goes to `done`.
    pub fn take(
        &mut self,
        record: &Record,
        done: &mut Vec<Connection<M>>,
    ) -> Option<&mut Connection<M>> {
        let id = record.event.id;
        let (is_new, was_open, is_open) = match self.connections.entry(id) {
            Entry::Occupied(mut entry) => {
                let connection = Arc::make_mut(entry.get_mut());
                let was_open = connection.state.is_open();
                connection.merge(record);
                (false, was_open, connection.state.is_open())
            }
            Entry::Vacant(entry) => {
                let connection = entry.insert(Arc::new(Connection::new(record)));
                (true, true, connection.state.is_open())
            }
        };
        if is_new && is_open {
            self.by_age.push_back(id);
        }
        if was_open && !is_open {
            self.ended.push_back(id);
        }
        self.make_room(done);
        self.get_mut(id)
    }

    /// The connection of this id, while something is expected of it.
    pub fn get(&self, id: u64) -> Option<&Connection<M>> {
        self.connections.get(&id).map(|shared| &**shared)
    }

    /// The connection of this id to be changed, while something is expected of it.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Connection<M>> {
        self.connections.get_mut(&id).map(Arc::make_mut)
    }

    /// Those that something is expected of.
    pub fn iter(&self) -> impl Iterator<Item = &Connection<M>> {
        self.connections.values().map(|shared| &**shared)
    }

    /// Those that something is expected of, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection<M>> {
        self.connections.values_mut().map(Arc::make_mut)
    }

    /// Those that are open, as they are now.
    pub fn open(&self) -> Vec<Arc<Connection<M>>> {
        let open = self.connections.values().filter(|one| one.state.is_open());
        open.map(Arc::clone).collect()
    }

    /// Time passes: what had ended at the last sweep already goes to `done`, because no event
    /// is that late.
    pub fn sweep(&mut self, done: &mut Vec<Connection<M>>) {
        self.release(self.swept, done);
        self.swept = self.ended.len();
    }

    /// Nothing more comes: what is open is cut off, and all goes to `done`.
    pub fn end(&mut self, done: &mut Vec<Connection<M>>) {
        self.release(self.ended.len(), done);
        while let Some(id) = self.by_age.pop_front() {
            done.extend(self.leave(id, State::CutOff));
        }
    }

    fn make_room(&mut self, done: &mut Vec<Connection<M>>) {
        if self.ended.len() > LATE_ROOM {
            self.release(1, done);
        }
        while self.connections.len() - self.ended.len() > self.room {
            let Some(oldest) = self.by_age.pop_front() else {
                return;
            };
            done.extend(self.leave(oldest, State::PushedOut));
        }
        // Most have ended long before those that are as old.
        if self.by_age.len() > 2 * self.connections.len() + LATE_ROOM {
            let connections = &self.connections;
            self.by_age.retain(|id| connections.contains_key(id));
        }
    }

    /// The first `count` that have ended.
    fn release(&mut self, count: usize, done: &mut Vec<Connection<M>>) {
        for id in self.ended.drain(..count.min(self.ended.len())) {
            done.extend(self.connections.remove(&id).map(Arc::unwrap_or_clone));
        }
        self.swept = self.swept.saturating_sub(count);
    }

    /// Gives up one that is open.
    fn leave(&mut self, id: u64, state: State) -> Option<Connection<M>> {
        if !self.connections.get(&id)?.state.is_open() {
            return None;
        }
        let mut connection = Arc::unwrap_or_clone(self.connections.remove(&id)?);
        connection.state = state;
        Some(connection)
    }
}

#[cfg(test)]
mod tests;
