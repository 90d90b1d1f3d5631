//! The canary: before the first event is shown, the monitor connects to itself
//! over loopback and compares every field the kernel reports with the truth.
//!
//! An offset that is wrong by one field is a lie nobody sees; here it is a
//! refusal to start.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use port_monitor_common::event::{ClosedBy, OwnerSource};
use thiserror::Error;

use super::ladder::Rung;
use crate::{
    enrich::{
        cgroup::CgroupTree,
        process::{own_cgroup_path, own_start_ticks, ticks},
    },
    event::{Direction, Event, Owner, decode},
};

/// How long the canary's events may take: they are in the ring by the time its
/// system calls return, unless another CPU is in the middle of a record.
const DEADLINE: Duration = Duration::from_secs(5);

/// connect and accept; with the hooks for them, connected and a close of each end, and
/// listen and unlisten.
const EVENTS: usize = 2;
const OUTCOME_EVENTS: usize = 3;
const LISTEN_EVENTS: usize = 2;

/// Bytes the client sends, and the server.
const FROM_CLIENT: u8 = 3;
const FROM_SERVER: u8 = 5;

/// What the canary found wrong.
#[derive(Debug, Error)]
pub enum CanaryError {
    /// A field is not what it must be.
    #[error(
        "kernel {kernel} reports {field} {reported} for the monitor's own {event}, the truth is \
         {truth}: refusing to show wrong data; please report it with the output of `port-monitor \
         doctor`"
    )]
    Wrong {
        /// `uname -r`.
        kernel: String,
        /// The event.
        event: &'static str,
        /// The field.
        field: &'static str,
        /// What the kernel said.
        reported: String,
        /// What is true.
        truth: String,
    },
    /// An event did not come.
    #[error(
        "kernel {kernel} reported no {event} for the monitor's own {family} connection: the hook \
         is attached but does not work"
    )]
    Missing {
        /// `uname -r`.
        kernel: String,
        /// The event.
        event: &'static str,
        /// The address family.
        family: &'static str,
    },
    /// The monitor cannot connect to itself.
    #[error("connect to {addr} for the self-test: {error}")]
    Loopback {
        /// Where to.
        addr: IpAddr,
        /// Why not.
        error: io::Error,
    },
    /// The truth about this process cannot be read.
    #[error("read {path} for the self-test: {error}")]
    Truth {
        /// What could not be read.
        path: &'static str,
        /// Why not.
        error: io::Error,
    },
}

/// What is attached, as far as it makes a difference here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    pub(super) rung: Rung,
    /// Accept tracepoints on the tracepoint rung.
    pub(super) acceptor: bool,
    /// The hooks for outcomes and ends.
    pub(super) outcomes: bool,
    /// The hooks for sockets that begin to listen.
    pub(super) listen: bool,
}

/// What must be true of every event of this thread.
struct Truth {
    kernel: String,
    pid: u32,
    tid: u32,
    uid: u32,
    gid: u32,
    comm: Vec<u8>,
    start_ticks: u64,
    netns_ino: u32,
    /// `None` where the cgroup v2 tree is not visible.
    cgroup_id: Option<u64>,
}

/// Connects to itself and checks what the kernel reports. Events of others that
/// arrive meanwhile go to `others`.
pub(super) fn run(
    records: &mut RingBuf<MapData>,
    attached: Attached,
    mut others: impl FnMut(&[u8]),
) -> Result<(), CanaryError> {
    let truth = Truth::read()?;
    let loopbacks = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    for addr in loopbacks {
        let Some((client, server)) = connect(addr)? else {
            log::info!("no IPv6 on loopback: the self-test is IPv4 only");
            continue;
        };
        let wanted = EVENTS
            + if attached.outcomes { OUTCOME_EVENTS } else { 0 }
            + if attached.listen { LISTEN_EVENTS } else { 0 };
        let events = collect(records, wanted, &mut others);
        let expected = Expected {
            truth: &truth,
            client,
            server,
            attached,
        };
        expected.check(&events)?;
        if attached.listen {
            expected.check_listener(&events)?;
        }
        if attached.outcomes {
            expected.check_outcome(&events)?;
            expected.check_ends_of_connection(&events)?;
        }
    }
    Ok(())
}

/// One connection to ourselves; its two ends. `None` without IPv6.
fn connect(addr: IpAddr) -> Result<Option<(SocketAddr, SocketAddr)>, CanaryError> {
    let failed = |error| CanaryError::Loopback { addr, error };
    let listener = match TcpListener::bind((addr, 0)) {
        Ok(listener) => listener,
        Err(_) if addr.is_ipv6() => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let server = listener.local_addr().map_err(failed)?;
    let mut stream = TcpStream::connect(server).map_err(failed)?;
    let client = stream.local_addr().map_err(failed)?;
    let (mut accepted, _) = listener.accept().map_err(failed)?;
    exchange(&mut stream, &mut accepted, FROM_CLIENT).map_err(failed)?;
    exchange(&mut accepted, &mut stream, FROM_SERVER).map_err(failed)?;
    // The client closes first, and the server has seen it when it closes.
    drop(stream);
    io::copy(&mut accepted, &mut io::sink()).map_err(failed)?;
    drop(accepted);
    Ok(Some((client, server)))
}

/// Sends `bytes` bytes and receives them.
fn exchange(from: &mut TcpStream, to: &mut TcpStream, bytes: u8) -> io::Result<()> {
    let mut buffer = vec![0; usize::from(bytes)];
    from.write_all(&buffer)?;
    to.read_exact(&mut buffer)
}

/// Reads the ring until as many of the canary's events are there as are wanted, or
/// the deadline passes.
fn collect(
    ring: &mut RingBuf<MapData>,
    wanted: usize,
    others: &mut impl FnMut(&[u8]),
) -> Vec<Event> {
    let mut events = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while events.len() < wanted && Instant::now() < deadline {
        let Some(record) = ring.next() else {
            std::thread::yield_now();
            continue;
        };
        match decode(&record) {
            Ok(event) if event.canary => {
                log::debug!("self-test: {event:?}");
                events.push(event);
            }
            _ => others(&record),
        }
    }
    events
}

impl Truth {
    fn read() -> Result<Self, CanaryError> {
        let read =
            |path: &'static str| fs::read(path).map_err(|error| CanaryError::Truth { path, error });
        let netns = "/proc/thread-self/ns/net";
        let netns_ino = fs::metadata(netns)
            .map_err(|error| CanaryError::Truth { path: netns, error })?
            .ino();
        let mut comm = read("/proc/thread-self/comm")?;
        comm.pop();
        Ok(Self {
            kernel: super::kernel_release(),
            pid: std::process::id(),
            tid: rustix::thread::gettid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            comm,
            start_ticks: own_start_ticks().unwrap_or(0),
            netns_ino: u32::try_from(netns_ino).unwrap_or(0),
            cgroup_id: own_cgroup_id(),
        })
    }
}

fn own_cgroup_id() -> Option<u64> {
    let tree = CgroupTree::find(Path::new("/proc"))?;
    tree.id(Path::new(&own_cgroup_path()?)).ok()
}

/// What the events of one connection must say.
struct Expected<'a> {
    truth: &'a Truth,
    client: SocketAddr,
    server: SocketAddr,
    attached: Attached,
}

impl Expected<'_> {
    fn check(&self, events: &[Event]) -> Result<(), CanaryError> {
        let connect = self.find(events, "connect")?;
        let accept = self.find(events, "accept")?;
        let Attached { rung, acceptor, .. } = self.attached;
        let bound = rung != Rung::Tracepoint;
        self.check_ends(connect, self.client, self.server, bound)?;
        self.check_ends(accept, self.server, self.client, true)?;
        self.check_owner(connect, OwnerSource::Connect)?;
        let by_listener = rung == Rung::Tracepoint && !acceptor;
        let source = if by_listener {
            OwnerSource::Listener
        } else {
            OwnerSource::Accept
        };
        self.check_owner(accept, source)
    }

    /// The attempt has succeeded.
    fn check_outcome(&self, events: &[Event]) -> Result<(), CanaryError> {
        let connect = self.find(events, "connect")?;
        let connected = self.find(events, "connected")?;
        self.check_ends(connected, self.client, self.server, true)?;
        self.check_owner(connected, OwnerSource::Connect)?;
        self.equal(connected, "connection id", connected.id, connect.id)
    }

    /// The listener has begun and ended to listen.
    fn check_listener(&self, events: &[Event]) -> Result<(), CanaryError> {
        let nowhere = match self.server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let listen = self.find(events, "listen")?;
        let unlisten = self.find(events, "unlisten")?;
        for event in [listen, unlisten] {
            self.check_ends(event, self.server, nowhere, true)?;
            self.check_owner(event, OwnerSource::Listener)?;
        }
        self.equal(unlisten, "connection id", unlisten.id, listen.id)
    }

    /// Both ends have ended, each with what it knows of it.
    fn check_ends_of_connection(&self, events: &[Event]) -> Result<(), CanaryError> {
        let connect = self.find(events, "connect")?;
        let accept = self.find(events, "accept")?;
        let ours = [
            (connect, self.client, self.server, ClosedBy::Local),
            (accept, self.server, self.client, ClosedBy::Peer),
        ];
        for (start, local, remote, closed_by) in ours {
            let by_id = |event: &&Event| event.id == start.id && event.action.close().is_some();
            let end = events.iter().find(by_id);
            let Some((end, close)) = end.and_then(|end| Some((end, end.action.close()?))) else {
                return Err(self.missing("close"));
            };
            self.check_ends(end, local, remote, true)?;
            let (sent, received) = match close.direction {
                Direction::Outbound => (FROM_CLIENT, FROM_SERVER),
                Direction::Inbound => (FROM_SERVER, FROM_CLIENT),
            };
            self.equal(end, "bytes sent", close.bytes_sent, sent.into())?;
            self.equal(end, "bytes received", close.bytes_received, received.into())?;
            self.equal(end, "errno", close.errno.unwrap_or(0), 0)?;
            if close.closed_by != closed_by {
                return Err(self.wrong(end, "closer", &close.closed_by, &closed_by));
            }
            if end.owner != start.owner {
                return Err(self.wrong(end, "owner", &end.owner, &start.owner));
            }
        }
        Ok(())
    }

    fn missing(&self, event: &'static str) -> CanaryError {
        CanaryError::Missing {
            kernel: self.truth.kernel.clone(),
            event,
            family: if self.server.is_ipv4() {
                "IPv4"
            } else {
                "IPv6"
            },
        }
    }

    fn find<'e>(&self, events: &'e [Event], name: &'static str) -> Result<&'e Event, CanaryError> {
        events
            .iter()
            .find(|event| event.action.name() == name)
            .ok_or_else(|| self.missing(name))
    }

    fn check_ends(
        &self,
        event: &Event,
        local: SocketAddr,
        remote: SocketAddr,
        bound: bool,
    ) -> Result<(), CanaryError> {
        self.equal(event, "local address", event.local_ip, local.ip())?;
        self.equal(event, "remote address", event.remote_ip, remote.ip())?;
        self.equal(event, "local port", event.local_port.unwrap_or(0), {
            if bound { local.port() } else { 0 }
        })?;
        self.equal(event, "remote port", event.remote_port, remote.port())?;
        self.equal(
            event,
            "network namespace",
            event.netns_ino,
            self.truth.netns_ino,
        )?;
        self.equal(event, "bound interface", event.ifindex.unwrap_or(0), 0)
    }

    fn check_owner(&self, event: &Event, source: OwnerSource) -> Result<(), CanaryError> {
        let truth = self.truth;
        let Some(owner) = &event.owner else {
            return Err(self.wrong(event, "owner", &"nobody", &truth.pid));
        };
        let Owner {
            source: reported,
            pid,
            tid,
            start_ns,
            comm,
            uid,
            gid,
            cgroup_id,
        } = owner;
        if *reported != source {
            return Err(self.wrong(event, "owner source", reported, &source));
        }
        self.equal(event, "process id", *pid, truth.pid)?;
        self.equal(event, "thread id", *tid, truth.tid)?;
        self.equal(event, "user id", *uid, truth.uid)?;
        self.equal(event, "group id", *gid, truth.gid)?;
        let ticks = ticks(*start_ns);
        self.equal(event, "process start", ticks, truth.start_ticks)?;
        if comm.as_bytes() != truth.comm {
            return Err(self.wrong(event, "thread name", &comm.as_bytes(), &truth.comm));
        }
        self.equal(
            event,
            "cgroup id",
            *cgroup_id,
            truth.cgroup_id.unwrap_or(*cgroup_id),
        )
    }

    fn equal<T: Copy + PartialEq + std::fmt::Display>(
        &self,
        event: &Event,
        field: &'static str,
        reported: T,
        truth: T,
    ) -> Result<(), CanaryError> {
        if reported == truth {
            return Ok(());
        }
        Err(self.wrong(
            event,
            field,
            &format_args!("{reported}"),
            &format_args!("{truth}"),
        ))
    }

    fn wrong(
        &self,
        event: &Event,
        field: &'static str,
        reported: &dyn std::fmt::Debug,
        truth: &dyn std::fmt::Debug,
    ) -> CanaryError {
        CanaryError::Wrong {
            kernel: self.truth.kernel.clone(),
            event: event.action.name(),
            field,
            reported: format!("{reported:?}"),
            truth: format!("{truth:?}"),
        }
    }
}
