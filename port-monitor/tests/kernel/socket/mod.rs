//! TCP sockets of a workload: each call that makes a connection writes down
//! what the record of it must say.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt},
};

use crate::fact::{
    Accept, Attempt, Closed, EITHER, Ending, Fact, Holder, Listen, Owner, Reach, Resent, Witness,
    netns_ino,
};

mod options;

pub(crate) use options::{dropped, keep_on_loopback, set_deaf, set_mark, set_tcp};

/// `127.0.0.1`.
pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// `::1`.
pub(crate) const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Any free port of `ip`.
pub(crate) const fn any_port(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

/// A TCP socket of the address's family.
pub(crate) fn open(ip: IpAddr) -> Result<OwnedFd> {
    open_with(ip, SocketFlags::empty())
}

/// A UDP socket of the address's family.
pub(crate) fn open_udp(ip: IpAddr) -> Result<OwnedFd> {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::DGRAM, flags, None).context("socket")
}

/// A TCP socket with flags.
pub(crate) fn open_with(ip: IpAddr, flags: SocketFlags) -> Result<OwnedFd> {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = flags | SocketFlags::CLOEXEC;
    let protocol = Some(ipproto::TCP);
    rustix::net::socket_with(family, SocketType::STREAM, flags, protocol).context("socket")
}

/// An MPTCP socket of the address's family; a TCP one, as programs take it, where
/// the kernel has no MPTCP.
pub(crate) fn open_mptcp(ip: IpAddr) -> Result<OwnedFd> {
    const MPTCP: libc::c_int = 262;
    let family = match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, MPTCP) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) => open(ip),
            _ => Err(error).context("socket(IPPROTO_MPTCP)"),
        };
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a socket.
pub(crate) fn bind(socket: &OwnedFd, at: SocketAddr) -> Result<()> {
    rustix::net::bind(socket, &at).with_context(|| format!("bind {at}"))
}

/// The socket's own address, in its family's form.
pub(crate) fn local(socket: &OwnedFd) -> Result<SocketAddr> {
    let any = rustix::net::getsockname(socket).context("getsockname")?;
    SocketAddr::try_from(any).context("getsockname: not an internet address")
}

/// The address of the socket's peer.
pub(crate) fn peer(socket: &OwnedFd) -> Result<SocketAddr> {
    let any = rustix::net::getpeername(socket).context("getpeername")?;
    let any = any.context("getpeername: no peer")?;
    SocketAddr::try_from(any).context("getpeername: not an internet address")
}

/// How many connections wait in the listener's queue: the kernel tells it in a
/// field that means something else for other sockets.
pub(crate) fn waiting(listener: &Listener) -> Result<u32> {
    Ok(info(&listener.socket)?.tcpi_unacked)
}

/// What the kernel tells of a connection.
pub(crate) fn info(socket: &OwnedFd) -> Result<libc::tcp_info> {
    // SAFETY: all-zero bytes are a valid `tcp_info`, plain data.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of_val(&info))?;
    // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes
    // to `info`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("get TCP_INFO");
    }
    Ok(info)
}

/// This end of a connection and the other one.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// A socket that listens, and where.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// Where it was bound.
    pub(crate) at: SocketAddr,
}

impl Listener {
    /// Leaves it open until the process ends.
    pub(crate) fn keep(self) {
        mem::forget(self);
    }

    /// Gives up what a process has from the one that forked it: nothing is open there any
    /// more that could accept.
    pub(crate) fn leave(&self) {
        let Ok(nothing) = std::fs::File::open("/dev/null") else {
            return;
        };
        // SAFETY: both are open, and the number stays this socket's to close.
        unsafe { libc::dup2(nothing.as_raw_fd(), self.socket.as_raw_fd()) };
    }

    /// Where to reach it from this host: a wildcard address stands for
    /// loopback.
    pub(crate) fn reachable_at(&self) -> SocketAddr {
        let ip = match self.at.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => V4,
            IpAddr::V6(ip) if ip.is_unspecified() => V6,
            ip => ip,
        };
        SocketAddr::new(ip, self.at.port())
    }
}

/// A port that refuses: bound, so that nobody else takes it, and not listening.
#[derive(Debug)]
pub(crate) struct Refusing {
    /// Where.
    pub(crate) at: SocketAddr,
    _socket: OwnedFd,
}

impl Refusing {
    /// Takes a free port of `ip`.
    pub(crate) fn new(ip: IpAddr) -> Result<Self> {
        let socket = open(ip)?;
        bind(&socket, any_port(ip))?;
        Ok(Self {
            at: local(&socket)?,
            _socket: socket,
        })
    }
}

/// Length of the accept queue, where a test does not want a certain one.
const BACKLOG: i32 = 128;

impl Witness {
    /// Makes a socket listen at `at`, with a free port for port 0.
    pub(crate) fn listen(&self, at: SocketAddr) -> Result<Listener> {
        let socket = open(at.ip())?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, at)?;
        self.listen_on(socket, BACKLOG)
    }

    /// Makes a socket listen; an unbound one gets a port on the way.
    pub(crate) fn listen_on(&self, socket: OwnedFd, backlog: i32) -> Result<Listener> {
        let bound = local(&socket)?.port() != 0;
        rustix::net::listen(&socket, backlog).context("listen")?;
        let at = local(&socket)?;
        self.tell(&Fact::Listen(self.listened(at, bound)?))?;
        Ok(Listener { socket, at })
    }

    /// What this thread has just done: listen at `at`.
    pub(crate) fn listened(&self, at: SocketAddr, bound: bool) -> Result<Listen> {
        Ok(Listen {
            owner: self.owner()?,
            at,
            bound,
            refused: false,
            ended: false,
            older: false,
            netns_ino: netns_ino()?,
            within_ns: self.until_now()?,
        })
    }

    /// Connects an unbound socket, which must succeed.
    pub(crate) fn connect(&self, remote: SocketAddr) -> Result<OwnedFd> {
        let socket = open(remote.ip())?;
        rustix::net::connect(&socket, &remote).with_context(|| format!("connect to {remote}"))?;
        self.connected(&socket, false)?;
        Ok(socket)
    }

    /// Connects a socket bound to `from`, which must succeed.
    pub(crate) fn connect_from(&self, from: SocketAddr, remote: SocketAddr) -> Result<OwnedFd> {
        let socket = open(remote.ip())?;
        bind(&socket, from)?;
        rustix::net::connect(&socket, &remote).with_context(|| format!("connect to {remote}"))?;
        self.connected(&socket, true)?;
        Ok(socket)
    }

    /// Connects a socket, which must fail with `errno` though the network was
    /// asked. `from` binds it before.
    pub(crate) fn connect_in_vain(
        &self,
        from: Option<SocketAddr>,
        remote: SocketAddr,
        errno: Errno,
    ) -> Result<()> {
        let socket = open(remote.ip())?;
        if let Some(from) = from {
            bind(&socket, from)?;
        }
        self.connect_socket_in_vain(&socket, remote, errno)
    }

    /// As [`Witness::connect_in_vain`], with a socket of the caller's making.
    pub(crate) fn connect_socket_in_vain(
        &self,
        socket: &OwnedFd,
        remote: SocketAddr,
        errno: Errno,
    ) -> Result<()> {
        // Afterwards an unbound socket has no address any more.
        let bound = Some(local(socket)?).filter(|at| at.port() != 0);
        match rustix::net::connect(socket, &remote) {
            Err(error) if error == errno => {}
            other => bail!("connect to {remote}: {other:?}, not {errno}"),
        }
        // Loopback speaks to itself.
        let local_ip = bound.map_or(remote.ip(), |at| at.ip());
        self.tell(&Fact::Attempt(Attempt {
            owner: self.owner()?,
            local_ip: local_ip.to_canonical(),
            local_port: bound.map(|at| at.port()),
            bound: bound.is_some(),
            remote: canonical(remote),
            v4_mapped: is_v4_mapped(remote),
            netns_ino: netns_ino()?,
            reach: Reach::Syn,
            ending: Ending::Failed(errno.raw_os_error()),
            within_ns: self.until_now()?,
        }))
    }

    /// Fails to connect at once, and writes that down: no SYN is sent.
    pub(crate) fn connect_unsent(
        &self,
        socket: &OwnedFd,
        remote: SocketAddr,
        errno: Errno,
        reach: Reach,
    ) -> Result<()> {
        let from = local(socket)?;
        let outcome = rustix::net::connect(socket, &remote);
        ensure!(outcome == Err(errno), "connect to {remote}: {outcome:?}");
        self.tell(&Fact::Attempt(Attempt {
            owner: self.owner()?,
            local_ip: unsent_ip(from.ip(), remote.ip()),
            local_port: Some(from.port()).filter(|port| *port != 0),
            bound: from.port() != 0,
            remote: canonical(remote),
            v4_mapped: is_v4_mapped(remote),
            netns_ino: netns_ino()?,
            reach,
            ending: Ending::Failed(errno.raw_os_error()),
            within_ns: self.until_now()?,
        }))
    }

    /// Writes down that the calling thread connected `socket`.
    pub(crate) fn connected(&self, socket: &OwnedFd, bound: bool) -> Result<()> {
        self.attempted(socket, peer(socket)?, bound, Ending::Connected)
    }

    /// Writes down that the calling thread tried to connect `socket`, which
    /// still has its local address.
    pub(crate) fn attempted(
        &self,
        socket: &OwnedFd,
        remote: SocketAddr,
        bound: bool,
        ending: Ending,
    ) -> Result<()> {
        self.tell_attempt(local(socket)?, remote, bound, ending)
    }

    /// Closes `socket`, and writes down that the calling thread gave up to connect it: when
    /// it was told, that is over.
    pub(crate) fn gave_up(&self, socket: OwnedFd, remote: SocketAddr, bound: bool) -> Result<()> {
        let local = local(&socket)?;
        drop(socket);
        self.tell_attempt(local, remote, bound, Ending::GivenUp)
    }

    fn tell_attempt(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        bound: bool,
        ending: Ending,
    ) -> Result<()> {
        self.tell(&Fact::Attempt(Attempt {
            owner: self.owner()?,
            local_ip: local.ip().to_canonical(),
            local_port: Some(local.port()),
            bound,
            remote: canonical(remote),
            v4_mapped: is_v4_mapped(remote),
            netns_ino: netns_ino()?,
            reach: Reach::Syn,
            ending,
            within_ns: self.until_now()?,
        }))
    }

    /// Accepts one connection.
    pub(crate) fn accept(&self, listener: &Listener) -> Result<OwnedFd> {
        let socket = rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC)
            .with_context(|| format!("accept at {}", listener.at))?;
        self.accepted(listener, &socket, false)?;
        Ok(socket)
    }

    /// Writes down that the calling thread accepted `socket`.
    pub(crate) fn accepted(
        &self,
        listener: &Listener,
        socket: &OwnedFd,
        preattach: bool,
    ) -> Result<()> {
        let (local, remote) = (local(socket)?, peer(socket)?);
        let acceptor = Some(self.owner()?);
        self.arrived(listener.at, acceptor, local, remote, preattach)
    }

    /// Accepts one connection at a listener that only the calling process has, whoever made
    /// it listen, and leaves that open.
    pub(crate) fn accept_as_holder(&self, listener: Listener) -> Result<()> {
        self.accept_of(listener, Holder::Only(Box::new(self.owner()?)))
    }

    /// Accepts one connection at a listener that others have too, none before the others.
    pub(crate) fn accept_as_one_of_several(&self, listener: Listener) -> Result<()> {
        self.accept_of(listener, Holder::Several)
    }

    fn accept_of(&self, listener: Listener, holder: Holder) -> Result<()> {
        let socket = rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC)
            .with_context(|| format!("accept at {}", listener.at))?;
        self.tell(&Fact::Accept(Accept {
            acceptor: Some(self.owner()?),
            listener: listener.at,
            local: canonical(local(&socket)?),
            remote: canonical(peer(&socket)?),
            v4_mapped: false,
            netns_ino: netns_ino()?,
            within_ns: self.until_now()?,
            preattach: false,
            holder,
        }))?;
        listener.keep();
        Ok(())
    }

    /// Writes down that the connection of `client` is established at the
    /// listener, but nobody accepts it.
    pub(crate) fn never_accepted(&self, listener: &Listener, client: &OwnedFd) -> Result<()> {
        self.left_waiting(listener.at, (local(client)?, peer(client)?))
    }

    /// Writes down that the connection of a client, whose handshake need not be complete, waits
    /// at the listener, but nobody accepts it.
    pub(crate) fn left_waiting(&self, listener: SocketAddr, (client, server): Ends) -> Result<()> {
        self.arrived(listener, None, server, client, false)
    }

    /// Writes down that the calling thread accepted the connection of a client
    /// that is gone by now.
    pub(crate) fn accepted_too_late(
        &self,
        listener: SocketAddr,
        (client, server): (SocketAddr, SocketAddr),
    ) -> Result<()> {
        self.arrived(listener, Some(self.owner()?), server, client, false)
    }

    fn arrived(
        &self,
        listener: SocketAddr,
        acceptor: Option<Owner>,
        local: SocketAddr,
        remote: SocketAddr,
        preattach: bool,
    ) -> Result<()> {
        self.tell(&Fact::Accept(Accept {
            acceptor,
            listener,
            local: canonical(local),
            remote: canonical(remote),
            v4_mapped: listener.is_ipv6() && remote.ip().to_canonical().is_ipv4(),
            netns_ino: netns_ino()?,
            within_ns: self.until_now()?,
            preattach,
            holder: Holder::Listener,
        }))
    }

    /// Writes down how the connection between `local` and `remote` ended for
    /// `local`, and how many bytes it had sent and received.
    pub(crate) fn closed(
        &self,
        ends: Ends,
        bytes: (usize, usize),
        how: (&str, &str),
    ) -> Result<()> {
        self.tell(&Fact::Closed(closing(ends, bytes, how)?))
    }

    /// As [`Witness::closed`], where either end may have been the first.
    pub(crate) fn ended(&self, ends: Ends, bytes: (usize, usize)) -> Result<()> {
        self.closed(ends, bytes, (EITHER, ""))
    }

    /// As [`Witness::closed`], by another process.
    pub(crate) fn closed_by(
        &self,
        closer_pid: u32,
        ends: Ends,
        bytes: (usize, usize),
        how: (&str, &str),
    ) -> Result<()> {
        self.tell(&Fact::Closed(Closed {
            closer_pid,
            ..closing(ends, bytes, how)?
        }))
    }

    /// As [`Witness::closed`], where `local` has sent something again.
    pub(crate) fn closed_resending(
        &self,
        ends: Ends,
        bytes: (usize, usize),
        how: (&str, &str),
        resent: Resent,
    ) -> Result<()> {
        self.tell(&Fact::Closed(Closed {
            resent,
            ..closing(ends, bytes, how)?
        }))
    }

    /// One connection to a listener of its own, both ends held by this thread.
    pub(crate) fn pair(&self, ip: IpAddr) -> Result<()> {
        let listener = self.listen(any_port(ip))?;
        let _client = self.connect(listener.reachable_at())?;
        self.accept(&listener)?;
        Ok(())
    }
}

/// The address with IPv4-mapped IPv6 as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The local address of an attempt without a route: that of the remote's family,
/// where the socket has none of its own.
const fn unsent_ip(local: IpAddr, remote: IpAddr) -> IpAddr {
    match (local, remote.to_canonical()) {
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (local, _) => local.to_canonical(),
    }
}

/// The end of a connection that this process has closed.
fn closing(
    (local, remote): Ends,
    (sent, received): (usize, usize),
    (closed_by, error): (&str, &str),
) -> Result<Closed> {
    Ok(Closed {
        local: canonical(local),
        remote: canonical(remote),
        netns_ino: netns_ino()?,
        sent: sent.try_into()?,
        received: received.try_into()?,
        closed_by: closed_by.to_owned(),
        error: error.to_owned(),
        resent: Resent::Unknown,
        closer_pid: std::process::id(),
    })
}

fn is_v4_mapped(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().to_canonical().is_ipv4()
}

/// Waits until the socket is ready for `events`.
pub(crate) fn poll(socket: &OwnedFd, events: rustix::event::PollFlags) -> Result<()> {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        socket.as_fd(),
        events,
    )];
    rustix::event::poll(&mut fds, None).context("poll")?;
    Ok(())
}
