//! The one place the order of the stages is written: decode → enrich →
//! classify → verdict → sink. And the userspace half of the accounting.

use std::{fs, ops::RangeInclusive, path::Path};

use crate::{
    classify,
    clock::WallClock,
    enrich::Enricher,
    event::decode,
    policy::{Facts, Policy},
    record::{Item, Judgement, Record},
    sink::{Sink, writer::Output},
};

/// Which of the events that reach userspace are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    /// Only those that break the policy.
    pub only_violations: bool,
    /// No more than so many.
    pub limit: Option<u64>,
}

/// What became of the records read from the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records read, the canary's not counted.
    pub received: u64,
    /// Records of another layout or kind.
    pub undecodable: u64,
    /// Events not shown, by [`Show`].
    pub hidden: u64,
    /// Events handed to the sink.
    pub formatted: u64,
    /// Of those, events the output refused because it is too slow or has ended.
    pub refused: u64,
    /// Events that broke the policy, shown or not.
    pub violations: u64,
}

/// From record to line.
pub struct Pipeline {
    enricher: Enricher,
    clock: WallClock,
    /// The host's `ip_local_port_range`.
    ephemeral: RangeInclusive<u16>,
    policy: Option<Policy>,
    show: Show,
    sink: Box<dyn Sink>,
    tally: Tally,
    chunk: Vec<u8>,
    chunk_events: u64,
}

impl Pipeline {
    /// A pipeline that ends in `sink`.
    pub fn new(policy: Option<Policy>, show: Show, sink: Box<dyn Sink>) -> Self {
        Self {
            enricher: Enricher::new(Path::new("/proc")),
            clock: WallClock::sample(),
            ephemeral: ephemeral_range(),
            policy,
            show,
            sink,
            tally: Tally::default(),
            chunk: Vec::new(),
            chunk_events: 0,
        }
    }

    /// What became of the records so far.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// As many events were shown as were asked for.
    pub fn is_done(&self) -> bool {
        self.show
            .limit
            .is_some_and(|limit| self.tally.formatted >= limit)
    }

    /// Wall-clock time of a `CLOCK_BOOTTIME` ns.
    pub const fn wall_ns(&self, boot_ns: u64) -> i128 {
        self.clock.wall_ns(boot_ns)
    }

    /// Follows the wall clock, should somebody have set it.
    pub fn resample_clock(&mut self) {
        self.clock = WallClock::sample();
    }

    /// Takes one ring buffer record through every stage.
    pub fn take(&mut self, record: &[u8]) {
        let event = match decode(record) {
            Ok(event) if event.canary => return,
            Ok(event) => event,
            Err(error) => {
                log::warn!("{error}");
                self.tally.received += 1;
                self.tally.undecodable += 1;
                return;
            }
        };
        self.tally.received += 1;
        let process = self.enricher.process(event.owner.as_ref());
        let wall_ns = self.clock.wall_ns(event.ts_ns);
        let ports = classify::ports(&event, &self.ephemeral);
        let judgement = self.policy.as_ref().map(|policy| {
            let facts = Facts::of(&event, &process, wall_ns);
            policy.judge(&facts)
        });
        let is_violation = judgement.as_ref().is_some_and(Judgement::is_violation);
        let is_end = event.action.is_end();
        self.tally.violations += u64::from(is_violation && !is_end);
        if self.is_done() || self.show.only_violations && !is_violation {
            self.tally.hidden += 1;
            return;
        }
        let record = Record {
            event,
            wall_ns,
            process,
            ports,
            judgement,
        };
        self.sink.write(&mut self.chunk, Item::Event(&record));
        self.chunk_events += 1;
        self.tally.formatted += 1;
    }

    /// Writes something other than an event, after the events before it.
    /// Returns whether the output took it.
    pub fn say(&mut self, output: &Output, item: Item<'_>) -> bool {
        self.flush(output);
        self.sink.write(&mut self.chunk, item);
        self.flush(output)
    }

    /// Hands what is formatted to the output. What that refuses is counted, and
    /// the answer is false.
    pub fn flush(&mut self, output: &Output) -> bool {
        if self.chunk.is_empty() && self.chunk_events == 0 {
            return true;
        }
        let chunk = std::mem::replace(&mut self.chunk, output.buffer());
        let events = std::mem::take(&mut self.chunk_events);
        let is_taken = output.try_push(chunk, events).is_ok();
        if !is_taken {
            self.tally.refused += events;
        }
        is_taken
    }
}

/// The ports this host gives to clients.
fn ephemeral_range() -> RangeInclusive<u16> {
    let text = fs::read_to_string(classify::EPHEMERAL_RANGE_FILE).unwrap_or_default();
    // The kernel's default, where /proc does not tell (`net/ipv4/af_inet.c`).
    classify::parse_port_range(&text).unwrap_or(32_768..=60_999)
}
