//! A recording of `-o json`: its connections and listeners, each once.

use std::{collections::HashSet, fmt, fs, path::Path};

use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport},
    tcp_state::TcpState,
};

pub(super) use crate::commands::recording::refusal;
use crate::{
    base::{exit_code::Failure, sanitize::Escaped},
    commands::recording::each_line,
    events::{
        compat::{self, Read},
        wire::{
            Connection, Line,
            words::{self, ConnectionAction},
        },
    },
    policy::{Environment as _, Facts, Host},
};

/// What a recording says of itself.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Connections and listeners, each counted once.
    pub(super) seen: usize,
    /// Events that are not in it; `None` where it has no summary.
    pub(super) lost: Option<u64>,
    /// Lines of kinds that this version does not know.
    pub(super) unknown: Unknown,
}

/// Lines that were passed over because a later version has more kinds of them.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    pub(super) count: usize,
    /// The kind of the first.
    first: String,
}

impl Unknown {
    fn note(&mut self, kind: &str) {
        if self.count == 0 {
            kind.clone_into(&mut self.first);
        }
        self.count += 1;
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = if self.count == 1 { "line" } else { "lines" };
        write!(
            f,
            "passed over {} {lines} of kinds that this version does not know, the first of them \
             `{}`",
            self.count,
            Escaped(self.first.as_bytes())
        )
    }
}

/// Takes the facts of every connection and listener from the first line about it.
pub(super) fn read(recording: &Path, mut take: impl FnMut(&Facts<'_>)) -> Result<Account, Failure> {
    let mut reader = Reader::new();
    each_line(recording, |text| reader.read_line(text, &mut take))?;
    Ok(Account {
        seen: reader.seen + reader.ids.len(),
        lost: reader.lost,
        unknown: reader.unknown,
    })
}

/// What is known of a recording so far.
struct Reader {
    /// Of the runs before.
    seen: usize,
    ids: HashSet<u64>,
    lost: Option<u64>,
    unknown: Unknown,
    host: String,
    boot: String,
    /// It was made since this host's last boot; `None` where it does not say.
    is_of_this_boot: Option<bool>,
}

impl Reader {
    fn new() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            seen: 0,
            ids: HashSet::new(),
            lost: None,
            unknown: Unknown::default(),
            host: read("/proc/sys/kernel/hostname").trim().to_owned(),
            boot: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            is_of_this_boot: None,
        }
    }

    fn read_line(&mut self, text: &str, take: &mut impl FnMut(&Facts<'_>)) -> Result<(), String> {
        let line = match compat::read(text).map_err(|error| error.to_string())? {
            Read::Line(line) => line,
            Read::Unknown(kind) => {
                self.unknown.note(&kind);
                return Ok(());
            }
        };
        match &*line {
            Line::Start(start) => self.begin(&start.host.boot.id),
            Line::Summary(summary) => {
                *self.lost.get_or_insert_default() += summary.port_monitor.lost;
            }
            Line::Connection(connection) => self.read_connection(connection, take)?,
            // A loss is in the summary too, and a listener in the lines of its events. By which
            // policy it was judged then does not matter.
            Line::Loss(_) | Line::Listener(_) | Line::Policy(_) => {}
        }
        Ok(())
    }

    /// Another run begins: its ids are its own.
    fn begin(&mut self, boot: &str) {
        if !boot.is_empty() {
            self.is_of_this_boot = Some(boot == self.boot);
        }
        self.seen += self.ids.len();
        self.ids.clear();
    }

    fn read_connection(
        &mut self,
        line: &Connection<'_>,
        take: &mut impl FnMut(&Facts<'_>),
    ) -> Result<(), String> {
        let Some(direction) = line.network.direction.known() else {
            let direction = line.network.direction.text();
            self.unknown.note(&format!("network.direction {direction}"));
            return Ok(());
        };
        if self.ids.insert(line.port_monitor.id.0) {
            take(&facts(line, direction, self.recorded_exe(line))?);
        }
        Ok(())
    }

    /// The file that was executed, where the numbers of files are this host's.
    fn recorded_exe(&self, line: &Connection<'_>) -> Option<FileId> {
        let is_ours = self.is_of_this_boot;
        if !is_ours.unwrap_or_else(|| line.host.name == self.host) {
            return None;
        }
        let exe = line.port_monitor.exe.as_ref()?;
        Some(FileId {
            device: exe.device.0,
            inode: exe.inode.0,
        })
    }
}

fn facts<'a>(
    line: &'a Connection<'_>,
    direction: words::Direction,
    recorded: Option<FileId>,
) -> Result<Facts<'a>, String> {
    let own = &line.port_monitor;
    let is_listening = own.state.as_deref() == Some(words::state(TcpState::LISTEN));
    let action = line.event.action.known();
    let (source, destination) = (line.source.as_ref(), Some(&line.destination));
    let (direction, local, remote) = match (action, direction) {
        (Some(ConnectionAction::Listen | ConnectionAction::Unlisten), _) => {
            (Direction::Listen, destination, None)
        }
        _ if is_listening => (Direction::Listen, destination, None),
        (_, words::Direction::Ingress) => (Direction::Inbound, destination, source),
        (_, words::Direction::Egress) => (Direction::Outbound, source, destination),
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
    let uid = line.user.as_ref().map(|user| u32::try_from(user.id.0));
    let process = line.process.as_ref();
    let exe = process.and_then(|process| process.executable.as_deref());
    let exe = exe.map(Path::new);
    let cgroup = own.cgroup.as_ref();
    let port = service.port.unwrap_or_default();
    Ok(Facts {
        peer_is_self: direction != Direction::Listen && peer.ip == local.ip,
        uid: uid.transpose().map_err(|_| "user.id is no user's number")?,
        unit: own.unit.as_deref(),
        cgroup: cgroup.and_then(|cgroup| cgroup.path.as_deref()),
        exe,
        exe_id: recorded.or_else(|| exe.and_then(|exe| Host.executable(exe).ok())),
        is_kernel: own.kernel,
        now_ns: line.timestamp.0,
        ..Facts::new(direction, Transport::Tcp, port, peer.ip)
    })
}
