//! Rows that repeat each other: which rows of a second are held back, and how many
//! of them are the same. Never more than [`MAX_GROUPS`] records.

use std::sync::Arc;

use crate::{
    consume::Due,
    events::{
        decode::{Action, Close, Direction, Event},
        record::Record,
    },
};

/// Rows a person reads in a second, about: so many are shown as they come.
pub(crate) const READABLE: usize = 20;
/// Rows held back that differ from each other; another one writes them all.
pub(crate) const MAX_GROUPS: usize = 64;

const NS_PER_SECOND: i128 = 1_000_000_000;

/// Rows that repeat each other.
#[derive(Debug)]
pub(crate) struct Group {
    /// The first one, with the figures of all: the longest times, the sums of
    /// bytes and segments.
    pub(crate) record: Record,
    /// How many there are.
    pub(crate) count: u64,
    /// What they have in common.
    key: Vec<u8>,
    /// The event without what differs between them.
    constant: Event,
}

/// The rows of the running second.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// Seconds since the Unix epoch.
    second: i128,
    rows: usize,
    /// The second before had more rows than a person reads: all are held back.
    is_busy: bool,
    /// In the order of their first rows.
    groups: Vec<Group>,
}

impl Repeats {
    /// Counts a row. Whether it begins a second: then what is held back is due.
    ///
    /// The CPUs' events are not in order to the last microsecond: a row of the
    /// second before belongs to this one.
    pub(crate) fn begins_second(&mut self, wall_ns: i128) -> bool {
        let second = wall_ns.div_euclid(NS_PER_SECOND);
        let begins = second != self.second && second + 1 != self.second;
        if begins {
            let follows = second == self.second + 1;
            self.is_busy = follows && self.rows > READABLE;
            self.second = second;
            self.rows = 0;
        }
        self.rows += 1;
        begins
    }

    /// Whether the row just counted is shown at once.
    pub(crate) const fn is_readable(&self) -> bool {
        !self.is_busy && self.rows <= READABLE
    }

    /// Whether what is held back is to be written.
    pub(crate) const fn are_due(&self, due: Due) -> bool {
        match due {
            Due::Now => true,
            Due::By(wall_ns) => wall_ns.div_euclid(NS_PER_SECOND) > self.second,
        }
    }

    /// Adds a row to those that have every fact in common with it, if there are
    /// any: quicker than by the text that follows from the facts.
    pub(crate) fn add_same(&mut self, record: &Record) -> bool {
        let constant = constant(&record.event);
        let same = self.groups.iter_mut().find(|group| {
            group.constant == constant
                && Arc::ptr_eq(&group.record.process, &record.process)
                && group.record.judgement == record.judgement
                && second_of(&group.record) == second_of(record)
        });
        match same {
            Some(group) => {
                group.add(&record.event.action);
                true
            }
            None => false,
        }
    }

    /// No other group fits in.
    pub(crate) const fn is_full(&self) -> bool {
        self.groups.len() >= MAX_GROUPS
    }

    /// Whether there are rows with this in common.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.groups.iter().any(|group| group.key == key)
    }

    /// Adds a row to those with this in common, or begins a group.
    pub(crate) fn add(&mut self, record: &Record, key: Vec<u8>) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.key == key) {
            group.add(&record.event.action);
        } else {
            self.groups.push(Group {
                record: record.clone(),
                count: 1,
                key,
                constant: constant(&record.event),
            });
        }
    }

    /// Takes out what is held back.
    pub(crate) fn groups(&mut self) -> std::vec::Drain<'_, Group> {
        self.groups.drain(..)
    }
}

impl Group {
    fn add(&mut self, action: &Action) {
        self.count += 1;
        let all = &mut self.record.event.action;
        if let (Action::Connected { handshake_us: most }, Action::Connected { handshake_us }) =
            (&mut *all, action)
        {
            *most = (*most).max(*handshake_us);
        }
        if let (Action::Close(all), Action::Close(close))
        | (Action::Progress(all), Action::Progress(close)) = (all, action)
        {
            all.duration_ns = all.duration_ns.max(close.duration_ns);
            all.bytes_received = all.bytes_received.saturating_add(close.bytes_received);
            all.bytes_sent = all.bytes_sent.saturating_add(close.bytes_sent);
            all.retransmits = all.retransmits.saturating_add(close.retransmits);
            all.rtt_us = all.rtt_us.max(close.rtt_us);
        }
    }
}

fn second_of(record: &Record) -> i128 {
    record.wall_ns.div_euclid(NS_PER_SECOND)
}

/// The event without what differs from one connection to the next.
fn constant(event: &Event) -> Event {
    let mut constant = Event {
        id: 0,
        ts_ns: 0,
        cpu: 0,
        ..*event
    };
    match event.direction() {
        Direction::Inbound => constant.remote_port = 0,
        Direction::Outbound => constant.local_port = None,
    }
    if let Action::Connected { handshake_us } = &mut constant.action {
        *handshake_us = handshake_us.map(|_| 0);
    }
    if let Action::Close(close) | Action::Progress(close) = &mut constant.action {
        *close = Close {
            duration_ns: close.duration_ns.map(|_| 0),
            bytes_received: 0,
            bytes_sent: 0,
            retransmits: 0,
            rtt_us: None,
            ..*close
        };
    }
    constant
}

#[cfg(test)]
mod tests;
