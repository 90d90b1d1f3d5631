//! The one place the order of the stages is written: decode → enrich →
//! pair → classify → verdict → consumers. And the userspace half of the accounting.

mod held;
mod policies;

use std::{
    collections::{HashSet, VecDeque},
    fs,
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    consume::FanOut,
    events::{
        decode::{Action, Event, decode},
        record::{Missing, Process, Record},
    },
    host::{
        clock::{self, WallClock},
        executables::Executables,
    },
    pipeline::{
        enrich::Enricher,
        inbound::{Inbound, Told},
        judging::Judging,
        pairing::Peers,
    },
    policy::Policy,
};

use super::classify::{self, Classifier};
use held::Held;
use policies::Progress;

/// Bytes of events that have waited for their owners and are told at once: an answer may be
/// for very many, and an output writes what is short without a detour.
const PORTION_BYTES: usize = 60 << 10;
/// Portions of them that are told one after the other: more than an output has room for they
/// must not be.
const PORTIONS: usize = 16;

/// What became of the records read from the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records read, the self-test's not counted.
    pub received: u64,
    /// Records of another layout or kind.
    pub undecodable: u64,
    /// Events kept back by filters after the kernel's, and the progress of what has just
    /// ended.
    pub hidden: u64,
    /// Events whose owner was not found out in time, where a filter has to know it.
    pub unowned: u64,
    /// Events delivered to every consumer.
    pub delivered: u64,
}

/// From record to consumers.
pub struct Pipeline {
    enricher: Enricher,
    /// `None` where the records tell whose inbound connections are.
    inbound: Option<Box<Inbound>>,
    /// Of those that have waited for their owners, more may be told.
    has_more: bool,
    /// Events whose process is being looked up, and those behind them.
    held: VecDeque<Held>,
    /// How often answers were waited for in vain.
    waits: u32,
    /// What is written depends on what is looked up.
    is_patient: bool,
    /// `None` where nobody asks for peers.
    peers: Option<Peers>,
    /// Events the kernel has lost, as last told.
    gaps: u64,
    clock: WallClock,
    classifier: Classifier,
    judging: Option<Judging>,
    policy_change: Progress,
    /// When the latest event was that was taken, `CLOCK_BOOTTIME` ns.
    latest_ns: u64,
    consumers: FanOut,
    tally: Tally,
    /// Connections that have ended since a look at open ones began.
    ended: Option<HashSet<u64>>,
}

impl Pipeline {
    /// A pipeline that ends in `consumers`.
    pub fn new(policy: Option<Arc<Policy>>, consumers: FanOut) -> Self {
        Self {
            enricher: Enricher::new(Path::new("/proc")),
            inbound: None,
            has_more: false,
            held: VecDeque::new(),
            waits: 0,
            is_patient: false,
            peers: None,
            gaps: 0,
            clock: WallClock::sample(),
            classifier: Classifier::new(ephemeral_range()),
            judging: policy.map(Judging::new),
            policy_change: Progress::Done,
            latest_ns: 0,
            consumers,
            tally: Tally::default(),
            ended: None,
        }
    }

    /// Finds the owners of both ends of connections within this host. Every end of
    /// a connection must be among the events.
    pub fn pair_ends(&mut self) {
        self.peers = Some(Peers::new());
    }

    /// The policies that events are judged by are applied to this host too.
    pub fn apply_policies(&mut self) {
        self.judging.iter_mut().for_each(Judging::apply);
    }

    /// Asks whose inbound connections are: the records do not tell.
    pub fn ask(&mut self, inbound: Inbound) {
        self.inbound = Some(Box::new(inbound));
    }

    /// Told when events that waited for their owners can be shown.
    pub fn answered(&self) -> Option<Arc<Notify>> {
        self.inbound.as_deref().map(Inbound::answered)
    }

    /// Looks up the arguments of processes, too.
    pub fn tell_args(&mut self) {
        self.enricher.tell_args();
    }

    /// Asks these first for what processes execute.
    pub fn ask_executables(&mut self, executables: Arc<dyn Executables>) {
        self.enricher.ask_executables(executables);
    }

    /// The kernel has lost so many events by now.
    pub fn note_gaps(&mut self, gaps: u64) {
        if gaps != self.gaps {
            self.gaps = gaps;
            if let Some(peers) = &mut self.peers {
                peers.distrust(clock::boot_ns());
            }
        }
    }

    /// What became of the records so far.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Those who take the events.
    pub const fn consumers(&mut self) -> &mut FanOut {
        &mut self.consumers
    }

    /// The consumers, when no event comes any more.
    pub fn into_consumers(self) -> FanOut {
        self.consumers
    }

    /// Wall-clock time of a `CLOCK_BOOTTIME` ns.
    pub const fn wall_ns(&self, boot_ns: u64) -> i128 {
        self.clock.wall_ns(boot_ns)
    }

    /// Follows the wall clock, should somebody have set it.
    pub fn resample_clock(&mut self) {
        self.clock = self.clock.resample();
    }

    /// Takes one ring buffer record through every stage.
    pub fn take(&mut self, record: &[u8]) {
        let event = decode(record);
        if let Ok(event) = &event {
            self.latest_ns = self.latest_ns.max(event.ts_ns);
        }
        match &event {
            Ok(event) if event.self_test => {}
            // In the ring's order: others may wait for their owners.
            Ok(event) if self.is_over(event) => {
                self.tally.received += 1;
                self.tally.hidden += 1;
            }
            Ok(event) => match &mut self.inbound {
                None => {
                    self.tally.received += 1;
                    self.take_event(event, Missing::NoOwner);
                }
                Some(inbound) => {
                    self.tally.received += u64::from(!inbound.is_aside(event));
                    inbound.take(event);
                    if !inbound.is_blocked() {
                        self.resume();
                    }
                }
            },
            Err(error) => {
                log::warn!("{error}");
                self.tally.received += 1;
                self.tally.undecodable += 1;
            }
        }
    }

    /// Takes the events on that have waited for their owners: not too many at once, unless
    /// others would have no room to wait.
    pub fn resume(&mut self) {
        let Some(mut inbound) = self.inbound.take() else {
            return;
        };
        loop {
            let waiting = self.consumers.shown().waiting_bytes();
            self.has_more = waiting >= PORTION_BYTES && !inbound.is_crowded();
            if self.has_more || !inbound.tell_next(|told| self.take_told(told)) {
                break;
            }
        }
        self.inbound = Some(inbound);
    }

    fn take_told(&mut self, told: Told<'_>) {
        if told.is_aside {
            // It was for its end.
        } else if told.is_lost {
            self.tally.unowned += 1;
        } else if told.is_filtered {
            self.tally.hidden += 1;
        } else {
            self.take_event(told.event, told.missing);
        }
    }

    /// Asks for the owners of those that came last, and takes on what has waited for its own.
    fn release(&mut self) {
        let Some(inbound) = &mut self.inbound else {
            return;
        };
        inbound.ask();
        for _ in 0..PORTIONS {
            self.resume();
            if !self.has_more {
                return;
            }
            self.consumers.flush();
        }
    }

    /// Takes up all events that are held back, waits for what they wait for, and hands them
    /// on, however many that are.
    pub fn resume_all(&mut self) {
        loop {
            self.resume();
            if self.has_more {
                self.consumers.flush_early();
            } else if !self.inbound.as_deref_mut().is_some_and(Inbound::wait) {
                return;
            }
        }
    }

    /// An event whose process is being looked up is held back, and those after it.
    fn take_event(&mut self, event: &Event, missing: Missing) {
        match self.find(event, missing) {
            Some(process) if self.held.is_empty() => self.tell(event, process),
            _ => self.held.push_back(Held {
                event: *event,
                missing,
                since: Instant::now(),
                waits: self.waits,
            }),
        }
    }

    /// What is known of the event's process; `None` while it is looked up.
    fn find(&mut self, event: &Event, missing: Missing) -> Option<Arc<Process>> {
        match &event.owner {
            Some(owner) => self.enricher.find(owner),
            None => Some(self.enricher.nobody(missing)),
        }
    }

    fn tell(&mut self, event: &Event, process: Arc<Process>) {
        let peers = self.peers.as_mut();
        let peer = peers.and_then(|peers| peers.see(event, &process));
        let wall_ns = self.clock.wall_ns(event.ts_ns);
        let ports = self.classifier.ports(event);
        let judging = self.judging.as_ref();
        let judgement = judging.map(|judging| judging.judge(event, &process, wall_ns));
        let record = Record {
            event: *event,
            wall_ns,
            process,
            peer,
            ports,
            judgement,
        };
        self.tally.delivered += 1;
        self.consumers.take(&record);
    }

    /// A look at what open connections have carried begins.
    pub fn begin_progress(&mut self) {
        self.ended = Some(HashSet::new());
    }

    /// All that the look has told was taken.
    pub fn end_progress(&mut self) {
        self.ended = None;
    }

    /// The progress of a connection that has ended while it was looked at: its end was told.
    fn is_over(&mut self, event: &Event) -> bool {
        let Some(ended) = &mut self.ended else {
            return false;
        };
        match event.action {
            Action::Close(_) => {
                ended.insert(event.id);
                false
            }
            Action::Progress(_) => ended.contains(&event.id),
            _ => false,
        }
    }
}

/// The ports this host gives to clients.
pub fn ephemeral_range() -> RangeInclusive<u16> {
    let text = fs::read_to_string(classify::EPHEMERAL_RANGE_FILE).unwrap_or_default();
    // The kernel's default, where /proc does not tell (`net/ipv4/af_inet.c`).
    classify::parse_port_range(&text).unwrap_or(32_768..=60_999)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{self, Read as _, Seek as _, Write},
        time::Duration,
    };

    use jiff::tz::TimeZone;
    use port_monitor_common::{
        ABI_VERSION, TcpEvent,
        event::{AF_INET, CloseEvent, EventKind, FLAG_INBOUND},
    };
    use zerocopy::IntoBytes as _;

    use crate::pipeline::stages::*;
    use crate::{
        consume::{
            Shown,
            consumer::{Needs, Stats},
            lines::{
                json::Json,
                table::{Options, Table},
            },
            output::writer::Output,
        },
        events::record::{Account, Dropped},
        host::holding::{Seen, Source, Wanted},
    };

    const PATIENCE: Duration = Duration::from_mins(1);

    /// A pipeline that took `count` attempts of one second, and ends in a table
    /// that counts rows, of `limit` events at most.
    fn after(count: u16, limit: Option<u64>, file: impl Write + Send + 'static) -> Pipeline {
        let table = Table::new(Options {
            width: None,
            color: false,
            verbose: true,
            aggregate: true,
            fields: Vec::new(),
            zone: TimeZone::UTC,
        });
        let output = Output::start("test".into(), file).unwrap();
        let shown = Shown::new(Box::new(table), output).only(Needs::EVENTS, limit);
        let mut pipeline = Pipeline::new(None, FanOut::new(shown));
        let into_second = pipeline.wall_ns(0).rem_euclid(1_000_000_000);
        let ts_ns = 1_000_000_000 - u64::try_from(into_second).unwrap();
        for number in 0..count {
            let event = TcpEvent {
                abi: ABI_VERSION,
                kind: 1,
                family: AF_INET,
                ts_ns: ts_ns + u64::from(number),
                local_port: number,
                remote_port: 80,
                ..TcpEvent::default()
            };
            pipeline.take(event.as_bytes());
        }
        pipeline
    }

    /// What became of the events.
    fn account(pipeline: &mut Pipeline) -> Account {
        let mut accounts = pipeline.consumers().accounts(PATIENCE);
        accounts.remove(0).1
    }

    #[test]
    fn events_held_back_come_before_whatever_is_none() {
        let mut file = tempfile::tempfile().unwrap();
        let mut pipeline = after(1_000, None, file.try_clone().unwrap());
        pipeline.consumers().flush();
        assert!(pipeline.consumers().shown().is_idle_within(PATIENCE));
        let mut text = String::new();
        let mut read = || {
            file.rewind().unwrap();
            text.clear();
            file.read_to_string(&mut text).unwrap();
            text.clone()
        };
        assert!(!read().contains("  x 9"));
        pipeline.consumers().tick(&Stats {
            // Nothing is due yet.
            wall_ns: i128::MIN,
            ring_full: 1,
            ..Stats::default()
        });
        assert_eq!(account(&mut pipeline).taken, 1_000);
        let text = read();
        let last_two: Vec<_> = text.lines().rev().take(2).collect();
        assert!(last_two[0].starts_with("# "), "{text}");
        assert!(last_two[1].contains("  x 9"), "{text}");
    }

    /// Nobody can be asked any more.
    struct Failing;

    impl Source for Failing {
        fn look(&mut self) -> io::Result<Seen> {
            Err(io::Error::other("no more"))
        }
    }

    #[test]
    fn what_has_waited_for_its_owner_is_told_in_portions() {
        let wanted = Wanted {
            filters: false,
            accepts: true,
            ends: false,
        };
        let output = Output::start("test".into(), io::sink()).unwrap();
        let shown = Shown::new(Box::new(Json::new()), output);
        let mut pipeline = Pipeline::new(None, FanOut::new(shown));
        pipeline.ask(Inbound::new(Some(Failing), wanted).unwrap());
        let many = 6_000;
        for id in 1..=many {
            // Nobody has to be asked about an attempt.
            let (kind, flags, detail) = match id % 2 {
                0 => (EventKind::Accept, FLAG_INBOUND, 7),
                _ => (EventKind::Connect, 0, 0),
            };
            let event = TcpEvent {
                abi: ABI_VERSION,
                kind: kind as u8,
                family: AF_INET,
                flags,
                id,
                detail,
                ..TcpEvent::default()
            };
            pipeline.take(event.as_bytes());
        }
        while !pipeline.is_holding() {
            assert!(pipeline.inbound.as_deref_mut().is_some_and(Inbound::wait));
            pipeline.resume();
        }
        let waiting = pipeline.consumers().shown().waiting_bytes();
        assert!(waiting < PORTION_BYTES + 4_096, "{waiting}");
        assert!(pipeline.tally().delivered < many);
        pipeline.resume_all();
        assert_eq!(pipeline.tally().delivered, many);
    }

    #[test]
    fn progress_is_not_told_after_the_end() {
        let record = |kind: EventKind, id| {
            let event = TcpEvent {
                abi: ABI_VERSION,
                kind: kind as u8,
                family: AF_INET,
                id,
                ..TcpEvent::default()
            };
            CloseEvent {
                event,
                ..CloseEvent::default()
            }
        };
        let mut pipeline = after(0, None, io::sink());
        pipeline.begin_progress();
        for (kind, id) in [
            (EventKind::Progress, 1),
            (EventKind::Close, 1),
            (EventKind::Progress, 1),
            (EventKind::Progress, 2),
        ] {
            pipeline.take(record(kind, id).as_bytes());
        }
        let tally = pipeline.tally();
        assert_eq!((tally.delivered, tally.hidden, tally.received), (3, 1, 4));
        pipeline.end_progress();
        pipeline.take(record(EventKind::Progress, 1).as_bytes());
        assert_eq!(pipeline.tally().hidden, 1);
    }

    #[test]
    fn a_limit_is_exact_whatever_is_held_back() {
        let mut pipeline = after(1_000, Some(137), io::sink());
        assert!(pipeline.consumers().shown().is_done());
        let account = account(&mut pipeline);
        assert_eq!((account.taken, account.hidden), (137, 1_000 - 137));
        assert!(account.adds_up());
    }

    #[test]
    fn events_held_back_are_lost_with_an_output_that_fails() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut pipeline = after(1_000, None, full);
        let account = account(&mut pipeline);
        let failed = Dropped {
            failed: 1_000,
            ..Dropped::default()
        };
        assert_eq!((account.taken, account.dropped), (0, failed));
        assert!(account.adds_up());
    }
}
