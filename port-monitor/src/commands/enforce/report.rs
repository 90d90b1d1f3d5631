//! What `port-monitor status` tells.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use jiff::Timestamp;
use port_monitor_common::generation::{
    DENIES, Header, Hits, INBOUND_OPEN, MODE_ENFORCE, ON_EXIT_CLOSED, RULES, Tally,
};
use serde::Serialize;

use crate::{
    base::{ascii, sanitize::Escaped},
    kernel::enforcer::{Counts, Lease, Status},
};

/// The state of an enforcement.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    in_force: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyReport>,
    /// Seconds left to confirm it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconfirmed_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_exit: Option<DaemonExit>,
    links: Vec<Link>,
    /// What its tables take of the kernel's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
}

/// What comes when nobody follows the policy.
#[derive(Debug, Serialize)]
struct DaemonExit {
    source: String,
    /// `open` or `closed`.
    then: &'static str,
    /// Seconds left without a sign of whoever follows it; zero: it has come.
    in_s: u64,
}

impl DaemonExit {
    fn of(lease: &Lease) -> Self {
        Self {
            source: source(&lease.header).unwrap_or_default(),
            then: match lease.header.on_exit {
                ON_EXIT_CLOSED => "closed",
                _ => "open",
            },
            in_s: lease.left.as_secs() + u64::from(lease.left.subsec_nanos() > 0),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { source, then, in_s } = self;
        match in_s {
            0 => writeln!(
                out,
                "followed   no: {then} in place of {}",
                Escaped(source.as_bytes())
            ),
            _ => writeln!(out, "followed   yes: {then} after {in_s} s without a sign"),
        }
    }
}

#[derive(Debug, Serialize)]
struct PolicyReport {
    source: String,
    sha256: String,
    applied: Timestamp,
    mode: &'static str,
    rules: Vec<Row>,
    defaults: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Link {
    program: String,
    attached: bool,
}

/// What decided, and how often.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    action: &'static str,
    hits: u64,
    /// Seconds since the last.
    last_s: Option<u64>,
}

impl Row {
    fn new(name: String, denies: bool, hits: Hits, now_ns: u64) -> Self {
        let since = Duration::from_nanos(now_ns.saturating_sub(hits.last_ns));
        Self {
            name,
            action: if denies { "deny" } else { "allow" },
            hits: hits.count,
            last_s: (hits.count > 0).then_some(since.as_secs()),
        }
    }

    fn write(&self, out: &mut impl Write, width: usize) -> io::Result<()> {
        let Self {
            name,
            action,
            hits,
            last_s,
        } = self;
        let last = last_s.map_or_else(|| "never".to_owned(), |last| format!("{last} s ago"));
        writeln!(out, "{name:<width$}  {action:<6}  {hits:>10}  {last}")
    }
}

impl Report {
    /// Of the status and the memory; `now_ns` is `CLOCK_BOOTTIME`.
    pub(super) fn of(status: Option<&(Status, u64)>, now_ns: u64) -> Self {
        let Some((status, memory)) = status else {
            return Self {
                in_force: false,
                policy: None,
                unconfirmed_s: None,
                daemon_exit: None,
                links: Vec::new(),
                memory_bytes: None,
            };
        };
        let links = status.links.iter().map(|(program, attached)| Link {
            program: program.clone(),
            attached: *attached,
        });
        Self {
            in_force: status.is_in_force(),
            policy: status
                .is_in_force()
                .then(|| PolicyReport::of(&status.counts, now_ns)),
            unconfirmed_s: status.unconfirmed.map(|left| left.as_secs()),
            daemon_exit: status.lease.as_ref().map(DaemonExit::of),
            links: links.collect(),
            memory_bytes: Some(*memory),
        }
    }

    /// Everything that was attached still is.
    pub(super) fn is_whole(&self) -> bool {
        self.links.iter().all(|link| link.attached)
    }

    pub(super) fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "{}", serde_json::to_string(self)?)
    }

    pub(super) fn write(&self, mut out: impl Write) -> io::Result<()> {
        match &self.policy {
            Some(policy) => policy.write(&mut out, self.unconfirmed_s)?,
            None => writeln!(out, "no policy is in force")?,
        }
        if let Some(daemon_exit) = &self.daemon_exit {
            daemon_exit.write(&mut out)?;
        }
        if let Some(bytes) = self.memory_bytes {
            writeln!(out, "memory     {}", mebibytes(bytes))?;
        }
        if self.links.is_empty() {
            return Ok(());
        }
        write!(out, "attached  ")?;
        for link in &self.links {
            let lost = if link.attached { "" } else { " (DETACHED)" };
            write!(out, " {}{lost}", link.program)?;
        }
        writeln!(out)
    }
}

/// In MiB, with one digit behind the point.
fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// What decided: its name, whether it denies, and how often it did.
type Decider = (String, bool, Hits);

fn rules(counts: &Counts) -> impl Iterator<Item = Decider> {
    let rules = counts.rules.iter();
    rules.map(|rule| {
        let denies = rule.entry.flags & DENIES != 0;
        (text(&rule.entry.name), denies, rule.hits)
    })
}

/// The defaults, each with the number of its counter. Where nothing asks about inbound
/// connections, nobody counts them.
fn defaults(counts: &Counts) -> impl Iterator<Item = (u32, Decider)> {
    let is_open = counts.header.asks & INBOUND_OPEN != 0;
    let by_direction = ["inbound", "outbound", "listen"].into_iter().enumerate();
    let asked = by_direction.skip(usize::from(is_open));
    (RULES + u32::from(is_open)..).zip(asked.map(|(n, direction)| {
        let denies = counts.header.defaults[n] & DENIES != 0;
        (format!("default {direction}"), denies, counts.defaults[n])
    }))
}

fn others(counts: &Counts) -> impl Iterator<Item = Decider> {
    let others = [
        ("default, loopback", false, counts.loopback),
        ("default, kernel threads", false, counts.kernel),
        ("inconsistent tables", true, counts.broken),
    ];
    others
        .map(|(name, denies, hits)| (name.to_owned(), denies, hits))
        .into_iter()
}

/// What denies: the number of its counter, its name, and how often it has.
pub(super) fn deniers(counts: &Counts) -> impl Iterator<Item = (u32, String, u64)> {
    let tallies = [Tally::Loopback, Tally::KernelThread, Tally::Broken];
    let tallies = tallies.map(|tally| RULES + tally as u32);
    let all = (0..)
        .zip(rules(counts))
        .chain(defaults(counts))
        .chain(tallies.into_iter().zip(others(counts)));
    all.filter_map(|(tally, (name, denies, hits))| denies.then_some((tally, name, hits.count)))
}

/// What was denied, by the names of what decides.
pub(super) fn denied(counts: &Counts) -> BTreeMap<String, u64> {
    let mut denied = BTreeMap::new();
    for (_, name, count) in deniers(counts) {
        *denied.entry(name).or_default() += count;
    }
    denied
}

impl PolicyReport {
    fn of(counts: &Counts, now_ns: u64) -> Self {
        let header = &counts.header;
        let row = |(name, denies, hits): Decider| Row::new(name, denies, hits, now_ns);
        let defaults = defaults(counts).map(|(_, decider)| decider);
        let seen = others(counts).filter(|(_, _, hits)| hits.count > 0);
        Self {
            source: source(header).unwrap_or_default(),
            sha256: ascii::hex_text(&header.digest),
            applied: Timestamp::from_nanosecond(header.applied_ns.into()).unwrap_or_default(),
            mode: match header.mode {
                MODE_ENFORCE => "enforce",
                _ => "observe",
            },
            rules: rules(counts).map(row).collect(),
            defaults: defaults.chain(seen).map(row).collect(),
        }
    }

    fn write(&self, out: &mut impl Write, unconfirmed_s: Option<u64>) -> io::Result<()> {
        writeln!(out, "policy     {}", Escaped(self.source.as_bytes()))?;
        writeln!(out, "sha256     {}", self.sha256)?;
        writeln!(out, "applied    {}", self.applied.strftime("%F %T UTC"))?;
        writeln!(out, "mode       {}", self.mode)?;
        if let Some(left) = unconfirmed_s {
            writeln!(out, "confirmed  no: undone in {left} s")?;
        }
        let rows = || self.rules.iter().chain(&self.defaults);
        let width = rows().map(|row| row.name.len()).max().unwrap_or(0).max(4);
        writeln!(out, "{:<width$}  ACTION  {:>10}  LAST", "RULE", "HITS")?;
        rows().try_for_each(|row| row.write(out, width))
    }
}

/// NUL-padded text.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the policy was read; `None` where there is none.
pub(super) fn source(header: &Header) -> Option<String> {
    Some(text(&header.source)).filter(|source| !source.is_empty())
}

/// Notes where the policy was read: of a long path its end.
pub(super) fn set_source(header: &mut Header, path: &str) {
    let bytes = path.as_bytes();
    let start = bytes.len().saturating_sub(header.source.len());
    let end = bytes.get(start..).unwrap_or_default();
    for (to, from) in header.source.iter_mut().zip(end) {
        *to = *from;
    }
}
