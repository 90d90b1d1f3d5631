//! What the live view knows. Pure: events in, nothing out; it knows no clock but the events'
//! and the ticks'.

mod groups;
mod strip;

use std::collections::VecDeque;

pub(crate) use self::{
    groups::{Group, Groups, Key, Tally, joined},
    strip::{SECONDS, Second, Strip},
};
use crate::{
    consume::{
        consumer::{Overview, Stats},
        join::{Connection, Join, State},
        socket::Report,
    },
    events::{
        decode::{Action, Direction},
        record::{Header, Item, Loss, LossCause, Record, Summary},
    },
};

/// Connections that have ended and are still shown, at most.
pub(crate) const ENDED_ROOM: usize = 5_000;

/// How long a connection that has ended stays among those that are open, ns.
pub(crate) const JUST_ENDED_NS: i128 = 10_000_000_000;

/// What is kept with a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark {
    /// What it counts for in its groups.
    counted: Tally,
    /// What it had carried when all counts were begun anew: received, sent.
    before: (u64, u64),
    /// Those groups.
    keys: Option<Keys>,
    /// What it carries.
    pub(crate) rate: Rate,
}

/// The groups of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keys {
    process: Key,
    service: Key,
    remote: Key,
    rule: Option<Key>,
}

impl Keys {
    fn of(record: &Record) -> Self {
        let event = &record.event;
        let owner = event.owner.as_ref();
        let is_outbound = event.direction() == Direction::Outbound;
        let port = if is_outbound {
            Some(event.remote_port)
        } else {
            event.local_port
        };
        let rule = record.judgement.as_ref();
        Self {
            process: Key::Process(owner.map(|owner| (owner.pid, owner.start_ns))),
            service: Key::Service(is_outbound, port),
            remote: Key::Remote(event.remote_ip),
            rule: rule.map(|judged| Key::Rule(judged.rule.clone(), !judged.is_violation())),
        }
    }
}

/// What groups are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupedBy {
    Process,
    Service,
    Remote,
    Rule,
}

impl Mark {
    /// The group of the connection.
    pub(crate) fn key(&self, by: GroupedBy) -> Option<&Key> {
        let keys = self.keys.as_ref()?;
        match by {
            GroupedBy::Process => Some(&keys.process),
            GroupedBy::Service => Some(&keys.service),
            GroupedBy::Remote => Some(&keys.remote),
            GroupedBy::Rule => keys.rule.as_ref(),
        }
    }
}

/// How fast a connection carries, between the last two looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    at_ns: u64,
    received: u64,
    sent: u64,
    /// Bytes received a second.
    pub(crate) received_a_second: u64,
    /// Bytes sent a second.
    pub(crate) sent_a_second: u64,
}

impl Rate {
    /// A look at it, or its end.
    fn look(&mut self, record: &Record, is_open: bool) {
        let Some(carried) = record.event.action.carried() else {
            return;
        };
        let before = *self;
        self.at_ns = record.event.ts_ns;
        self.received = carried.bytes_received;
        self.sent = carried.bytes_sent;
        let passed_ns = u128::from(self.at_ns.saturating_sub(before.at_ns));
        // The time before the first look may be that before the monitor.
        let is_first = before.at_ns == 0;
        let a_second = |now: u64, then: u64| {
            let bytes = u128::from(now.saturating_sub(then));
            let rate = (bytes * 1_000_000_000).checked_div(passed_ns);
            rate.and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
        };
        let is_known = is_open && !is_first;
        self.received_a_second = if is_known {
            a_second(self.received, before.received)
        } else {
            0
        };
        self.sent_a_second = if is_known {
            a_second(self.sent, before.sent)
        } else {
            0
        };
    }
}

impl Tally {
    fn of(connection: &Connection<Mark>) -> Self {
        let record = &connection.record;
        let carried = record.event.action.carried();
        let (received, sent) = connection.mark.before;
        Self {
            all: 1,
            open: connection.state.is_open().into(),
            failed: (connection.state == State::Failed).into(),
            violations: record.is_violation().into(),
            received: carried.map_or(0, |so_far| so_far.bytes_received.saturating_sub(received)),
            sent: carried.map_or(0, |so_far| so_far.bytes_sent.saturating_sub(sent)),
        }
    }
}

/// What the live view knows.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub(crate) header: Option<Header>,
    join: Join<Mark>,
    /// Those of which nothing more is expected, the latest last.
    ended: VecDeque<Connection<Mark>>,
    done: Vec<Connection<Mark>>,
    pub(crate) processes: Groups,
    pub(crate) services: Groups,
    pub(crate) remotes: Groups,
    pub(crate) rules: Groups,
    /// What all of them count for.
    pub(crate) total: Tally,
    pub(crate) strip: Strip,
    /// By now, ns since the Unix epoch.
    pub(crate) now_ns: i128,
    events: u64,
    /// Connections that were ended by a key.
    pub(crate) ended_by_key: u64,
    /// Events that this view's queue had no room for.
    pub(crate) queue_full: u64,
    pub(crate) overview: Overview,
    /// How the service stands whose events these are.
    pub(crate) service: Option<Box<Report>>,
    /// Losses by cause, as the service has told them.
    pub(crate) told_losses: Vec<(LossCause, u64)>,
    pub(crate) summary: Option<Summary>,
    /// What there is of the recording that this is played from.
    pub(crate) recorded: Option<Recorded>,
}

/// What a recording tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Its file.
    pub(crate) name: String,
    /// Lines of kinds that this version does not know, or that tell too little of an event.
    pub(crate) unknown: u64,
    /// Lines that tell what an open connection has carried so far.
    pub(crate) progress: u64,
    /// Lines about listeners.
    pub(crate) listeners: u64,
    /// The account at the end of the run, once that is reached.
    pub(crate) end: Option<Told>,
}

/// What a run says of itself at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Events that it has seen.
    pub seen: u64,
    /// Of these, those that a filter has kept back.
    pub filtered: u64,
    /// Of these, those that are missing.
    pub lost: u64,
}

impl Model {
    /// Of a recording, from which nothing is taken yet.
    pub(super) fn of_recording(recorded: Recorded) -> Self {
        Self {
            recorded: Some(recorded),
            ..Self::default()
        }
    }

    /// Takes an item.
    pub fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Header(header) | Item::Policy(header) => {
                self.now_ns = self.now_ns.max(header.wall_ns);
                self.header = Some(header.clone());
            }
            Item::Event(record) => self.event(record),
            Item::Loss(loss) => self.lose(loss),
            Item::Summary(summary) => self.summary = Some(summary.clone()),
        }
    }

    /// Time passes.
    pub fn tick(&mut self, stats: &Stats) {
        self.now_ns = self.now_ns.max(stats.wall_ns);
        self.queue_full = stats.queue_full;
        self.strip.advance(self.now_ns);
        self.rules.advance(self.now_ns);
        let mut done = std::mem::take(&mut self.done);
        self.join.sweep(&mut done);
        self.done = done;
        self.settle();
    }

    /// The groups of that kind.
    pub(crate) const fn groups(&self, by: GroupedBy) -> &Groups {
        match by {
            GroupedBy::Process => &self.processes,
            GroupedBy::Service => &self.services,
            GroupedBy::Remote => &self.remotes,
            GroupedBy::Rule => &self.rules,
        }
    }

    /// How the run stands.
    pub fn hear(&mut self, overview: &Overview) {
        self.overview = overview.clone();
    }

    /// How the service stands whose events these are.
    pub fn hear_of_service(&mut self, report: Report) {
        self.service = Some(Box::new(report));
    }

    /// Events that were taken.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The run has come to its end.
    pub fn is_over(&self) -> bool {
        let recorded = self.recorded.as_ref();
        self.summary.is_some() || recorded.is_some_and(|recorded| recorded.end.is_some())
    }

    /// Another run begins in a recording: nobody watched when what was open ended.
    pub(super) fn begin_again(&mut self) {
        if let Some(recorded) = &mut self.recorded {
            recorded.end = None;
        }
        let mut done = std::mem::take(&mut self.done);
        self.join.end(&mut done);
        self.done = done;
        self.settle();
    }

    /// Begins all counts anew. What is open stays.
    pub fn clear(&mut self) {
        self.ended.clear();
        self.processes = Groups::default();
        self.services = Groups::default();
        self.remotes = Groups::default();
        self.rules = Groups::default();
        self.total = Tally::default();
        self.strip = Strip::default();
        self.strip.advance(self.now_ns);
        let connections = self.join.iter_mut();
        for connection in connections.filter(|row| !row.is_listener()) {
            if let Some(carried) = connection.record.event.action.carried() {
                connection.mark.before = (carried.bytes_received, carried.bytes_sent);
            }
            connection.mark.counted = Tally::default();
            connection.mark.keys = None;
            if !connection.state.is_open() {
                continue;
            }
            let keys = Keys::of(&connection.record);
            let counted = Counted {
                was: Tally::default(),
                is: Tally::of(connection),
                // No rule has decided on it just now.
                before: Some(keys.clone()),
                now: keys,
            };
            connection.mark.counted = counted.is;
            connection.mark.keys = Some(counted.now.clone());
            for (groups, before, key) in counted.groups(
                &mut self.processes,
                &mut self.services,
                &mut self.remotes,
                &mut self.rules,
            ) {
                let record = &connection.record;
                groups.recount((before, counted.was), (key, counted.is), record);
            }
            self.total += counted.is;
        }
    }

    /// Every connection that is known, listeners among them.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection<Mark>> {
        self.join.iter().chain(&self.ended)
    }

    /// The connection of this id.
    pub(crate) fn connection(&self, id: u64) -> Option<&Connection<Mark>> {
        let ended = || self.ended.iter().rfind(|ended| ended.id() == id);
        self.join.get(id).or_else(ended)
    }

    /// What is known of the connection of this id.
    pub fn record(&self, id: u64) -> Option<&Record> {
        self.connection(id).map(|connection| &connection.record)
    }

    /// The connection of this id is open, as far as was told.
    pub fn is_open(&self, id: u64) -> bool {
        let connection = self.connection(id);
        connection.is_some_and(|row| row.state.is_open() && !row.is_listener())
    }

    /// So many connections were ended by a key.
    pub const fn count_ended(&mut self, count: u64) {
        self.ended_by_key += count;
    }

    /// The policy file.
    pub fn policy(&self) -> Option<&str> {
        self.header.as_ref()?.policy.as_deref()
    }

    /// This is played from a recording.
    pub const fn is_recording(&self) -> bool {
        self.recorded.is_some()
    }

    /// It has ended, and not just now.
    pub(crate) const fn is_past(&self, connection: &Connection<Mark>) -> bool {
        let age_ns = self.now_ns - connection.record.wall_ns;
        !connection.state.is_open() && age_ns > JUST_ENDED_NS
    }

    fn event(&mut self, record: &Record) {
        self.events += 1;
        self.now_ns = self.now_ns.max(record.wall_ns);
        self.strip.advance(self.now_ns);
        let Some(connection) = self.join.take(record, &mut self.done) else {
            return;
        };
        if !connection.is_listener() {
            let (is_open, action) = (connection.state.is_open(), record.event.action);
            connection.mark.rate.look(record, is_open);
            let counted = Counted {
                was: connection.mark.counted,
                is: Tally::of(connection),
                before: connection.mark.keys.take(),
                now: Keys::of(&connection.record),
            };
            connection.mark.counted = counted.is;
            connection.mark.keys = Some(counted.now.clone());
            let record = &connection.record;
            // What was there before did not begin now, and what ends did not either.
            let is_older = matches!(action, Action::Preexisting { .. }) || action.is_told_again();
            let begins = connection.events == 1 && !is_older;
            for (groups, before, key) in counted.groups(
                &mut self.processes,
                &mut self.services,
                &mut self.remotes,
                &mut self.rules,
            ) {
                groups.recount((before, counted.was), (key, counted.is), record);
            }
            self.total -= counted.was;
            self.total += counted.is;
            counted.note(self.strip.present(), begins);
        }
        self.settle();
    }

    /// Keeps what has ended for a while.
    fn settle(&mut self) {
        for connection in self.done.drain(..) {
            if matches!(connection.state, State::PushedOut | State::CutOff)
                && let Some(keys) = &connection.mark.keys
            {
                // Nobody will tell its end.
                let was = connection.mark.counted;
                let is = Tally { open: 0, ..was };
                self.processes.correct(&keys.process, was, is);
                self.services.correct(&keys.service, was, is);
                self.remotes.correct(&keys.remote, was, is);
                if let Some(rule) = &keys.rule {
                    self.rules.correct(rule, was, is);
                }
                self.total -= was;
                self.total += is;
            }
            if connection.is_listener() {
                continue;
            }
            if self.ended.len() >= ENDED_ROOM {
                self.ended.pop_front();
            }
            self.ended.push_back(connection);
        }
    }

    fn lose(&mut self, loss: &Loss) {
        let known = self.told_losses.iter_mut();
        match known.into_iter().find(|(cause, _)| *cause == loss.cause) {
            Some((_, total)) => *total = total.saturating_add(loss.lost),
            None => self.told_losses.push((loss.cause, loss.lost)),
        }
    }
}

/// What of a connection was counted before an event, and what is counted after it.
struct Counted {
    was: Tally,
    is: Tally,
    before: Option<Keys>,
    now: Keys,
}

impl Counted {
    /// The groups that it is in.
    fn groups<'a>(
        &'a self,
        processes: &'a mut Groups,
        services: &'a mut Groups,
        remotes: &'a mut Groups,
        rules: &'a mut Groups,
    ) -> impl Iterator<Item = (&'a mut Groups, Option<&'a Key>, &'a Key)> {
        let before = self.before.as_ref();
        let of_all = [
            (
                processes,
                before.map(|keys| &keys.process),
                &self.now.process,
            ),
            (
                services,
                before.map(|keys| &keys.service),
                &self.now.service,
            ),
            (remotes, before.map(|keys| &keys.remote), &self.now.remote),
        ];
        let rule = self.now.rule.as_ref();
        let before = before.and_then(|keys| keys.rule.as_ref());
        let rule = rule.map(|rule| (rules, before, rule));
        of_all.into_iter().chain(rule)
    }

    /// Notes what this event has added to the present second.
    fn note(&self, second: &mut Second, begins: bool) {
        let (was, is) = (&self.was, &self.is);
        second.begun += u64::from(begins);
        second.failed += is.failed.saturating_sub(was.failed);
        second.violations += is.violations.saturating_sub(was.violations);
        if was.all > 0 || begins {
            let more = |now: u64, then: u64, sum: u64| sum.saturating_add(now.saturating_sub(then));
            second.received = more(is.received, was.received, second.received);
            second.sent = more(is.sent, was.sent, second.sent);
        }
    }
}

#[cfg(test)]
mod tests;
