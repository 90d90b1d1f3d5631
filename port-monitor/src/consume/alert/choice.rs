//! Which events are told of, and how loudly. What is new is what was not there before: that is
//! remembered here, in a bounded memory.

use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use port_monitor_common::tcp_state::TcpState;

use super::Priority;
use crate::events::{
    alert::{Alert as Level, AlertKind},
    decode::{Action, Direction},
    record::Record,
};

/// Listeners that are remembered; then the one that was seen first is forgotten.
const LISTENERS: usize = 16_384;

/// Ports of one direction.
const PORTS: usize = 1 << 16;

/// What is told of.
pub(super) struct Choice {
    on: Vec<AlertKind>,
    listeners: Listeners,
    /// Ports that a connection was opened by, by the direction.
    used: [Box<[bool]>; 2],
}

impl Choice {
    /// These kinds.
    pub(super) fn new(on: &[AlertKind]) -> Self {
        let ports = || vec![false; PORTS].into_boxed_slice();
        Self {
            on: on.to_vec(),
            listeners: Listeners::default(),
            used: [ports(), ports()],
        }
    }

    /// Events that break no rule may be told of.
    pub(super) fn asks_for_allowed(&self) -> bool {
        use AlertKind::{Allowed, FirstUse, Listener};
        let mut on = self.on.iter();
        on.any(|kind| [Allowed, Listener, FirstUse].contains(kind))
    }

    /// Listeners that are remembered, and how many are in order.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.listeners.seen.len(), self.listeners.order.len())
    }

    fn has(&self, kind: AlertKind) -> bool {
        self.on.contains(&kind)
    }

    /// As what an event is told of, if it is.
    pub(super) fn of(&mut self, record: &Record) -> Option<(AlertKind, Priority)> {
        // What is not told of is not new the next time, either.
        let news = self.news(record);
        let level = record.judgement.as_ref().and_then(|said| said.alert);
        let by_policy = match (record.is_violation(), level) {
            (_, Some(Level::None)) => return None,
            (true, level) if record.is_denied() => Some((AlertKind::Denied, level)),
            (true, level) => Some((AlertKind::Violation, level)),
            (false, Some(level)) => Some((AlertKind::Allowed, Some(level))),
            (false, None) => None,
        };
        let by_policy = by_policy.map(|(kind, level)| match level {
            Some(Level::High) => (kind, Priority::Alert),
            _ => (kind, Priority::Warning),
        });
        let news = news.map(|kind| (kind, Priority::Notice));
        let mut reasons = by_policy.into_iter().chain(news);
        reasons.find(|(kind, _)| self.has(*kind))
    }

    /// As what a loss is told of, if it is.
    pub(super) fn of_loss(&self) -> Option<(AlertKind, Priority)> {
        self.has(AlertKind::Loss)
            .then_some((AlertKind::Loss, Priority::Error))
    }

    /// What is new of it, and from now on is not.
    fn news(&mut self, record: &Record) -> Option<AlertKind> {
        let event = &record.event;
        let is_new = match event.action {
            Action::Listen | Action::Preexisting { .. } if event.action.is_listener() => {
                self.listeners.see(Listener::of(record))
            }
            Action::Connected { .. } | Action::Accept | Action::Restored => self.use_port(record),
            Action::Preexisting { state, .. } if state != TcpState::SYN_SENT => {
                self.use_port(record)
            }
            _ => false,
        };
        match event.action {
            // It was there before.
            Action::Preexisting { .. } => None,
            Action::Listen => is_new.then_some(AlertKind::Listener),
            _ => is_new.then_some(AlertKind::FirstUse),
        }
    }

    /// Whether no connection was opened by its port before.
    fn use_port(&mut self, record: &Record) -> bool {
        let Some(port) = record.event.service_port() else {
            return false;
        };
        let [inbound, outbound] = &mut self.used;
        let used = match record.event.direction() {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        };
        used.get_mut(usize::from(port))
            .is_some_and(|is_used| !std::mem::replace(is_used, true))
    }
}

/// Listeners that were seen, in order.
#[derive(Default)]
struct Listeners {
    seen: HashSet<Listener>,
    order: VecDeque<Listener>,
}

/// A listener, whichever socket that is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Listener {
    netns: u32,
    address: IpAddr,
    port: Option<u16>,
    /// The executable, or else the name of the process; `None` where nobody knows whose it is.
    owner: Option<Arc<[u8]>>,
}

impl Listener {
    fn of(record: &Record) -> Self {
        let exe = record.process.exe.known();
        let exe = exe.map(|exe| Arc::from(exe.as_os_str().as_encoded_bytes()));
        let name = || record.process_name().map(|name| Arc::from(name.as_bytes()));
        Self {
            netns: record.event.netns_ino,
            address: record.event.local_ip,
            port: record.event.local_port,
            owner: exe.or_else(name),
        }
    }
}

impl Listeners {
    /// Whether it was not seen before.
    fn see(&mut self, listener: Listener) -> bool {
        let anybody = Listener {
            owner: None,
            ..listener.clone()
        };
        let was_anybody = self.seen.contains(&anybody);
        if !self.seen.insert(listener.clone()) {
            return false;
        }
        self.order.push_back(listener);
        if self.order.len() > LISTENERS
            && let Some(first) = self.order.pop_front()
        {
            self.seen.remove(&first);
        }
        !was_anybody
    }
}
