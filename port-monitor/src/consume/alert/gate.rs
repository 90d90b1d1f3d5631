//! How often somebody is told: what is alike once a minute, and of each kind and priority no
//! more than the rate says. Nothing is forgotten: the next one tells how many were held back.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    str::FromStr,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{Alert, Priority, Subject};
use crate::{
    consume::lines::fields::service_port,
    events::{
        alert::AlertKind,
        decode::{Action, Direction},
    },
};

/// For so long what is alike is told once, and a number waits to be told with something else.
const ALIKE: Duration = Duration::from_mins(1);

/// Alerts of which it is remembered that they were told.
const REMEMBERED: usize = 4_096;

/// At most so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    count: u32,
    per: Duration,
}

/// Not a rate.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{}` is not a rate: write 10/m, 1/s or 100/h", .0.escape_debug())]
pub(super) struct NotARate(String);

impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        let wrong = || NotARate(text.to_owned());
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return Err(wrong()),
        };
        let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok();
        let count = count.filter(|count| is_number && (1..=1_000_000).contains(count));
        Ok(Self {
            count: count.ok_or_else(wrong)?,
            per: Duration::from_secs(seconds),
        })
    }
}

/// What is told now.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) alert: Alert,
    /// Those of its kind and priority that were not, since the last one.
    pub(super) suppressed: u64,
}

impl Told {
    /// One before which none was held back.
    pub(super) const fn alone(alert: Alert) -> Self {
        Self {
            alert,
            suppressed: 0,
        }
    }

    /// Events that are told of, if only by their number.
    pub(super) const fn events(&self) -> u64 {
        match self.alert.subject {
            Subject::Event(_) => 1 + self.suppressed,
            Subject::Loss(_) => 0,
        }
    }
}

/// Lets alerts through.
pub(super) struct Gate {
    rate: Rate,
    /// Each priority of a kind has a rate of its own: many that matter little must not hold back
    /// one that does.
    ways: HashMap<(AlertKind, Priority), Way>,
    /// When what is alike was told, by its hash.
    told: HashMap<u64, Instant>,
    hasher: RandomState,
}

/// Alerts of one kind and priority.
struct Way {
    /// When the room for one more alert will be full again.
    full_at: Instant,
    told: Instant,
    suppressed: u64,
    /// The last one of those.
    last: Option<Alert>,
}

impl Way {
    /// Takes the room for one alert, where there is any.
    fn has_room(&mut self, rate: Rate, now: Instant) -> bool {
        let each = rate.per / rate.count;
        let full_at = self.full_at.max(now) + each;
        let has_room = full_at <= now + rate.per;
        if has_room {
            self.full_at = full_at;
        }
        has_room
    }

    /// Tells this one, and how many were held back.
    fn tell(&mut self, alert: Alert, now: Instant) -> Told {
        self.told = now;
        self.last = None;
        Told {
            alert,
            suppressed: std::mem::take(&mut self.suppressed),
        }
    }

    /// Tells the last one that was held back.
    fn tell_last(&mut self, now: Instant) -> Option<Told> {
        let last = self.last.take()?;
        self.suppressed -= 1;
        Some(self.tell(last, now))
    }
}

impl Gate {
    /// A gate of this rate.
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            ways: HashMap::new(),
            told: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Lets it through, if it may be told now.
    pub(super) fn offer(&mut self, alert: Alert, now: Instant) -> Result<Told, Alert> {
        let alike = self.hasher.hash_one(what_is_alike(&alert));
        let told = self.told.get(&alike);
        let is_alike = told.is_some_and(|told| is_fresh(*told, now));
        let rate = self.rate;
        let way = self.way(&alert, now);
        if is_alike || !way.has_room(rate, now) {
            return Err(alert);
        }
        let told = way.tell(alert, now);
        self.remember(alike, now);
        Ok(told)
    }

    /// Holds it back: its number is told with the next one.
    pub(super) fn hold(&mut self, alert: Alert, now: Instant) {
        let way = self.way(&alert, now);
        way.suppressed += 1;
        way.last = Some(alert);
    }

    fn way(&mut self, alert: &Alert, now: Instant) -> &mut Way {
        let way = self.ways.entry((alert.kind, alert.priority));
        way.or_insert_with(|| Way {
            full_at: now,
            told: now,
            suppressed: 0,
            last: None,
        })
    }

    /// What was held back, and nothing came to tell it with for some time.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Told> {
        let rate = self.rate;
        let ways = self.ways.values_mut();
        let due = ways.filter_map(|way| {
            let is_due = way.last.is_some() && !is_fresh(way.told, now) && way.has_room(rate, now);
            is_due.then(|| way.tell_last(now)).flatten()
        });
        let due: Vec<Told> = due.collect();
        for told in &due {
            let alike = self.hasher.hash_one(what_is_alike(&told.alert));
            self.remember(alike, now);
        }
        due
    }

    fn remember(&mut self, alike: u64, now: Instant) {
        if self.told.len() >= REMEMBERED {
            self.told.retain(|_, told| is_fresh(*told, now));
        }
        if self.told.len() < REMEMBERED {
            self.told.insert(alike, now);
        }
    }

    /// All that was held back.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Told> {
        let ways = self.ways.values_mut();
        ways.filter_map(|way| way.tell_last(now)).collect()
    }
}

/// So short ago that what is alike is not told again.
fn is_fresh(told: Instant, now: Instant) -> bool {
    now.saturating_duration_since(told) < ALIKE
}

/// What two alerts have in common that say the same to people: all but the time, the process id
/// and the port of the client.
fn what_is_alike(alert: &Alert) -> impl std::hash::Hash {
    let of_event = match &alert.subject {
        Subject::Event(record) => {
            let event = &record.event;
            let errno = match event.action {
                Action::Failed { errno } => errno,
                _ => None,
            };
            let exe = record.process.exe.known().cloned();
            Some((
                event.action.kind() as u8,
                errno,
                event.direction() == Direction::Inbound,
                (event.local_ip, event.remote_ip),
                service_port(record).map(|port| port.port),
                record.process_name(),
                exe,
                record.judgement.as_ref().and_then(|said| said.rule.clone()),
            ))
        }
        Subject::Loss(_) => None,
    };
    let of_loss = match &alert.subject {
        Subject::Event(_) => None,
        Subject::Loss(loss) => Some(loss.cause as u8),
    };
    (alert.kind, alert.priority, of_event, of_loss)
}
