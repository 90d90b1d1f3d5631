//! TCP Fast Open: connections that begin with a write.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    mem,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        SendFlags, SocketFlags,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    fact::Witness,
    process::{await_go, pin, say},
    scenarios::{breaking::expect_error, closing, places},
    socket::{Listener, V4, V6, any_port, local, open, peer, set_tcp},
};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_fastopen";

/// `tcpi_options`: the SYN carried data that the peer acknowledged.
const SYN_DATA_ACKED: u8 = 32;

/// `sendto(MSG_FASTOPEN)` on an unconnected socket.
pub(super) fn sendto(witness: &Witness) -> Result<()> {
    let listener = listener(witness)?;
    send_first(witness, &listener)?;
    Ok(())
}

/// `TCP_FASTOPEN_CONNECT`: connect may wait for the first write.
pub(super) fn deferred(witness: &Witness) -> Result<()> {
    let listener = listener(witness)?;
    connect_first(witness, &listener)?;
    Ok(())
}

/// With a cookie from a first connection, both ways put data into the SYN.
pub(super) fn data_in_syn(witness: &Witness) -> Result<()> {
    let before = fs::read_to_string(SETTING).with_context(|| format!("read {SETTING}"))?;
    // 1 = client, 2 = server.
    fs::write(SETTING, "3").with_context(|| format!("write {SETTING}"))?;
    let listener = listener(witness)?;
    send_first(witness, &listener)?;
    for client in [
        send_first(witness, &listener)?,
        connect_first(witness, &listener)?,
    ] {
        ensure!(
            tcp_options(&client)? & SYN_DATA_ACKED != 0,
            "the SYN carried no data"
        );
    }
    fs::write(SETTING, before).with_context(|| format!("write {SETTING}"))
}

/// The server has read, answered and closed before the handshake is complete.
pub(super) fn closed_early(witness: &Witness) -> Result<()> {
    let early = Early::begin(witness)?;
    let (mut server, client_at, server_at) = (early.server, early.client_at, early.server_at);
    server.read_exact(&mut [0; REQUEST.len()])?;
    server.write_all(ANSWER)?;
    drop(server);
    // A backend without an acceptor learns of the connection when its end begins.
    witness.accepted_too_late(early.listener.at, (client_at, server_at))?;
    let mut client = complete(early.client)?;
    client.read_exact(&mut [0; ANSWER.len()])?;
    closing::expect_end(&mut client)?;
    let client = OwnedFd::from(client);
    witness.connected(&client, false)?;
    drop(client);
    witness.closed(
        (server_at, client_at),
        (ANSWER.len(), REQUEST.len()),
        ("local", ""),
    )?;
    witness.closed(
        (client_at, server_at),
        (REQUEST.len(), ANSWER.len()),
        ("peer", ""),
    )
}

/// The server closes without reading, before the handshake is complete.
pub(super) fn reset_early(witness: &Witness) -> Result<()> {
    let early = Early::begin(witness)?;
    drop(early.server);
    let (client_at, server_at) = (early.client_at, early.server_at);
    // A backend without an acceptor learns of the connection when it is over.
    witness.accepted_too_late(early.listener.at, (client_at, server_at))?;
    witness.closed(
        (server_at, client_at),
        (0, REQUEST.len()),
        ("local-reset", ""),
    )?;
    // The client does not learn of it: its filter takes the answer.
    witness.gave_up(early.client, server_at, false)
}

/// The server closes its listener while a request waits there whose handshake is not complete.
pub(super) fn listener_closed(witness: &Witness) -> Result<()> {
    for listener in listeners(witness)? {
        let client = request(&listener)?;
        crate::socket::poll(&listener.socket, PollFlags::IN)?;
        let (client_at, server_at) = (local(&client)?, listener.at);
        drop(listener);
        // It is told when it is known to have come.
        witness.left_waiting(server_at, (client_at, server_at))?;
        witness.closed(
            (server_at, client_at),
            (0, REQUEST.len()),
            ("local-reset", ""),
        )?;
        // The client does not learn of it: its filter takes the answer.
        witness.gave_up(client, server_at, false)?;
    }
    Ok(())
}

/// The server wants no other connection: it closes its listener once it has accepted, before the
/// handshake is complete.
pub(super) fn one_alone(witness: &Witness) -> Result<()> {
    let Early {
        listener,
        client,
        mut server,
        client_at,
        server_at,
    } = Early::begin(witness)?;
    drop(listener);
    // A backend without an acceptor tells of it when the handshake is complete.
    witness.accepted_too_late(server_at, (client_at, server_at))?;
    server.read_exact(&mut [0; REQUEST.len()])?;
    let client = OwnedFd::from(complete(client)?);
    poll(&mut [PollFd::new(&client, PollFlags::OUT)], None)?;
    witness.connected(&client, false)?;
    drop(client);
    closing::expect_end(&mut server)?;
    drop(server);
    witness.closed((client_at, server_at), (REQUEST.len(), 0), ("local", ""))?;
    witness.closed((server_at, client_at), (0, REQUEST.len()), ("peer", ""))
}

/// What a SYN carries counts once, whether the server takes it from there or not.
pub(super) fn bytes(witness: &Witness) -> Result<()> {
    let [takes, _] = listeners(witness)?;
    let takes_not = witness.listen(any_port(V4))?;
    for listener in [takes, takes_not] {
        let client = open(V4)?;
        let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
        rustix::net::sendto(&client, REQUEST, flags, &listener.at)?;
        witness.connected(&client, false)?;
        let mut server = TcpStream::from(witness.accept(&listener)?);
        let (client_at, server_at) = (local(&client)?, listener.at);
        let mut client = TcpStream::from(client);
        client.write_all(REQUEST)?;
        server.read_exact(&mut [0; 2 * REQUEST.len()])?;
        drop(client);
        closing::expect_end(&mut server)?;
        drop(server);
        let bytes = 2 * REQUEST.len();
        witness.closed((client_at, server_at), (bytes, 0), ("local", ""))?;
        witness.closed((server_at, client_at), (0, bytes), ("peer", ""))?;
    }
    Ok(())
}

/// The client is gone when the server answers, before the handshake is complete.
pub(super) fn reset_by_peer_early(witness: &Witness) -> Result<()> {
    let early = Early::begin(witness)?;
    let (mut server, client_at, server_at) = (early.server, early.client_at, early.server_at);
    server.read_exact(&mut [0; REQUEST.len()])?;
    witness.gave_up(early.client, server_at, false)?;
    server.write_all(ANSWER)?;
    expect_error(&mut server, Errno::CONNRESET)?;
    witness.accepted_too_late(early.listener.at, (client_at, server_at))?;
    witness.closed(
        (server_at, client_at),
        (ANSWER.len(), REQUEST.len()),
        ("peer-reset", "ECONNRESET"),
    )
}

/// `connect` leaves the SYN to the first write, which never comes.
pub(super) fn deferred_and_closed(witness: &Witness) -> Result<()> {
    let listeners = listeners(witness)?;
    for listener in &listeners {
        let client = defer(listener.at)?;
        witness.gave_up(client, listener.at, false)?;
    }
    Ok(())
}

/// The first write comes, and the connection about.
pub(super) fn deferred_and_written(witness: &Witness) -> Result<()> {
    let listeners = listeners(witness)?;
    for listener in &listeners {
        let client = defer(listener.at)?;
        rustix::io::write(&client, REQUEST)?;
        witness.connected(&client, false)?;
        witness.accept(listener)?;
    }
    Ok(())
}

/// `connect` was called before the monitor started, and the first write comes after that.
pub(crate) fn deferred_before(witness: &Witness) -> Result<()> {
    let [listener, _] = listeners(witness)?;
    let client = defer(listener.at)?;
    say("ready")?;
    await_go()?;
    rustix::io::write(&client, REQUEST)?;
    witness.connected(&client, false)?;
    witness.accept(&listener)?;
    Ok(())
}

/// One comes by Fast Open, and goes before the handshake is complete.
pub(crate) fn gone_early(witness: &Witness) -> Result<()> {
    let [listener, _] = listeners(witness)?;
    say("ready")?;
    await_go()?;
    let early = Early::at(listener)?;
    drop(early.server);
    witness.accepted_too_late(early.listener.at, (early.client_at, early.server_at))?;
    mem::forget(early.listener);
    Ok(())
}

/// They come by Fast Open to listeners that are closed before the handshakes are complete.
pub(crate) fn let_go(witness: &Witness) -> Result<()> {
    let listeners = listeners(witness)?;
    say("ready")?;
    await_go()?;
    for listener in listeners {
        let early = Early::at(listener)?;
        let (client_at, server_at) = (early.client_at, early.server_at);
        drop(early.listener);
        witness.accepted_too_late(server_at, (client_at, server_at))?;
        complete(early.client)?;
    }
    Ok(())
}

/// So many come to [`PREEMPTED_PORT`].
pub(crate) const PREEMPTED: usize = 150;

/// How long each is waited for.
const AWAITED: Duration = Duration::from_mins(1);

/// The port of the listener in a network namespace of its own.
pub(crate) const PREEMPTED_PORT: u16 = 7_000;

/// The server closes each connection before its handshake is complete, in a thread that
/// another one preempts again and again: there others come in, on the same processor.
pub(crate) fn preempted(witness: &Witness) -> Result<()> {
    without_cookies()?;
    let socket = open(V4)?;
    crate::socket::bind(&socket, (V4, PREEMPTED_PORT).into())?;
    set_tcp(&socket, libc::TCP_FASTOPEN, i32::try_from(PREEMPTED)?)?;
    let listener = witness.listen_on(socket, i32::try_from(PREEMPTED)?)?;
    // What is no Fast Open connection is never complete.
    set_socket_timeout(&listener.socket, Timeout::Recv, Some(AWAITED))?;
    say("ready")?;
    await_go()?;
    pin(0)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| come_in_first(&is_over));
        let closed = (1..=PREEMPTED).try_for_each(|number| {
            let client = request(&listener)?;
            let server = rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC);
            let server = server.with_context(|| format!("accept request {number}"))?;
            set_socket_timeout(&server, Timeout::Recv, Some(AWAITED))?;
            // So the close begins with a FIN.
            rustix::io::read(&server, &mut [0; REQUEST.len()])
                .with_context(|| format!("read request {number}"))?;
            drop(server);
            drop(client);
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        other
            .join()
            .map_err(|_| anyhow!("the other thread panicked"))??;
        closed
    })
}

/// Others come in, by a thread that all others make room for.
fn come_in_first(is_over: &AtomicBool) -> Result<()> {
    const PAUSE: Duration = Duration::from_micros(200);
    pin(0)?;
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the structure; 0 is the calling thread.
    let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
    ensure!(status == 0, "SCHED_FIFO: {}", io::Error::last_os_error());
    let listener = TcpListener::bind((V4, 0))?;
    while !is_over.load(Ordering::Relaxed) {
        let client = TcpStream::connect(listener.local_addr()?)?;
        drop(listener.accept()?);
        drop(client);
        thread::sleep(PAUSE);
    }
    Ok(())
}

const REQUEST: &[u8] = b"hello";
const ANSWER: &[u8] = b"good bye";

/// A Fast Open connection in which the client has not seen the server's SYN.
pub(super) struct Early {
    listener: Listener,
    client: OwnedFd,
    server: TcpStream,
    pub(super) client_at: SocketAddr,
    pub(super) server_at: SocketAddr,
}

/// Moves to a network namespace of its own, where nobody asks for cookies.
pub(super) fn without_cookies() -> Result<()> {
    // 1 = client, 2 = server, 4 and 512 = both without a cookie.
    const WITHOUT_COOKIES: &str = "519";
    places::enter_loopback_netns()?;
    fs::write(SETTING, WITHOUT_COOKIES).with_context(|| format!("write {SETTING}"))
}

impl Early {
    fn begin(witness: &Witness) -> Result<Self> {
        let [listener, _] = listeners(witness)?;
        Self::at(listener)
    }

    /// Where nobody asks for cookies.
    pub(super) fn begin_here(witness: &Witness) -> Result<Self> {
        Self::at(listener(witness)?)
    }

    fn at(listener: Listener) -> Result<Self> {
        let client = request(&listener)?;
        let server = rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC)?;
        let (server_at, client_at) = (local(&server)?, peer(&server)?);
        Ok(Self {
            listener,
            client,
            server: server.into(),
            client_at,
            server_at,
        })
    }

    /// Lets the client see the server's SYN, and waits for it: client and server.
    pub(super) fn complete(self) -> Result<(TcpStream, TcpStream)> {
        let client = complete(self.client)?;
        poll(&mut [PollFd::new(&client, PollFlags::OUT)], None)?;
        Ok((client, self.server))
    }
}

/// A client that has sent a request, and does not see the answer.
fn request(listener: &Listener) -> Result<OwnedFd> {
    let client = open(listener.at.ip())?;
    drop_all(&client)?;
    let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    let flags = flags | SendFlags::DONTWAIT;
    rustix::net::sendto(&client, REQUEST, flags, &listener.at)
        .or_else(|error| {
            if error == Errno::INPROGRESS {
                Ok(0)
            } else {
                Err(error)
            }
        })
        .context("sendto(MSG_FASTOPEN)")?;
    Ok(client)
}

/// Listeners, IPv4 and IPv6, in a network namespace of its own, where nobody asks for
/// cookies.
fn listeners(witness: &Witness) -> Result<[Listener; 2]> {
    without_cookies()?;
    Ok([listener_of(witness, V4)?, listener_of(witness, V6)?])
}

/// A socket whose SYN waits for the first write.
fn defer(at: SocketAddr) -> Result<OwnedFd> {
    let client = open(at.ip())?;
    set_tcp(&client, libc::TCP_FASTOPEN_CONNECT, 1)?;
    rustix::net::connect(&client, &at)?;
    let info = tcp_info(&client)?;
    ensure!(info.tcpi_unacked == 0, "a SYN was sent");
    Ok(client)
}

/// Lets no packet reach a socket.
fn drop_all(socket: &OwnedFd) -> Result<()> {
    let mut nothing = [libc::sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K)?,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: nothing.as_mut_ptr(),
    };
    set_option(socket, libc::SO_ATTACH_FILTER, &program)
}

/// Lets the server's SYN, which comes again, reach the client.
fn complete(client: OwnedFd) -> Result<TcpStream> {
    set_option(&client, libc::SO_DETACH_FILTER, &0_i32)?;
    Ok(client.into())
}

fn set_option<T>(socket: &OwnedFd, name: i32, value: &T) -> Result<()> {
    // SAFETY: the descriptor is open; the kernel reads as many bytes as `value` has.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const *value).cast(),
            libc::socklen_t::try_from(size_of::<T>())?,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error()).context("setsockopt");
    }
    Ok(())
}

pub(super) fn listener(witness: &Witness) -> Result<Listener> {
    listener_of(witness, V4)
}

fn listener_of(witness: &Witness, ip: IpAddr) -> Result<Listener> {
    let socket = open(ip)?;
    crate::socket::bind(&socket, any_port(ip))?;
    set_tcp(&socket, libc::TCP_FASTOPEN, 16)?;
    witness.listen_on(socket, 16)
}

fn send_first(witness: &Witness, listener: &Listener) -> Result<OwnedFd> {
    let client = open(V4)?;
    let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    rustix::net::sendto(&client, b"hello", flags, &listener.at).context("sendto(MSG_FASTOPEN)")?;
    witness.connected(&client, false)?;
    witness.accept(listener)?;
    Ok(client)
}

fn connect_first(witness: &Witness, listener: &Listener) -> Result<OwnedFd> {
    let client = open(V4)?;
    set_tcp(&client, libc::TCP_FASTOPEN_CONNECT, 1)?;
    rustix::net::connect(&client, &listener.at)?;
    rustix::io::write(&client, b"hello")?;
    witness.connected(&client, false)?;
    witness.accept(listener)?;
    Ok(client)
}

fn tcp_options(socket: &OwnedFd) -> Result<u8> {
    Ok(tcp_info(socket)?.tcpi_options)
}

fn tcp_info(socket: &OwnedFd) -> Result<libc::tcp_info> {
    // SAFETY: all-zero bytes are a valid `tcp_info`, plain numbers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of_val(&info))?;
    // SAFETY: the descriptor is open; the kernel writes at most `size` bytes
    // into `info`.
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
        return Err(io::Error::last_os_error()).context("TCP_INFO");
    }
    Ok(info)
}
