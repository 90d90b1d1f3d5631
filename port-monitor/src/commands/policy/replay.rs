//! `policy test --replay`: what a policy would have denied of recorded connections.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use port_monitor_common::policy::{Direction, Verdict};
use serde::{Deserialize, Serialize};

use super::{FileArgs, ReasonReport, json_line, load};
use crate::{
    commands::written,
    exit_code::{ExitCode, Failure},
    policy::{Facts, Policy},
};

/// The dataset of the lines that are about a connection or a listener.
const CONNECTIONS: &str = "port_monitor.connection";

/// What is read of a line: the names are those of `port-monitor schema`.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "@timestamp")]
    timestamp: Timestamp,
    event: EventPart,
    network: Option<NetworkPart>,
    source: Option<End>,
    destination: Option<End>,
    process: Option<ProcessPart>,
    user: Option<UserPart>,
    port_monitor: OwnPart,
}

#[derive(Deserialize)]
struct EventPart {
    action: String,
    dataset: String,
}

#[derive(Deserialize)]
struct NetworkPart {
    direction: String,
}

#[derive(Clone, Copy, Deserialize)]
struct End {
    ip: IpAddr,
    port: Option<u16>,
}

#[derive(Deserialize)]
struct ProcessPart {
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct UserPart {
    id: String,
}

#[derive(Deserialize)]
struct OwnPart {
    id: Option<String>,
    cgroup: Option<CgroupPart>,
    unit: Option<String>,
    /// Of a preexisting socket.
    state: Option<String>,
    /// Of the summary.
    lost: Option<u64>,
}

#[derive(Deserialize)]
struct CgroupPart {
    path: Option<String>,
}

/// The answer of `policy test --replay`.
#[derive(Serialize)]
struct Report {
    /// Connections and listeners, each counted once.
    seen: usize,
    denied: usize,
    /// Events that are not in the recording, by its own account.
    lost: u64,
    by: Vec<Denials>,
}

#[derive(Serialize)]
struct Denials {
    denied: usize,
    decided_by: ReasonReport,
}

/// Judges every connection and listener of a recording.
pub(super) fn run(
    policy: &FileArgs,
    recording: &Path,
    out: impl Write,
) -> Result<ExitCode, Failure> {
    let compiled = load(&policy.path)?;
    let refuse = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("read {}: {error}", recording.display()))
    };
    let lines: Box<dyn BufRead> = if recording == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(
            File::open(recording).map_err(|error| refuse(&error))?,
        ))
    };
    let mut tally = Tally::default();
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line.map_err(|error| refuse(&error))?;
        tally
            .take(&line, &compiled, &policy.path)
            .map_err(|error| {
                let place = format!("{}:{number}", recording.display());
                Failure::usage(format!("{place}: not a line of `-o json`: {error}"))
            })?;
    }
    if tally.ids.is_empty() {
        return Err(refuse(&"no connection in it, so nothing would be tested"));
    }
    let report = tally.report();
    written(if policy.json {
        json_line(&report, out)
    } else {
        report.write(out)
    })
}

/// What has been judged so far.
#[derive(Default)]
struct Tally {
    ids: HashSet<String>,
    denied: usize,
    lost: u64,
    /// By what decides, as it is told.
    by: BTreeMap<String, Denials>,
}

impl Tally {
    /// Judges a connection by the first line about it.
    fn take(&mut self, text: &str, policy: &Policy, policy_path: &Path) -> Result<(), String> {
        let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if line.event.dataset != CONNECTIONS {
            if line.event.action == "summary" {
                self.lost += line.port_monitor.lost.unwrap_or_default();
            }
            return Ok(());
        }
        let id = line.port_monitor.id.clone().ok_or("no port_monitor.id")?;
        if !self.ids.insert(id) {
            return Ok(());
        }
        let facts = facts(&line)?;
        let explanation = policy.explain(&facts);
        if explanation.verdict == Verdict::Allow {
            return Ok(());
        }
        self.denied += 1;
        let reason = ReasonReport::of(&explanation.reason, facts.direction, policy_path);
        let denials = self.by.entry(reason.text()).or_insert(Denials {
            denied: 0,
            decided_by: reason,
        });
        denials.denied += 1;
        Ok(())
    }

    fn report(self) -> Report {
        let mut by: Vec<Denials> = self.by.into_values().collect();
        by.sort_by_key(|denials| std::cmp::Reverse(denials.denied));
        Report {
            seen: self.ids.len(),
            denied: self.denied,
            lost: self.lost,
            by,
        }
    }
}

fn facts(line: &Line) -> Result<Facts<'_>, String> {
    let network = line.network.as_ref().ok_or("no network")?;
    let is_listening = line.port_monitor.state.as_deref() == Some("LISTEN");
    let (direction, local, remote) = match (&*line.event.action, &*network.direction) {
        ("listen" | "unlisten", _) => (Direction::Listen, line.destination, None),
        _ if is_listening => (Direction::Listen, line.destination, None),
        (_, "ingress") => (Direction::Inbound, line.destination, line.source),
        (_, "egress") => (Direction::Outbound, line.source, line.destination),
        (_, other) => return Err(format!("unknown network.direction `{other}`")),
    };
    let local = local.ok_or("no local address")?;
    let peer = match direction {
        Direction::Listen => local,
        Direction::Inbound | Direction::Outbound => remote.ok_or("no remote address")?,
    };
    let service = match direction {
        Direction::Outbound => peer,
        Direction::Inbound | Direction::Listen => local,
    };
    let user = line.user.as_ref().map(|user| user.id.parse());
    let process = line.process.as_ref();
    let cgroup = line.port_monitor.cgroup.as_ref();
    Ok(Facts {
        direction,
        service_port: service.port.unwrap_or_default(),
        peer: peer.ip,
        peer_is_self: direction != Direction::Listen && peer.ip == local.ip,
        uid: user.transpose().map_err(|_| "user.id is no number")?,
        unit: line.port_monitor.unit.as_deref(),
        cgroup: cgroup.and_then(|cgroup| cgroup.path.as_deref()),
        exe: process.and_then(|process| process.executable.as_deref()),
        now_ns: line.timestamp.as_nanosecond(),
    })
}

impl Report {
    fn write(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(
            out,
            "would have denied {} of {} connections and listeners",
            self.denied, self.seen
        )?;
        for denials in &self.by {
            writeln!(out, "{:>8}  {}", denials.denied, denials.decided_by.text())?;
        }
        if self.lost > 0 {
            writeln!(
                out,
                "the recording lacks {} events that were lost",
                self.lost
            )?;
        }
        Ok(())
    }
}
