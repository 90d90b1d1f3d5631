//! Very many records against the truth: of each line only what is asked of it is
//! read.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    fact::{Fact, Owner},
    json::{Line, Summary},
    monitor::Run,
    socket::Ends,
};

/// A ring that takes all of a case, however busy the machine is.
pub(crate) const RING_BYTES: &str = "33554432";

/// Mistakes told; the others are counted.
const SHOWN: usize = 4;

/// Ends of connections, all of one thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Many {
    pub(crate) owner: Owner,
    pub(crate) inbound: bool,
    pub(crate) ends: Vec<End>,
}

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Payload bytes.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// It sent the first FIN.
    pub(crate) closes_first: bool,
}

/// What is read of a line.
#[derive(Debug, Deserialize)]
pub(crate) struct Record {
    event: Event,
    network: Network,
    source: Address,
    destination: Address,
    process: Option<Process>,
    port_monitor: Facts,
}

#[derive(Debug, Deserialize)]
struct Event {
    action: String,
}

#[derive(Debug, Deserialize)]
struct Network {
    direction: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    ip: IpAddr,
    port: Option<u16>,
    bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Process {
    pid: u32,
    thread: Thread,
}

#[derive(Debug, Deserialize)]
struct Thread {
    id: u32,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Facts {
    id: String,
    owner_source: String,
    process_start_boottime_ns: Option<String>,
    closed_by: Option<String>,
}

impl Record {
    pub(crate) fn action(&self) -> &str {
        &self.event.action
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    pub(crate) fn owner_source(&self) -> &str {
        &self.port_monitor.owner_source
    }

    pub(crate) fn closed_by(&self) -> &str {
        self.port_monitor.closed_by.as_deref().unwrap_or_default()
    }

    /// The kernel named this thread.
    pub(crate) fn is_of(&self, owner: &Owner) -> bool {
        let start_ns = self.port_monitor.process_start_boottime_ns.as_deref();
        let start_ns: Option<u64> = start_ns.and_then(|digits| digits.parse().ok());
        self.process.as_ref().is_some_and(|process| {
            (process.pid, process.thread.id) == (owner.pid, owner.tid)
                && process.thread.name.as_bytes() == owner.comm
                && start_ns.is_some_and(|ns| ns / 10_000_000 == owner.start_ticks)
        })
    }

    /// Payload bytes sent and received.
    pub(crate) fn bytes(&self) -> (Option<u64>, Option<u64>) {
        let (local, remote) = self.local_and_remote();
        (local.bytes, remote.bytes)
    }

    fn local_and_remote(&self) -> (&Address, &Address) {
        if self.network.direction == "egress" {
            (&self.source, &self.destination)
        } else {
            (&self.destination, &self.source)
        }
    }

    fn ends(&self) -> Option<Ends> {
        let (local, remote) = self.local_and_remote();
        let at = |address: &Address| Some(SocketAddr::new(address.ip, address.port?));
        Some((at(local)?, at(remote)?))
    }
}

/// The records of one end of a connection.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    /// `connected`, `accept` or `preexisting`.
    pub(crate) beginning: &'a Record,
    /// `connect`.
    pub(crate) attempt: Option<&'a Record>,
    /// `close`.
    pub(crate) close: &'a Record,
}

/// The records of connections of a run that must have ended well, and lost
/// nothing.
pub(crate) fn read(run: &Run) -> Result<Vec<Record>> {
    run.expect_code(0)?;
    let (last, lines) = run.lines.split_last().context("no line")?;
    let summary = Summary::of(&Line::parse(last)?)?;
    let whole = summary.adds_up && summary.lost == 0 && summary.shown == lines.len() as u64;
    let gap = lines
        .iter()
        .find(|line| line.contains(r#""action":"loss""#));
    ensure!(
        whole,
        "{} events in the stream: {summary:?} {gap:?}",
        lines.len()
    );
    // What listens has no source.
    let has_source = |line: &&String| line.contains(r#","source":{"#);
    lines
        .iter()
        .filter(has_source)
        .map(|line| serde_json::from_str(line).with_context(|| format!("read {line}")))
        .collect()
}

/// Compares the ends in the stream with those of the facts: each is there once,
/// with one beginning and one end, and nothing else is. What `judge` says against
/// one of them is wrong too. No more may be wrong than is `tolerated`. The number of
/// ends.
pub(crate) fn check(
    records: &[Record],
    facts: &[Fact],
    tolerated: usize,
    judge: impl Fn(&Many, &End, &Seen<'_>) -> Option<String>,
) -> Result<usize> {
    let (mut seen, mut wrong) = by_ends(records);
    let mut count = 0;
    for fact in facts {
        let Fact::Many(many) = fact else { continue };
        for end in &many.ends {
            count += 1;
            let found = seen.remove(&(end.local, end.remote));
            let direction = if many.inbound { "in" } else { "out" };
            wrong.extend(match found {
                None => Some(format!("no records, {direction}: {end:?}")),
                Some(seen) => judge(many, end, &seen),
            });
        }
    }
    wrong.extend(
        seen.values()
            .map(|seen| format!("nobody did this: {seen:?}")),
    );
    let missing = wrong.iter().filter(|text| text.starts_with("no records"));
    let (missing, all) = (missing.count(), wrong.len());
    wrong.truncate(SHOWN);
    ensure!(
        all <= tolerated,
        "{all} mistakes, {missing} ends of {count} missing: {}",
        wrong.join("; ")
    );
    Ok(count)
}

/// The ends by their addresses, and what is wrong with some of them.
fn by_ends(records: &[Record]) -> (HashMap<Ends, Seen<'_>>, Vec<String>) {
    let mut by_id = HashMap::<&str, Vec<&Record>>::new();
    for record in records {
        by_id
            .entry(&record.port_monitor.id)
            .or_default()
            .push(record);
    }
    let (mut seen, mut wrong) = (HashMap::new(), Vec::new());
    for records in by_id.values() {
        match one_end(records) {
            None => wrong.push(format!("not one end of a connection: {records:?}")),
            Some((ends, end)) => {
                if let Some(other) = seen.insert(ends, end) {
                    wrong.push(format!("twice: {ends:?}, before by {other:?}"));
                }
            }
        }
    }
    (seen, wrong)
}

fn one_end<'a>(records: &[&'a Record]) -> Option<(Ends, Seen<'a>)> {
    let (mut attempt, mut beginning, mut close) = (None, None, None);
    for &record in records {
        let place = match record.action() {
            "connect" => &mut attempt,
            "connected" | "accept" | "preexisting" | "restored" => &mut beginning,
            "close" => &mut close,
            _ => return None,
        };
        if place.replace(record).is_some() {
            return None;
        }
    }
    let (beginning, close) = (beginning?, close?);
    let ends = beginning.ends()?;
    let seen = Seen {
        beginning,
        attempt,
        close,
    };
    (close.ends() == Some(ends)).then_some((ends, seen))
}
