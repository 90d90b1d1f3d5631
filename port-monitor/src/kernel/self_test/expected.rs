//! What the self-test's events must say, and where they do not.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use port_monitor_common::event::{ClosedBy, OwnerSource};
use rustix::io::Errno;

use super::{
    super::backend::Backend,
    Attached,
    play::{FROM_CLIENT, FROM_SERVER, Played, Reached},
};
use crate::{
    events::{
        decode::{Action, Direction, Event, Owner},
        wire::words::{ConnectionAction, Spelled as _},
    },
    host::{
        cgroup::CgroupTree,
        process::{own_cgroup_path, own_start_ticks, ticks},
    },
    kernel::{aya_workarounds::file_limit, error::SelfTestError},
};

fn is_failed(event: &Event) -> bool {
    matches!(event.action, Action::Failed { .. })
}

/// What must be true of every event of the thread that connects.
pub(super) struct Truth {
    kernel: String,
    pid: u32,
    tid: u32,
    uid: u32,
    gid: u32,
    comm: Vec<u8>,
    process_comm: Vec<u8>,
    start_ticks: u64,
    netns_ino: u32,
    /// `None` where the cgroup v2 tree is not visible.
    cgroup_id: Option<u64>,
    /// `None` where it cannot be told.
    exe_inode: Option<u64>,
}

impl Truth {
    /// The truth about the calling thread.
    pub(super) fn read() -> Result<Self, SelfTestError> {
        let _opening = file_limit::opening();
        let read = |path: &'static str| {
            fs::read(path).map_err(|error| SelfTestError::Truth { path, error })
        };
        let netns = "/proc/thread-self/ns/net";
        let netns_ino = fs::metadata(netns)
            .map_err(|error| SelfTestError::Truth { path: netns, error })?
            .ino();
        let comm = |path| {
            let mut comm = read(path)?;
            comm.pop();
            Ok::<_, SelfTestError>(comm)
        };
        Ok(Self {
            kernel: crate::kernel::error::kernel_release(),
            pid: std::process::id(),
            tid: rustix::thread::gettid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            comm: comm("/proc/thread-self/comm")?,
            process_comm: comm("/proc/self/comm")?,
            start_ticks: own_start_ticks().unwrap_or(0),
            netns_ino: u32::try_from(netns_ino).unwrap_or(0),
            cgroup_id: own_cgroup_id(),
            exe_inode: fs::metadata("/proc/self/exe").ok().map(|exe| exe.ino()),
        })
    }
}

fn own_cgroup_id() -> Option<u64> {
    let tree = CgroupTree::find(Path::new("/proc"))?;
    tree.id(Path::new(&own_cgroup_path()?)).ok()
}

/// Which parts of what events must say a connection has shown.
#[derive(Default)]
pub(super) struct Proved([bool; 7]);

/// Compares a part.
type Check<'a> = fn(&Expected<'a>, &[Event]) -> Result<(), SelfTestError>;

/// What the events of one connection must say.
pub(super) struct Expected<'a> {
    truth: &'a Truth,
    client: SocketAddr,
    server: SocketAddr,
    unsent: Option<(SocketAddr, Errno)>,
    attached: Attached,
}

impl<'a> Expected<'a> {
    /// The parts, and how far a connection must have come for each.
    const PARTS: [(Reached, Check<'a>); 7] = [
        (Reached::Listening, Self::check_listener),
        (Reached::Connecting, Self::check_connect),
        (Reached::End, Self::check_accept),
        (Reached::End, Self::check_outcome),
        (Reached::End, Self::check_ends_of_connection),
        (Reached::End, Self::check_unsent),
        (Reached::End, Self::check_accept_program),
    ];

    /// What follows from this connection of that thread.
    pub(super) fn new(truth: &'a Truth, played: &Played, attached: Attached) -> Self {
        Self {
            truth,
            client: played.client,
            server: played.server,
            unsent: played.unsent.filter(|_| attached.unsent),
            attached,
        }
    }

    /// Everything that can be checked of a connection that came so far. What is proved already
    /// may be missing: the kernel may have skipped a program this once.
    pub(super) fn check_as_far_as(
        &self,
        reached: Reached,
        events: &[Event],
        proved: &mut Proved,
    ) -> Result<(), SelfTestError> {
        let mut first = Ok(());
        for ((least, check), proved) in Self::PARTS.into_iter().zip(&mut proved.0) {
            if reached < least {
                continue;
            }
            match check(self, events) {
                Ok(()) => *proved = true,
                Err(error) if !error.is_of_skips() => return Err(error),
                Err(error) if !*proved => first = first.and(Err(error)),
                Err(_) => {}
            }
        }
        first
    }

    fn check_connect(&self, events: &[Event]) -> Result<(), SelfTestError> {
        let connect = self.find(events, "connect")?;
        let bound = self.attached.backend != Backend::Tracepoint;
        self.check_ends(connect, self.client, self.server, bound)?;
        self.check_owner(connect, OwnerSource::Connect)
    }

    /// The attempt that was refused before its SYN.
    fn check_unsent(&self, events: &[Event]) -> Result<(), SelfTestError> {
        let Some((to, errno)) = self.unsent else {
            return Ok(());
        };
        let Some(failed) = events.iter().find(|event| is_failed(event)) else {
            return Err(self.missing("failed"));
        };
        let nowhere = match to {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        self.check_ends(failed, nowhere, to, false)?;
        self.check_owner(failed, OwnerSource::Connect)?;
        let told = match failed.action {
            Action::Failed { errno } => errno.unwrap_or(0),
            _ => 0,
        };
        self.equal(failed, "errno", told, errno.raw_os_error())
    }

    /// The program at the return of accept was not stood in for by another one.
    fn check_accept_program(&self, events: &[Event]) -> Result<(), SelfTestError> {
        let own = |event: &Event| event.action == Action::Accept && !event.preattach;
        match self.attached.accept {
            Some(program) if !events.iter().any(own) => Err(SelfTestError::Blind {
                kernel: self.truth.kernel.clone(),
                program,
            }),
            _ => Ok(()),
        }
    }

    fn check_accept(&self, events: &[Event]) -> Result<(), SelfTestError> {
        let accept = self.find(events, "accept")?;
        self.check_ends(accept, self.server, self.client, true)?;
        let source = if self.attached.backend == Backend::Tracepoint {
            OwnerSource::Listener
        } else {
            OwnerSource::Accept
        };
        self.check_owner(accept, source)
    }

    /// The attempt has succeeded.
    fn check_outcome(&self, events: &[Event]) -> Result<(), SelfTestError> {
        if !self.attached.outcomes {
            return Ok(());
        }
        let connect = self.find(events, "connect")?;
        let connected = self.find(events, "connected")?;
        self.check_ends(connected, self.client, self.server, true)?;
        self.check_owner(connected, OwnerSource::Connect)?;
        self.equal(connected, "connection id", connected.id, connect.id)
    }

    /// The listener has begun and ended to listen.
    fn check_listener(&self, events: &[Event]) -> Result<(), SelfTestError> {
        if !self.attached.listen {
            return Ok(());
        }
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
    fn check_ends_of_connection(&self, events: &[Event]) -> Result<(), SelfTestError> {
        if !self.attached.outcomes {
            return Ok(());
        }
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

    fn missing(&self, event: &'static str) -> SelfTestError {
        SelfTestError::Missing {
            kernel: self.truth.kernel.clone(),
            event,
            family: if self.server.is_ipv4() {
                "IPv4"
            } else {
                "IPv6"
            },
        }
    }

    fn find<'e>(
        &self,
        events: &'e [Event],
        name: &'static str,
    ) -> Result<&'e Event, SelfTestError> {
        events
            .iter()
            .find(|event| ConnectionAction::from(event.action).word() == name)
            .ok_or_else(|| self.missing(name))
    }

    fn check_ends(
        &self,
        event: &Event,
        local: SocketAddr,
        remote: SocketAddr,
        bound: bool,
    ) -> Result<(), SelfTestError> {
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

    fn check_owner(&self, event: &Event, source: OwnerSource) -> Result<(), SelfTestError> {
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
            process_comm,
            uid,
            gid,
            cgroup_id,
            exe,
            is_kernel: _,
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
        // Where the file system tells another number than the kernel's own, the device is
        // not to be proven; the inode is the same.
        let inode = exe.map(|exe| exe.inode);
        let expected = truth.exe_inode.or(inode);
        self.equal(
            event,
            "inode of the executable",
            inode.unwrap_or(0),
            expected.unwrap_or(0),
        )?;
        if comm.as_bytes() != truth.comm {
            return Err(self.wrong(event, "thread name", &comm.as_bytes(), &truth.comm));
        }
        if process_comm.as_bytes() != truth.process_comm {
            let name = process_comm.as_bytes();
            return Err(self.wrong(event, "process name", &name, &truth.process_comm));
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
    ) -> Result<(), SelfTestError> {
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
    ) -> SelfTestError {
        SelfTestError::Wrong {
            kernel: self.truth.kernel.clone(),
            event: ConnectionAction::from(event.action).word(),
            field,
            reported: format!("{reported:?}"),
            truth: format!("{truth:?}"),
        }
    }
}
