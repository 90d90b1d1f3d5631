//! How a run stands, as it is told to whoever asks.

use std::process;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    base::ascii,
    consume::{
        consumer::{Overview, Room, Standing, Stats},
        enforced,
    },
    events::record::{Dropped, Header, LoadedPolicy},
};

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The name of the host.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// The hooks in use: `fentry`, `kprobe`, `tracepoint`.
    pub backend: String,
    /// What cannot be seen by them on this kernel, a sentence each.
    pub blind_spots: Vec<String>,
    /// What the self-test could not prove, and why, a sentence each.
    pub unproven: Vec<String>,
    /// When it began.
    pub began: Timestamp,
    /// The policy that events are judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyReport>,
    /// What was counted since it began.
    pub events: Events,
    /// Who takes events, first what is shown.
    pub consumers: Vec<ConsumerReport>,
}

/// The policy that events are judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// Its file.
    pub file: String,
    /// SHA-256 of it and of the lists it reads, in hexadecimal digits.
    pub sha256: String,
    /// When it was read.
    pub loaded: Timestamp,
    /// How it stands where the service applies it; `None` where it is observed alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<AppliedReport>,
}

/// How a policy stands that the service applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedReport {
    /// `enforce`, or `observe`: its mode.
    pub mode: AppliedMode,
    /// It is in force as it was applied last, and no other one is.
    pub in_force: bool,
    /// What its file says now is refused.
    pub refused: bool,
}

/// What a policy does about what it denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppliedMode {
    /// It counts it.
    Observe,
    /// It refuses it.
    Enforce,
}

impl AppliedReport {
    fn of(standing: &enforced::Standing) -> Self {
        Self {
            mode: if standing.enforces {
                AppliedMode::Enforce
            } else {
                AppliedMode::Observe
            },
            in_force: standing.is_in_force,
            refused: standing.is_refused,
        }
    }
}

/// Events: `seen = filtered + lost + delivered`, but for those on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Those that the kernel side has seen.
    pub seen: u64,
    /// Those that a filter has kept back from every consumer.
    pub filtered: u64,
    /// Those that are lost.
    pub lost: Lost,
}

/// Events that are lost, by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The kernel's ring was full.
    pub ring_full: u64,
    /// The kernel skipped a program.
    pub program_skipped: u64,
    /// This version cannot read them.
    pub undecodable: u64,
    /// Their owner was not found out in time, where a filter has to know it.
    pub owner_late: u64,
}

/// How a consumer stands: `delivered = taken + hidden + dropped`, but for events on their way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerReport {
    /// What the account calls it.
    pub name: String,
    /// Events that came to it.
    pub delivered: u64,
    /// Events that are where it brings them.
    pub taken: u64,
    /// Events that it did not ask for.
    pub hidden: u64,
    /// Events that are missing there.
    pub dropped: DroppedReport,
    /// What waits for it: messages in its queue, or events that are not written yet.
    pub waiting: u64,
    /// How many messages its queue has room for, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<u64>,
    /// What it failed of last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Events that a consumer has not taken, by cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedReport {
    /// Its queue was full.
    pub queue_full: u64,
    /// It had failed.
    pub failed: u64,
    /// It left, and was not waited for any longer.
    pub unfinished: u64,
}

/// The answer to what is no request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
}

/// What is known of the run.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) header: Option<Header>,
    pub(super) overview: Overview,
}

impl Told {
    /// What is told of it, and of the policy that is enforced. Before the header has come, little
    /// is known.
    pub(super) fn report(&self, enforced: Option<&enforced::Standing>) -> Report {
        let header = self.header.as_ref();
        let of =
            |text: fn(&Header) -> &str| header.map_or_else(String::new, |h| text(h).to_owned());
        let Overview {
            began_ns,
            stats,
            standings,
        } = &self.overview;
        let began = header.map_or(0, |header| header.wall_ns);
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            host: of(|header| &header.host),
            kernel: of(|header| &header.kernel),
            backend: of(|header| header.backend),
            blind_spots: header.map_or_else(Vec::new, |header| header.blind_spots.clone()),
            unproven: header.map_or_else(Vec::new, |header| header.unproven.clone()),
            // Nothing is counted yet where the first look at the whole has not come.
            began: time(if *began_ns == 0 { began } else { *began_ns }),
            policy: header.and_then(|header| policy(header, enforced)),
            events: events(stats),
            consumers: standings.iter().map(consumer).collect(),
        }
    }
}

fn time(wall_ns: i128) -> Timestamp {
    Timestamp::from_nanosecond(wall_ns).unwrap_or_default()
}

fn policy(header: &Header, enforced: Option<&enforced::Standing>) -> Option<PolicyReport> {
    let LoadedPolicy {
        digest, wall_ns, ..
    } = header.policy_loaded.as_ref()?;
    Some(PolicyReport {
        file: header.policy.clone()?,
        sha256: ascii::hex_text(digest),
        loaded: time(*wall_ns),
        applied: enforced.map(AppliedReport::of),
    })
}

const fn events(stats: &Stats) -> Events {
    let Stats {
        wall_ns: _,
        seen,
        filtered,
        ring_full,
        skipped,
        undecodable,
        owner_late,
        // A consumer's own.
        queue_full: _,
    } = *stats;
    Events {
        seen,
        filtered,
        lost: Lost {
            ring_full,
            program_skipped: skipped,
            undecodable,
            owner_late,
        },
    }
}

fn consumer(standing: &Standing) -> ConsumerReport {
    let Standing {
        name,
        account,
        waiting,
    } = standing;
    let Dropped {
        queue_full,
        failed,
        unfinished,
    } = account.dropped;
    let (waiting, room) = match *waiting {
        Room::Lines(lines) => (lines, None),
        Room::Queue(messages, room) => (messages as u64, Some(room as u64)),
    };
    ConsumerReport {
        name: (*name).to_owned(),
        delivered: account.delivered,
        taken: account.taken,
        hidden: account.hidden,
        dropped: DroppedReport {
            queue_full,
            failed,
            unfinished,
        },
        waiting,
        room,
        error: account.error.clone(),
    }
}

impl Lost {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.ring_full + self.program_skipped + self.undecodable + self.owner_late
    }
}

impl DroppedReport {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.queue_full + self.failed + self.unfinished
    }
}
