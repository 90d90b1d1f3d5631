//! A whole stream against the truth: every expected record is there once, and
//! nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use crate::{
    backend::{Blind, Sight},
    compare::differences,
    expect::{Action, Expected, ends, pids, unseen},
    fact::{Closed, EITHER, Fact, Listen, Owner},
    json::{Line, Summary},
    monitor::Run,
};

/// Mistakes told of one workload; the others are counted.
const SHOWN: usize = 4;

/// The events of a stream, of which each can explain one expectation.
#[derive(Debug)]
pub(crate) struct Stream {
    events: Vec<Line>,
    closes: Vec<Line>,
    older: Vec<Line>,
    taken: BTreeSet<usize>,
    /// The ends that are explained.
    closed: BTreeSet<usize>,
    summary: Summary,
}

impl Stream {
    /// Reads a run that must have ended well: exit status 0, nothing lost, and
    /// an account that adds up and agrees with the lines that were read.
    pub(crate) fn of(run: &Run) -> Result<Self> {
        run.expect_code(0)?;
        let (events, summary) = run.read()?;
        ensure!(summary.adds_up, "the account does not add up: {summary:?}");
        ensure!(summary.lost == 0, "lost events: {summary:?}");
        ensure!(
            summary.shown == events.len() as u64,
            "{} events in the stream: {summary:?}",
            events.len()
        );
        let (closes, events): (Vec<_>, Vec<_>) = events
            .into_iter()
            .partition(|line| matches!(line.action(), "close" | "unlisten"));
        let (older, events): (Vec<_>, Vec<_>) = events
            .into_iter()
            .partition(|line| line.action() == "preexisting");
        let beginnings: Vec<&Line> = events.iter().chain(&older).collect();
        for (close, begin) in check_closes(&closes, &beginnings)? {
            // Who is at the other end may be told by a record that is not shown.
            if summary.hidden == 0 {
                check_peer(close, begin, &beginnings)?;
            }
        }
        Ok(Self {
            events,
            closes,
            older,
            taken: BTreeSet::new(),
            closed: BTreeSet::new(),
            summary,
        })
    }

    /// The final account.
    pub(crate) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Every event but the connections older than the monitor and the ends of
    /// connections, which [`Stream::of`] has checked against their beginnings.
    pub(crate) fn events(&self) -> &[Line] {
        &self.events
    }

    /// The connections older than the monitor.
    pub(crate) fn older(&self) -> &[Line] {
        &self.older
    }

    /// Checks all records of a workload and returns the blind spots met.
    pub(crate) fn check(&mut self, facts: &[Fact], sight: Sight) -> Result<BTreeSet<Blind>> {
        self.check_kept(facts, sight, |_| true)
    }

    /// As [`Stream::check`], where a filter shows only the records it keeps.
    pub(crate) fn check_kept(
        &mut self,
        facts: &[Fact],
        sight: Sight,
        keeps: impl Fn(&Expected) -> bool,
    ) -> Result<BTreeSet<Blind>> {
        let mut blind = BTreeSet::new();
        let mut wrong = Vec::new();
        let ends = ends(facts, sight);
        let all: Vec<&Expected> = ends.iter().flatten().collect();
        for end in &ends {
            blind.extend(end.iter().filter_map(|expected| expected.blind));
            let kept = end.iter().filter(|expected| keeps(expected));
            wrong.extend(self.check_end(kept, &all));
        }
        blind.extend(unseen(facts, sight));
        for fact in facts {
            wrong.extend(match fact {
                Fact::Closed(closed) if !is_nobodys(closed, facts, sight) => {
                    self.check_closed(closed)
                }
                Fact::Listen(listen) => self.check_listen_end(listen, sight),
                _ => None,
            });
        }
        let pids = pids(facts);
        for (index, event) in self.events.iter().enumerate() {
            let ours = event.pid().is_some_and(|pid| pids.contains(&pid));
            if ours && !self.taken.contains(&index) {
                wrong.push(format!("unexplained: {}", event.text));
            }
        }
        let more = wrong.len().saturating_sub(SHOWN);
        wrong.truncate(SHOWN);
        ensure!(
            wrong.is_empty(),
            "{}; {more} more like these",
            wrong.join("; ")
        );
        Ok(blind)
    }

    /// Checks the records of one connection end, of all that are expected; what is
    /// wrong, a sentence each.
    fn check_end<'a>(
        &mut self,
        end: impl Iterator<Item = &'a Expected>,
        all: &[&'a Expected],
    ) -> Vec<String> {
        let mut id = None;
        let mut wrong = Vec::new();
        for expected in end {
            let found = self
                .find(expected, id.as_deref())
                .and_then(|index| Some((index, self.events.get(index)?)));
            let Some((index, line)) = found else {
                wrong.push(format!("no record of {expected:?}"));
                continue;
            };
            let differences = differences(expected, self.peer(line, all), line);
            if !differences.is_empty() {
                let (action, all) = (expected.action.name(), differences.join(", "));
                wrong.push(format!("{action}: {all}"));
            }
            id.get_or_insert_with(|| line.id().to_owned());
            self.taken.insert(index);
        }
        wrong
    }

    /// Who must be named at the other end of an established end: its owner, if that
    /// end was established before and had not ended.
    fn peer<'a>(&self, line: &Line, all: &[&'a Expected]) -> Option<&'a Owner> {
        // One that is restored is the peer of another that is: what was there before knows
        // the one that was taken away.
        let pairs = match line.action() {
            "restored" => ["restored"].as_slice(),
            _ => &["connected", "accept"],
        };
        let is_established = |line: &Line| pairs.contains(&line.action());
        if !is_established(line) {
            return None;
        }
        let (local, remote) = line.local_and_remote()?;
        let is_other = |other: &&Line| {
            is_established(other)
                && other.id() != line.id()
                && other.local_and_remote() == Some((remote, local))
                && other.netns_ino() == line.netns_ino()
                && other.number < line.number
        };
        let other = self.events.iter().rfind(is_other)?;
        let close = self.closes.iter().find(|close| close.id() == other.id());
        if close.is_some_and(|close| close.number < line.number) {
            return None;
        }
        let mut owners = all.iter().filter_map(|expected| {
            let is_meant = expected.action.name() == other.action()
                && expected.known_local_port() == Some(remote.port())
                && (expected.local_ip, expected.remote) == (remote.ip(), local)
                && Some(expected.netns_ino) == line.netns_ino();
            expected.owner.as_ref().filter(|_| is_meant)
        });
        let first = owners.next()?;
        let named = owners.find(|owner| Some(owner.pid) == other.pid());
        Some(named.unwrap_or(first))
    }

    /// What is wrong with the record of a connection's end: of several between
    /// the same addresses, the first one not yet asked for.
    fn check_closed(&mut self, closed: &Closed) -> Option<String> {
        let mut lines = self.closes.iter().enumerate();
        let found = lines.find(|(index, line)| {
            !self.closed.contains(index)
                && line.local_and_remote() == Some((closed.local, closed.remote))
                && line.netns_ino() == Some(closed.netns_ino)
        });
        let Some((index, line)) = found else {
            return Some(format!("no record of {closed:?}"));
        };
        self.closed.insert(index);
        let is_right = line.bytes_out_and_in() == Some((closed.sent, closed.received))
            && is_closed_by(&closed.closed_by, line.text("port_monitor.closed_by"))
            && line.text("error.code") == closed.error
            && line
                .number("port_monitor.retransmits")
                .is_some_and(|told| closed.resent.is(told))
            && line.number("port_monitor.closing_pid") == closing_pid(closed, line);
        (!is_right).then(|| format!("{closed:?}, but {}", line.text))
    }

    /// What is wrong with the end of a listener, if it has one.
    fn check_listen_end(&self, listen: &Listen, sight: Sight) -> Option<String> {
        let ended = listen.ended || listen.refused && !sight.listens_late;
        let is_end = |line: &&Line| {
            line.action() == "unlisten"
                && line.destination() == Some(listen.at)
                && line.netns_ino() == Some(listen.netns_ino)
                && line.pid() == Some(listen.owner.pid)
        };
        let found = self.closes.iter().filter(is_end).count();
        (ended && found != 1).then(|| format!("{found} ends of {listen:?}"))
    }

    /// The record meant by `expected`: by its id once that is known, else by
    /// its addresses, and of several preferably one of the right process.
    fn find(&self, expected: &Expected, id: Option<&str>) -> Option<usize> {
        let mut candidates = self
            .events
            .iter()
            .enumerate()
            .filter(|(index, line)| !self.taken.contains(index) && is_meant(expected, id, line))
            .map(|(index, line)| (index, line.pid()))
            .collect::<Vec<_>>();
        let owner = expected.owner.as_ref().map(|owner| owner.pid);
        candidates.sort_by_key(|&(_, pid)| pid != owner);
        candidates.first().map(|&(index, _)| index)
    }

    /// Nothing in the stream is left unexplained, and every id belongs to one
    /// end of a connection.
    pub(crate) fn expect_nothing_else(&self) -> Result<()> {
        for (index, event) in self.events.iter().enumerate() {
            ensure!(
                self.taken.contains(&index),
                "nobody did this: {}",
                event.text
            );
        }
        let mut uses = BTreeMap::<(&str, &str), u32>::new();
        for event in &self.events {
            *uses.entry((event.id(), event.action())).or_default() += 1;
        }
        let twice = uses.iter().find(|&(_, &count)| count > 1);
        ensure!(twice.is_none(), "an id is used twice: {twice:?}");
        Ok(())
    }
}

/// Every end belongs to a beginning, comes after it and once, and has its owner
/// and its addresses. Each with its beginning.
fn check_closes<'a>(closes: &'a [Line], events: &[&'a Line]) -> Result<Vec<(&'a Line, &'a Line)>> {
    let mut ends = Vec::new();
    let mut beginnings = BTreeMap::new();
    for &line in events {
        if matches!(
            line.action(),
            "accept" | "connected" | "preexisting" | "listen" | "restored"
        ) {
            beginnings.insert(line.id(), line);
        }
    }
    for close in closes {
        let Some(begin) = beginnings.remove(close.id()) else {
            bail!(
                "an end without a beginning, or a second one: {}",
                close.text
            );
        };
        let boottime = |line: &Line| line.number("port_monitor.boottime_ns");
        ensure!(
            boottime(close) > boottime(begin),
            "{} is older than {}",
            close.text,
            begin.text
        );
        let same = [
            "process.pid",
            "process.thread.id",
            "process.thread.name",
            "process.name",
            "port_monitor.owner_source",
            "network.direction",
            "network.community_id",
            "port_monitor.netns",
        ];
        let differs = |field: &&str| close.fields.get(*field) != begin.fields.get(*field);
        if let Some(field) = same.iter().find(|field| differs(field)) {
            bail!("{field} of {} is not that of {}", close.text, begin.text);
        }
        ends.push((close, begin));
    }
    Ok(ends)
}

/// The record says who closed first, where that is known.
fn is_closed_by(expected: &str, told: &str) -> bool {
    told == expected || expected == EITHER && matches!(told, "local" | "peer")
}

/// Who must be named as the process that closed an end: whoever is not its owner.
fn closing_pid(closed: &Closed, line: &Line) -> Option<u64> {
    let is_closed_here = !matches!(&*closed.closed_by, "peer-reset" | "timeout");
    let is_other = line.pid() != Some(closed.closer_pid);
    (is_closed_here && is_other).then_some(closed.closer_pid.into())
}

/// The end of a connection that nobody accepted, where that is seen: there is no
/// beginning of it either.
fn is_nobodys(closed: &Closed, facts: &[Fact], sight: Sight) -> bool {
    let is_unaccepted = |fact: &Fact| match fact {
        Fact::Accept(accept) => {
            accept.acceptor.is_none()
                && (accept.local, accept.remote) == (closed.local, closed.remote)
        }
        _ => false,
    };
    sight.acceptors && facts.iter().any(is_unaccepted)
}

/// The end of a connection names the peer that its beginning named, or that named
/// it at a beginning of its own.
fn check_peer(close: &Line, begin: &Line, events: &[&Line]) -> Result<()> {
    let own = begin.process();
    let is_other = |other: &&&Line| {
        other.number > begin.number
            && other.netns_ino() == begin.netns_ino()
            && other
                .local_and_remote()
                .map(|(local, remote)| (remote, local))
                == begin.local_and_remote()
            && other.peer().0.is_some()
            && other.peer() == own
    };
    let expected = match begin.peer() {
        named if named.0.is_some() => named,
        _ => match events.iter().find(is_other) {
            Some(other) => other.process(),
            None => (None, "", ""),
        },
    };
    ensure!(
        close.peer() == expected,
        "the peer is not {expected:?}: {}",
        close.text
    );
    Ok(())
}

/// The line has this action, and the addresses of this record or its id.
pub(crate) fn is_meant(expected: &Expected, id: Option<&str>, line: &Line) -> bool {
    if line.action() != expected.action.name() {
        return false;
    }
    if let Some(id) = id {
        return line.id() == id;
    }
    if expected.action == Action::Listen {
        return line.text("destination.ip") == expected.local_ip.to_string()
            && line.destination().map(|at| at.port()) == expected.known_local_port()
            && line.netns_ino() == Some(expected.netns_ino);
    }
    let source = (line.source_ip(), line.source_port());
    let destination = line.destination().map(|at| (at.ip(), at.port())).unzip();
    let (local, remote) = if expected.action.is_inbound() {
        (destination, source)
    } else {
        (source, destination)
    };
    let local_fits = expected
        .known_local_port()
        .is_none_or(|port| local == (Some(expected.local_ip), Some(port)));
    local_fits
        && remote == (Some(expected.remote.ip()), Some(expected.remote.port()))
        && line.netns_ino() == Some(expected.netns_ino)
}
