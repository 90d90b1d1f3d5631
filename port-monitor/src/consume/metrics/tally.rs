//! What was counted so far: plain numbers, of which a copy is made to tell them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use port_monitor_common::{event::EventKind, policy::MAX_RULES, tcp_state::TcpState};

use super::{
    histogram::Histogram,
    services::{ByDirection, Connections, Labels, OTHER},
};
use crate::{
    consume::{
        consumer::{Room, Standing, Stats},
        enforced, export, join,
        lines::{errno, fields::service_port},
    },
    events::{
        decode::{Action, Close, Direction},
        record::{Header, HookCount, LossCause, Record, Summary},
    },
};

/// Open connections that are remembered until their end: eight times those that the kernel
/// does by default.
const OPEN_ROOM: usize = 8 * join::ROOM;

/// Rules that are told: those of one policy, and as many of those before it.
const RULES_ROOM: usize = 2 * MAX_RULES;

/// What a policy's default is called where a rule is named.
pub(super) const DEFAULT_RULE: &str = "(default)";

/// What an attempt ends with that was closed before any answer.
pub(super) const NO_ERRNO: &str = "none";

/// Those that are told from the start: a number that was not there before has not risen, for
/// whoever asks how fast it does.
const COMMON_ERRNOS: [&str; 8] = [
    "ECONNREFUSED",
    "ETIMEDOUT",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "EPERM",
    NO_ERRNO,
    OTHER,
];

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The bounds of handshakes: from a connection within a host to a SYN that was sent again and
/// again.
const HANDSHAKES: [Duration; 16] = [
    micros(50),
    micros(100),
    micros(250),
    micros(500),
    micros(1_000),
    micros(2_500),
    micros(5_000),
    micros(10_000),
    micros(25_000),
    micros(50_000),
    micros(100_000),
    micros(250_000),
    micros(500_000),
    micros(1_000_000),
    micros(3_000_000),
    micros(10_000_000),
];

/// The bounds of whole connections: from one request to those that are kept for days.
const DURATIONS: [Duration; 12] = [
    micros(1_000),
    micros(10_000),
    micros(100_000),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(15),
    Duration::from_hours(1),
    Duration::from_hours(4),
    Duration::from_hours(24),
    Duration::from_hours(168),
];

/// What was counted so far.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// What this run is; `None` before it begins.
    pub(super) header: Option<Arc<Header>>,
    /// By the number of the kind.
    kinds: [u64; EventKind::COUNT],
    pub(super) connections: Connections,
    failures: BTreeMap<&'static str, u64>,
    pub(super) violations: BTreeMap<Arc<str>, ByDirection>,
    pub(super) denials: BTreeMap<Arc<str>, u64>,
    pub(super) open: ByDirection,
    pub(super) received: ByDirection,
    pub(super) sent: ByDirection,
    pub(super) handshakes: Histogram,
    pub(super) inbound_durations: Histogram,
    pub(super) outbound_durations: Histogram,
    /// What the kernel side and the pipeline have counted.
    pub(super) stats: Stats,
    pub(super) standings: Vec<Standing>,
    /// By their names, as of when this was copied.
    pub(super) exports: BTreeMap<String, export::Standing>,
    pub(super) enforced: Option<enforced::Standing>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            header: None,
            kinds: [0; EventKind::COUNT],
            connections: Connections::default(),
            failures: COMMON_ERRNOS.map(|errno| (errno, 0)).into(),
            violations: BTreeMap::new(),
            denials: BTreeMap::new(),
            open: ByDirection::default(),
            received: ByDirection::default(),
            sent: ByDirection::default(),
            handshakes: Histogram::new(&HANDSHAKES),
            inbound_durations: Histogram::new(&DURATIONS),
            outbound_durations: Histogram::new(&DURATIONS),
            stats: Stats::default(),
            standings: Vec::new(),
            exports: BTreeMap::new(),
            enforced: None,
        }
    }
}

impl Tally {
    /// Events by their kind.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (EventKind, u64)> {
        EventKind::ALL.into_iter().zip(self.kinds)
    }

    /// All events.
    pub(super) fn taken(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// Failed attempts by the errno's name.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.failures.iter().map(|(errno, count)| (*errno, *count))
    }

    /// What was lost before it reached any consumer, by its cause.
    pub(super) const fn lost(&self) -> [(LossCause, u64); 4] {
        [
            (LossCause::RingFull, self.stats.ring_full),
            (LossCause::ProgramSkipped, self.stats.skipped),
            (LossCause::Undecodable, self.stats.undecodable),
            (LossCause::OwnerLate, self.stats.owner_late),
        ]
    }

    /// The run is over: what was counted besides events is what its account says.
    pub(super) fn settle(&mut self, summary: &Summary) {
        let of_hooks = |count: fn(&HookCount) -> u64| -> u64 {
            summary.hooks.iter().map(|(_, hook)| count(hook)).sum()
        };
        let shown = summary.consumers.first();
        self.stats = Stats {
            seen: summary.seen(),
            filtered: summary.filtered() - shown.map_or(0, |(_, account)| account.hidden),
            ring_full: of_hooks(|hook| hook.reserve_failed),
            skipped: of_hooks(|hook| hook.skipped),
            undecodable: summary.undecodable,
            owner_late: summary.unowned,
            ..self.stats
        };
        for (name, account) in &summary.consumers {
            let mut standings = self.standings.iter_mut();
            if let Some(standing) = standings.find(|standing| standing.name == *name) {
                standing.account = account.clone();
                standing.waiting = match standing.waiting {
                    Room::Lines(_) => Room::Lines(0),
                    Room::Queue(_, room) => Room::Queue(0, room),
                };
            }
        }
    }

    /// The run begins, or has another policy from here on. What a policy may deny is told from
    /// the start, too.
    pub(super) fn begin(&mut self, header: &Header) {
        if let Some(policy) = &header.policy_loaded {
            let rules = policy.denying.iter().cloned();
            let rules: BTreeSet<_> = rules.chain([DEFAULT_RULE.into(), OTHER.into()]).collect();
            forget_rules(&mut self.denials, &rules, |sum, count| *sum += count);
            forget_rules(&mut self.violations, &rules, ByDirection::add_all);
            for rule in rules.into_iter().filter(|rule| &**rule != OTHER) {
                self.denials.entry(Arc::clone(&rule)).or_default();
                self.violations.entry(rule).or_default();
            }
        }
        self.header = Some(Arc::new(header.clone()));
    }

    fn fail(&mut self, errno: Option<i32>) {
        let name = errno.map_or(NO_ERRNO, |errno| errno::name(errno).unwrap_or(OTHER));
        *self.failures.entry(name).or_default() += 1;
    }

    fn end(&mut self, close: &Close) {
        self.received.add(close.direction, close.bytes_received);
        self.sent.add(close.direction, close.bytes_sent);
        if let Some(duration_ns) = close.duration_ns {
            let durations = match close.direction {
                Direction::Inbound => &mut self.inbound_durations,
                Direction::Outbound => &mut self.outbound_durations,
            };
            durations.observe(Duration::from_nanos(duration_ns));
        }
    }

    fn violate(&mut self, record: &Record) {
        let rule = record.judgement.as_ref().and_then(|said| said.rule.clone());
        let rule = rule.unwrap_or_else(|| DEFAULT_RULE.into());
        if record.is_denied() {
            *self.denials.entry(Arc::clone(&rule)).or_default() += 1;
        }
        let counts = self.violations.entry(rule).or_default();
        counts.add(record.event.direction(), 1);
    }
}

/// Forgets rules that are not in force and have counted nothing; where there are still more than
/// a policy may have, others that are not in force are counted together.
fn forget_rules<C: Copy + Default + PartialEq>(
    counts: &mut BTreeMap<Arc<str>, C>,
    in_force: &BTreeSet<Arc<str>>,
    add: impl Fn(&mut C, C),
) {
    counts.retain(|rule, count| in_force.contains(rule) || *count != C::default());
    if counts.len() <= RULES_ROOM {
        return;
    }
    let mut others = C::default();
    counts.retain(|rule, count| {
        let stays = &**rule != OTHER && in_force.contains(rule);
        if !stays {
            add(&mut others, *count);
        }
        stays
    });
    counts.insert(OTHER.into(), others);
}

/// Counts events. What it has to remember for that is not told.
#[derive(Debug)]
pub(super) struct Counting {
    labels: Labels,
    /// Connections that are open.
    open: HashSet<u64>,
}

impl Counting {
    pub(super) fn new() -> Self {
        Self {
            labels: Labels::new(),
            open: HashSet::new(),
        }
    }

    /// Counts an event.
    pub(super) fn take(&mut self, record: &Record, tally: &mut Tally) {
        let action = &record.event.action;
        if let Some(count) = tally.kinds.get_mut(action.kind() as usize - 1) {
            *count += 1;
        }
        match action {
            Action::Accept | Action::Connected { .. } | Action::Restored => {
                if let Some(port) = service_port(record) {
                    let direction = record.event.direction();
                    self.labels.count(port, direction, &mut tally.connections);
                }
                if let Action::Connected {
                    handshake_us: Some(handshake_us),
                } = action
                {
                    tally.handshakes.observe(micros((*handshake_us).into()));
                }
                // Of one that was over before it was accepted the end is told already.
                if !record.event.ended {
                    self.open(record, tally);
                }
            }
            Action::Preexisting { state, .. } if is_established(*state) => {
                self.open(record, tally);
            }
            Action::Failed { errno } => tally.fail(*errno),
            Action::Close(close) => {
                tally.end(close);
                if self.open.remove(&record.event.id) {
                    tally.open.subtract(close.direction);
                }
            }
            Action::Connect
            | Action::Preexisting { .. }
            | Action::Listen
            | Action::Unlisten
            | Action::Progress(_) => {}
        }
        if record.is_violation() && !action.is_told_again() {
            tally.violate(record);
        }
    }

    fn open(&mut self, record: &Record, tally: &mut Tally) {
        if self.open.len() < OPEN_ROOM && self.open.insert(record.event.id) {
            tally.open.add(record.event.direction(), 1);
        }
    }
}

/// A connection in this state was told to be open, or would have been.
const fn is_established(state: TcpState) -> bool {
    !matches!(
        state,
        TcpState::LISTEN | TcpState::SYN_SENT | TcpState::SYN_RECV
    )
}
