//! A recording of `-o json`: its connections and listeners, each once.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, Cursor, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;
use port_monitor_common::{
    event::FileId,
    policy::{Direction, Transport},
};
use serde::Deserialize;

use crate::{
    base::exit_code::Failure,
    policy::{Environment as _, Facts, Host},
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
    host: Option<HostPart>,
    port_monitor: OwnPart,
}

#[derive(Deserialize)]
struct HostPart {
    name: Option<String>,
    /// Of the start.
    boot: Option<BootPart>,
}

#[derive(Deserialize)]
struct BootPart {
    id: String,
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
    exe: Option<ExePart>,
    #[serde(default)]
    kernel: bool,
    /// Of a preexisting socket.
    state: Option<String>,
    /// Of the summary.
    lost: Option<u64>,
}

#[derive(Deserialize)]
struct ExePart {
    device: String,
    inode: String,
}

impl ExePart {
    fn file(&self) -> Option<FileId> {
        let (major, minor) = self.device.split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        Some(FileId {
            device: major << 20 | minor,
            inode: self.inode.parse().ok()?,
        })
    }
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
    let source: Box<dyn Read> = if recording == Path::new("-") {
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
            Failure::usage(format!("{place}: not a line of `-o json`: {error}"))
        })?;
    }
    Ok(Account {
        seen: reader.seen + reader.ids.len(),
        lost: reader.lost,
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
fn unpacked(mut source: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
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
    ids: HashSet<String>,
    lost: Option<u64>,
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
            host: read("/proc/sys/kernel/hostname").trim().to_owned(),
            boot: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            is_of_this_boot: None,
        }
    }

    fn read_line(&mut self, text: &str, take: &mut impl FnMut(&Facts<'_>)) -> Result<(), String> {
        let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let boot = line.host.as_ref().and_then(|host| host.boot.as_ref());
        if let Some(boot) = boot {
            self.is_of_this_boot = Some(boot.id == self.boot);
            // Another run: its ids are its own.
            self.seen += self.ids.len();
            self.ids.clear();
        }
        if line.event.dataset != CONNECTIONS {
            if line.event.action == "summary" {
                *self.lost.get_or_insert_default() += line.port_monitor.lost.unwrap_or_default();
            }
            return Ok(());
        }
        let id = line.port_monitor.id.clone().ok_or("no port_monitor.id")?;
        if self.ids.insert(id) {
            take(&facts(&line, self.recorded_exe(&line))?);
        }
        Ok(())
    }

    /// The file that was executed, where the numbers of files are this host's.
    fn recorded_exe(&self, line: &Line) -> Option<FileId> {
        let name = line.host.as_ref().and_then(|host| host.name.as_ref());
        let is_ours = self.is_of_this_boot;
        if !is_ours.unwrap_or_else(|| name == Some(&self.host)) {
            return None;
        }
        line.port_monitor.exe.as_ref().and_then(ExePart::file)
    }
}

fn facts(line: &Line, recorded: Option<FileId>) -> Result<Facts<'_>, String> {
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
    let exe = process.and_then(|process| process.executable.as_deref());
    let cgroup = line.port_monitor.cgroup.as_ref();
    let port = service.port.unwrap_or_default();
    Ok(Facts {
        peer_is_self: direction != Direction::Listen && peer.ip == local.ip,
        uid: user.transpose().map_err(|_| "user.id is no number")?,
        unit: line.port_monitor.unit.as_deref(),
        cgroup: cgroup.and_then(|cgroup| cgroup.path.as_deref()),
        exe,
        exe_id: recorded.or_else(|| exe.and_then(|exe| Host.executable(exe).ok())),
        is_kernel: line.port_monitor.kernel,
        now_ns: line.timestamp.as_nanosecond(),
        ..Facts::new(direction, Transport::Tcp, port, peer.ip)
    })
}
