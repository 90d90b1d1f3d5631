//! A recording of `-o json`: its connections and listeners, each once.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, Cursor, Read as _},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport},
    tcp_state::TcpState,
};

use crate::{
    base::{exit_code::Failure, sanitize::Escaped},
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
    let source: Box<dyn io::Read> = if recording == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(recording).map_err(|error| refusal(recording, &error))?)
    };
    let mut lines = unpacked(source).map_err(|error| refusal(recording, &error))?;
    let mut reader = Reader::new();
    let mut text = String::new();
    for number in 1.. {
        if !next_line(&mut lines, &mut text).map_err(|error| refusal(recording, &error))? {
            break;
        }
        reader.read_line(&text, &mut take).map_err(|error| {
            let place = format!("{}:{number}", recording.display());
            Failure::usage(format!("{place}: {error}"))
        })?;
    }
    Ok(Account {
        seen: reader.seen + reader.ids.len(),
        lost: reader.lost,
        unknown: reader.unknown,
    })
}

/// Many times what the longest line takes. A small file may unpack to a line that no memory
/// holds.
const MAX_LINE: u64 = 1 << 20;

/// What files begin with that something else has compressed, and what reads them.
const OTHERS: [(&[u8], &str); 3] = [
    (b"\x28\xb5\x2f\xfd", "zstd -dc"),
    (b"\xfd7zX", "xz -dc"),
    (b"BZh", "bzip2 -dc"),
];

/// The lines of a recording that may be compressed, as old output files are.
fn unpacked(mut source: impl io::Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut magic = Vec::new();
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let other = OTHERS.iter().find(|(begin, _)| magic.starts_with(begin));
    if let Some((_, reader)) = other {
        let text = format!("it is compressed: pipe it in, `{reader} FILE | port-monitor … -`");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let is_gzip = magic.starts_with(b"\x1f\x8b");
    let whole = Cursor::new(magic).chain(source);
    Ok(if is_gzip {
        Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(whole))))
    } else {
        Box::new(BufReader::new(whole))
    })
}

/// Reads the next line; false where there is none.
fn next_line(lines: &mut impl BufRead, text: &mut String) -> io::Result<bool> {
    text.clear();
    lines.take(MAX_LINE + 1).read_line(text)?;
    if text.len() as u64 > MAX_LINE {
        let text = "a line of it is longer than 1 MiB, so it is not one of `-o json`";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(!text.is_empty())
}

/// The recording cannot be used.
pub(super) fn refusal(recording: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::usage(format!("read {}: {error}", recording.display()))
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
