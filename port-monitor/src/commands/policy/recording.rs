//! A recording of `-o json`: its connections and listeners, each once.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use port_monitor_common::policy::{Direction, Transport};
use serde::Deserialize;

use crate::{exit_code::Failure, policy::Facts};

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

/// What a recording says of itself.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Connections and listeners, each counted once.
    pub(super) seen: usize,
    /// Events that are not in it; `None` where it has no summary.
    pub(super) lost: Option<u64>,
}

/// Takes the facts of every connection and listener from the first line about it.
pub(super) fn read(recording: &Path, mut take: impl FnMut(&Facts<'_>)) -> Result<Account, Failure> {
    let lines: Box<dyn BufRead> = if recording == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(
            File::open(recording).map_err(|error| refusal(recording, &error))?,
        ))
    };
    let mut ids = HashSet::new();
    let mut lost = None;
    for (number, line) in (1..).zip(lines.lines()) {
        let text = line.map_err(|error| refusal(recording, &error))?;
        read_line(&text, &mut ids, &mut lost, &mut take).map_err(|error| {
            let place = format!("{}:{number}", recording.display());
            Failure::usage(format!("{place}: not a line of `-o json`: {error}"))
        })?;
    }
    Ok(Account {
        seen: ids.len(),
        lost,
    })
}

/// The recording cannot be used.
pub(super) fn refusal(recording: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::usage(format!("read {}: {error}", recording.display()))
}

fn read_line(
    text: &str,
    ids: &mut HashSet<String>,
    lost: &mut Option<u64>,
    take: &mut impl FnMut(&Facts<'_>),
) -> Result<(), String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if line.event.dataset != CONNECTIONS {
        if line.event.action == "summary" {
            *lost.get_or_insert_default() += line.port_monitor.lost.unwrap_or_default();
        }
        return Ok(());
    }
    let id = line.port_monitor.id.clone().ok_or("no port_monitor.id")?;
    if ids.insert(id) {
        take(&facts(&line)?);
    }
    Ok(())
}

fn facts(line: &Line) -> Result<Facts<'_>, String> {
    let network = line.network.as_ref().ok_or("no network")?;
    let is_listening = line.port_monitor.state.as_deref() == Some("listen");
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
        transport: Transport::Tcp,
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
