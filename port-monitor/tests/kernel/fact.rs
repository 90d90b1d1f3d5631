//! The truth about a workload's connections, as the workload itself knows it.
//!
//! A workload writes one JSON line per fact as it happens; the runner reads
//! them when the monitor has ended and derives from them what every record
//! must say.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    net::{IpAddr, SocketAddr},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{bulk::Many, cgroup};

/// A thread that acted, as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) parent_pid: u32,
    /// The parent's name, any bytes, and its start in clock ticks since boot, while it lives.
    pub(crate) parent: Option<(Vec<u8>, u64)>,
    /// Start of the process in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// The thread's name, any bytes.
    pub(crate) comm: Vec<u8>,
    /// The process's, which is its first thread's.
    pub(crate) process_comm: Vec<u8>,
    pub(crate) exe: PathBuf,
    /// Which file that is: its device, major and minor number, and its inode.
    pub(crate) exe_device: String,
    pub(crate) exe_inode: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// cgroup v2 path below the mount point.
    pub(crate) cgroup: String,
    /// Inode number of that directory.
    pub(crate) cgroup_id: u64,
    /// The process ends right after it acted: what is looked up in userspace
    /// may come too late.
    pub(crate) ends_at_once: bool,
}

impl Owner {
    /// The calling thread.
    pub(crate) fn current() -> Result<Self> {
        let (parent_pid, start_ticks) = stat_fields("self")?;
        let parent = parent_pid.to_string();
        let parent = process_comm(&parent).and_then(|comm| Ok((comm, stat_fields(&parent)?.1)));
        let cgroup = cgroup::own_path()?;
        let exe = fs::metadata("/proc/self/exe").context("look at /proc/self/exe")?;
        let device = exe.dev();
        Ok(Self {
            pid: std::process::id(),
            tid: u32::try_from(rustix::thread::gettid().as_raw_nonzero().get())?,
            parent_pid,
            parent: parent.ok(),
            start_ticks,
            comm: rustix::thread::name()?.into_bytes(),
            process_comm: process_comm("self")?,
            exe: fs::read_link("/proc/self/exe").context("read /proc/self/exe")?,
            exe_device: format!(
                "{}:{}",
                rustix::fs::major(device),
                rustix::fs::minor(device)
            ),
            exe_inode: exe.ino(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            cgroup_id: cgroup::id(&cgroup)?,
            cgroup,
            ends_at_once: false,
        })
    }
}

/// The name of a process, by its directory in `/proc`, which is its first thread's: any bytes.
fn process_comm(process: &str) -> Result<Vec<u8>> {
    let path = format!("/proc/{process}/comm");
    let mut comm = fs::read(&path).with_context(|| format!("read {path}"))?;
    comm.pop();
    Ok(comm)
}

/// Parent pid and start time from a process's `stat`, whose second field, the process name,
/// may hold spaces and brackets.
fn stat_fields(process: &str) -> Result<(u32, u64)> {
    let path = format!("/proc/{process}/stat");
    let bytes = fs::read(&path).with_context(|| format!("read {path}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, rest) = text
        .rsplit_once(") ")
        .with_context(|| format!("no name in {path}"))?;
    let mut fields = rest.split(' ');
    let parent = fields
        .nth(1)
        .with_context(|| format!("no parent in {path}"))?;
    let start = fields
        .nth(17)
        .with_context(|| format!("no start in {path}"))?;
    Ok((parent.parse()?, start.parse()?))
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// The handshake was completed.
    Connected,
    /// The network said no, with this errno.
    Failed(i32),
    /// The program closed the socket before any answer.
    GivenUp,
    /// `TCP_REPAIR` took the place of the handshake.
    Restored,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reach {
    /// Refused before its socket had a route.
    Nothing,
    /// It had a route, but no local address and port of its own.
    Route,
    /// A SYN.
    Syn,
}

/// A connection attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) owner: Owner,
    pub(crate) local_ip: IpAddr,
    /// `None`: the kernel chose it and did not tell, because the attempt failed.
    pub(crate) local_port: Option<u16>,
    /// The program bound the socket before it connected.
    pub(crate) bound: bool,
    pub(crate) remote: SocketAddr,
    /// An IPv6 socket speaking IPv4.
    pub(crate) v4_mapped: bool,
    pub(crate) netns_ino: u64,
    pub(crate) reach: Reach,
    pub(crate) ending: Ending,
    /// Wall clock around the attempt, ns.
    pub(crate) within_ns: (u64, u64),
}

/// A thread made a socket listen, or tried to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub(crate) struct Listen {
    pub(crate) owner: Owner,
    pub(crate) at: SocketAddr,
    /// At a port of its choice: it was bound before.
    pub(crate) bound: bool,
    /// The kernel refused it: the port was taken.
    pub(crate) refused: bool,
    /// It closed the socket again.
    pub(crate) ended: bool,
    /// Before the monitor started.
    pub(crate) older: bool,
    pub(crate) netns_ino: u64,
    pub(crate) within_ns: (u64, u64),
}

/// A connection that arrived at a listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Accept {
    /// The accepting thread; `None` when nobody accepted.
    pub(crate) acceptor: Option<Owner>,
    /// Where the listener was bound; names its [`Fact::Listen`].
    pub(crate) listener: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) v4_mapped: bool,
    pub(crate) netns_ino: u64,
    pub(crate) within_ns: (u64, u64),
    /// The thread slept in accept before the monitor attached.
    pub(crate) preattach: bool,
    /// Who had the listener open when the connection came.
    pub(crate) holder: Holder,
}

/// Who had a listener open when a connection came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Holder {
    /// Who made it listen, if that is one process.
    Listener,
    /// This one alone.
    Only(Box<Owner>),
    /// Several, none before the others.
    Several,
}

/// [`Closed::closed_by`]: one of the two ends.
pub(crate) const EITHER: &str = "local or peer";

/// What one end of a connection has sent again, segments.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Resent {
    /// Nobody has counted.
    Unknown,
    /// One or more.
    Some,
    /// So many.
    Times(u64),
}

impl Resent {
    /// Whether a record tells it.
    pub(crate) fn is(self, told: u64) -> bool {
        match self {
            Self::Unknown => true,
            Self::Some => told > 0,
            Self::Times(times) => told == times,
        }
    }
}

/// The end of a connection, at one of its ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the name of the field it is to be in"
)]
pub(crate) struct Closed {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) netns_ino: u64,
    /// Payload bytes.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// `port_monitor.closed_by`.
    pub(crate) closed_by: String,
    /// `error.code`; empty for an orderly end.
    pub(crate) error: String,
    /// What was sent again.
    pub(crate) resent: Resent,
    /// The process that closed this end, if it was closed here.
    pub(crate) closer_pid: u32,
}

/// One line of a workload's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Fact {
    /// A process of the workload: no record of it may stay unexplained.
    Process(u32),
    /// A thread made a socket listen.
    Listen(Listen),
    /// An attempt.
    Attempt(Attempt),
    /// An arrival.
    Accept(Accept),
    /// A connection has ended.
    Closed(Closed),
    /// Ends of connections of one thread, which are over when the workload is.
    Many(Many),
    /// The workload did all it had to; without this line it did not.
    Done,
    /// The workload could not do it.
    Failed(String),
}

/// Where a workload writes its facts.
#[derive(Debug)]
pub(crate) struct Witness {
    file: File,
    begin_ns: u64,
    /// The process ends right after it acted.
    ends_at_once: bool,
}

impl Witness {
    /// Starts the report at `path`. Each fact is one appended write, so the
    /// threads and children of a workload share it.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("create {}", path.display()))?;
        Ok(Self {
            file,
            begin_ns: now_ns()?,
            ends_at_once: false,
        })
    }

    /// This report, by a process that ends right after it acted.
    pub(crate) fn of_the_dying(&self) -> Result<Self> {
        Ok(Self {
            file: self.file.try_clone().context("share the report")?,
            begin_ns: self.begin_ns,
            ends_at_once: true,
        })
    }

    /// Where the report is.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        fs::read_link(link).context("find the report")
    }

    /// The calling thread.
    pub(crate) fn owner(&self) -> Result<Owner> {
        Ok(Owner {
            ends_at_once: self.ends_at_once,
            ..Owner::current()?
        })
    }

    /// Writes a fact.
    pub(crate) fn tell(&self, fact: &Fact) -> Result<()> {
        let mut line = serde_json::to_vec(fact)?;
        line.push(b'\n');
        (&self.file).write_all(&line).context("write a fact")
    }

    /// The wall clock from the workload's start until now.
    pub(crate) fn until_now(&self) -> Result<(u64, u64)> {
        Ok((self.begin_ns, now_ns()?))
    }
}

/// Reads a workload's facts; an error if it did not do its work.
pub(crate) fn read(path: &Path) -> Result<Vec<Fact>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let facts: Vec<Fact> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    for fact in &facts {
        if let Fact::Failed(why) = fact {
            anyhow::bail!("the workload failed: {why}");
        }
    }
    anyhow::ensure!(
        facts.iter().any(|fact| matches!(fact, Fact::Done)),
        "the workload died half-way"
    );
    Ok(facts)
}

/// Wall clock, ns since the Unix epoch.
pub(crate) fn now_ns() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_nanos())?)
}

/// The inode number of the calling thread's network namespace.
pub(crate) fn netns_ino() -> Result<u64> {
    let meta = fs::metadata("/proc/thread-self/ns/net").context("stat /proc/thread-self/ns/net")?;
    Ok(meta.ino())
}

/// The name `/etc/passwd` gives a uid.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    fs::read_to_string("/etc/passwd")
        .ok()?
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_owned())
        })
}

/// This host's name as the kernel has it.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
