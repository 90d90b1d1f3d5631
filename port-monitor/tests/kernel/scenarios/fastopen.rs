//! TCP Fast Open: connections that begin with a write.

use std::{
    fs,
    io::{Read as _, Write as _},
    mem,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{SendFlags, SocketFlags},
};

use crate::{
    fact::{Ending, Witness},
    scenarios::{closing, places},
    socket::{Listener, V4, any_port, local, open, peer, set_tcp},
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
    // A rung without an acceptor learns of the connection when its end begins.
    witness.accepted_too_late(&early.listener, (client_at, server_at))?;
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
    // On the tracepoint rung the record says that it is over, and its end is not told.
    drop(early.server);
    witness.accepted_too_late(&early.listener, (early.client_at, early.server_at))?;
    // The client does not learn of it: its filter takes the answer.
    witness.attempted(&early.client, early.server_at, false, Ending::GivenUp)
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
    /// In a network namespace of its own, where nobody asks for cookies.
    fn begin(witness: &Witness) -> Result<Self> {
        without_cookies()?;
        Self::begin_here(witness)
    }

    /// Where nobody asks for cookies.
    pub(super) fn begin_here(witness: &Witness) -> Result<Self> {
        let listener = listener(witness)?;
        let client = open(V4)?;
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
        return Err(std::io::Error::last_os_error()).context("setsockopt");
    }
    Ok(())
}

pub(super) fn listener(witness: &Witness) -> Result<Listener> {
    let socket = open(V4)?;
    crate::socket::bind(&socket, any_port(V4))?;
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
        return Err(std::io::Error::last_os_error()).context("TCP_INFO");
    }
    Ok(info.tcpi_options)
}
