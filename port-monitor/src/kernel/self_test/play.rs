//! The self-test's own connection: as far as it comes, and what stops it.

use std::{
    fmt,
    io::{self, PipeReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
};

/// Bytes the client sends, and the server.
pub(super) const FROM_CLIENT: u8 = 3;
pub(super) const FROM_SERVER: u8 = 5;

/// Who waits for the self-test, and how long.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// How long the packets of one connection may take.
    pub(super) limit: Duration,
    /// Readable, or closed at its other end: do not wait any longer.
    pub(super) stop: Option<Arc<PipeReader>>,
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reached {
    /// Nothing was done.
    Nothing,
    /// A socket has listened.
    Listening,
    /// The attempt was sent, and not answered.
    Connecting,
    /// Opened, used and closed.
    End,
}

/// What stopped it.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// A system call was refused.
    Refused {
        /// Its name.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
    /// No packet arrived for so long.
    Silence(Duration),
    /// The user wants the monitor to end.
    Stopped,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { call, error } => write!(f, "{call}: {error}"),
            Self::Silence(limit) => write!(f, "no packet of the self-test arrived in {limit:.1?}"),
            Self::Stopped => f.write_str("the self-test was stopped by a signal"),
        }
    }
}

/// What came of a connection.
#[derive(Debug)]
pub(super) struct Played {
    /// How far it came.
    pub(super) reached: Reached,
    /// What stopped it before its end.
    pub(super) obstacle: Option<Obstacle>,
    /// Where it was to lead to; from [`Reached::Listening`] on.
    pub(super) server: SocketAddr,
    /// Where it came from; from [`Reached::Connecting`] on.
    pub(super) client: SocketAddr,
    /// An attempt beside it that the kernel refused before its SYN: where to, and why.
    pub(super) unsent: Option<(SocketAddr, Errno)>,
}

/// One connection to ourselves. `None` where the host has no such family.
pub(super) fn play(addr: IpAddr, patience: &Patience) -> Option<Played> {
    let nowhere = SocketAddr::new(addr, 0);
    let mut played = Played {
        reached: Reached::Nothing,
        obstacle: None,
        server: nowhere,
        client: nowhere,
        unsent: None,
    };
    match attempt(addr, patience, &mut played) {
        Err(Obstacle::Refused {
            call: "socket" | "bind",
            error,
        }) if addr.is_ipv6() && is_absent(&error) => return None,
        Err(obstacle) => played.obstacle = Some(obstacle),
        Ok(()) => {
            played.reached = Reached::End;
            played.unsent = attempt_unsent(addr);
        }
    }
    Some(played)
}

/// An attempt to where TCP leads nobody: no SYN is sent, wherever the host's routes lead.
fn attempt_unsent(addr: IpAddr) -> Option<(SocketAddr, Errno)> {
    const DISCARD: u16 = 9;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = match addr {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::BROADCAST, DISCARD)),
        IpAddr::V6(_) => SocketAddr::from((all_nodes, DISCARD)),
    };
    let socket = open(addr).ok()?;
    let errno = connect(&socket, &to).err()?;
    (errno != Errno::INPROGRESS).then_some((to, errno))
}

/// The family is not compiled in, is off, or has no loopback address.
fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::NODEV];
    Errno::from_io_error(error).is_some_and(|errno| absent.contains(&errno))
}

fn attempt(addr: IpAddr, patience: &Patience, played: &mut Played) -> Result<(), Obstacle> {
    let waiting = Waiting {
        patience,
        deadline: Instant::now() + patience.limit,
    };
    let listener = TcpListener::bind((addr, 0)).map_err(refused("bind"))?;
    played.server = listener.local_addr().map_err(refused("getsockname"))?;
    played.reached = Reached::Listening;
    let client = open(addr)?;
    match connect(&client, &played.server) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(refused("connect")(errno.into())),
    }
    let mut stream = TcpStream::from(client);
    played.client = stream.local_addr().map_err(refused("getsockname"))?;
    played.reached = Reached::Connecting;
    waiting.until_ready(&stream, PollFlags::OUT)?;
    if let Some(error) = stream.take_error().map_err(refused("getsockopt"))? {
        return Err(refused("connect")(error));
    }
    stream.set_nonblocking(false).map_err(refused("fcntl"))?;
    waiting.until_ready(&listener, PollFlags::IN)?;
    let (mut accepted, _) = listener.accept().map_err(refused("accept"))?;
    waiting.exchange(&mut stream, &mut accepted, FROM_CLIENT)?;
    waiting.exchange(&mut accepted, &mut stream, FROM_SERVER)?;
    // The client closes first, and the server has seen it when it closes.
    drop(stream);
    waiting.until_ready(&accepted, PollFlags::IN)?;
    accepted.read(&mut [0]).map_err(refused("read"))?;
    Ok(())
}

fn open(addr: IpAddr) -> Result<OwnedFd, Obstacle> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, SocketType::STREAM, flags, None)
        .map_err(|errno| refused("socket")(errno.into()))
}

fn refused(call: &'static str) -> impl Fn(io::Error) -> Obstacle {
    move |error| Obstacle::Refused { call, error }
}

/// Waits for packets, but not for ever.
struct Waiting<'a> {
    patience: &'a Patience,
    deadline: Instant,
}

impl Waiting<'_> {
    /// Waits until the socket is ready.
    fn until_ready(&self, socket: &impl AsFd, wanted: PollFlags) -> Result<(), Obstacle> {
        let stop = self.patience.stop.as_deref().map(AsFd::as_fd);
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match wait(socket.as_fd(), wanted, stop, left) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(refused("poll")(errno.into())),
                Ok(Ready::Socket) => return Ok(()),
                Ok(Ready::Stop) => return Err(Obstacle::Stopped),
                Ok(Ready::Nothing) => return Err(Obstacle::Silence(self.patience.limit)),
            }
        }
    }

    /// Sends `bytes` bytes and receives them.
    fn exchange(
        &self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        bytes: u8,
    ) -> Result<(), Obstacle> {
        let mut buffer = vec![0; usize::from(bytes)];
        from.write_all(&buffer).map_err(refused("write"))?;
        self.until_ready(to, PollFlags::IN)?;
        to.read_exact(&mut buffer).map_err(refused("read"))
    }
}

/// What was ready first.
enum Ready {
    Socket,
    Stop,
    Nothing,
}

fn wait(
    socket: BorrowedFd<'_>,
    wanted: PollFlags,
    stop: Option<BorrowedFd<'_>>,
    left: Duration,
) -> Result<Ready, Errno> {
    let mut fds = vec![PollFd::from_borrowed_fd(socket, wanted)];
    fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
    let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    poll(&mut fds, Some(&timeout))?;
    let is_ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
    Ok(if is_ready(fds.first()) {
        Ready::Socket
    } else if is_ready(fds.get(1)) {
        Ready::Stop
    } else {
        Ready::Nothing
    })
}

#[cfg(test)]
mod tests {
    use crate::kernel::self_test::play::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn patience(limit: Duration) -> (Patience, io::PipeWriter) {
        let (stop, other_end) = io::pipe().unwrap();
        let stop = Some(Arc::new(stop));
        (Patience { limit, stop }, other_end)
    }

    #[test]
    fn a_connection_that_nothing_stops_comes_to_its_end() {
        let (patience, _other_end) = patience(Duration::from_mins(1));
        let played = play(LOOPBACK, &patience).unwrap();
        assert_eq!(played.reached, Reached::End, "{played:?}");
        assert!(played.obstacle.is_none(), "{played:?}");
        assert_eq!(played.server.ip(), LOOPBACK);
        assert_ne!(played.client.port(), played.server.port());
        let (to, errno) = played.unsent.unwrap();
        assert_eq!(
            (to.ip(), errno),
            (Ipv4Addr::BROADCAST.into(), Errno::NETUNREACH)
        );
    }

    #[test]
    fn who_waits_for_packets_is_told_when_none_came() {
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let (patience, _other_end) = patience(Duration::from_millis(20));
        let waiting = Waiting {
            patience: &patience,
            deadline: Instant::now() + patience.limit,
        };
        let waited = waiting.until_ready(&listener, PollFlags::IN);
        assert!(matches!(waited, Err(Obstacle::Silence(_))), "{waited:?}");
    }

    #[test]
    fn who_waits_for_packets_stops_when_the_user_wants_an_end() {
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let (patience, other_end) = patience(Duration::from_mins(1));
        let waiting = Waiting {
            patience: &patience,
            deadline: Instant::now() + patience.limit,
        };
        drop(other_end);
        let waited = waiting.until_ready(&listener, PollFlags::IN);
        assert!(matches!(waited, Err(Obstacle::Stopped)), "{waited:?}");
    }

    #[test]
    fn only_ipv6_may_be_absent() {
        let error = || io::Error::from(Errno::ADDRNOTAVAIL);
        assert!(is_absent(&error()));
        assert!(!is_absent(&Errno::PERM.into()));
        let (patience, _other_end) = patience(Duration::from_mins(1));
        // An address that no host has.
        let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let played = play(elsewhere, &patience).unwrap();
        assert_eq!(played.reached, Reached::Nothing, "{played:?}");
        let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        assert!(play(elsewhere.into(), &patience).is_none());
    }
}
