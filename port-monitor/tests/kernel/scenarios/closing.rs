//! How connections end: who does it, and what has gone over them by then.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{IntoRawFd as _, OwnedFd, RawFd},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::net::sockopt;

use crate::{
    fact::Witness,
    process::{Gate, await_go, fork, say},
    scenarios::opening::allow_files,
    socket::{Ends, Listener, V4, V6, any_port, local, peer},
};

/// What the client sends, and the server, in bytes.
pub(crate) const FROM_CLIENT: usize = 1_000;
pub(crate) const FROM_SERVER: usize = 5_000;

/// Each way.
const LARGE: usize = 1 << 20;

/// Rows of connections, connections of each, and the number of its first file: above those of
/// anything else.
const ROWS: u32 = 16;
const ROW: usize = 400;
const ROW_START: RawFd = 100;

/// Until nobody looks for the owners of a row any more.
const REST: Duration = Duration::from_millis(120);

/// A row is closed so much later than the one before it, after somebody was asked for.
const STEP: Duration = Duration::from_micros(500);

/// A connection: client, server, and where the client and the server are.
pub(super) fn connect(
    witness: &Witness,
    listener: &Listener,
    to: IpAddr,
) -> Result<(TcpStream, TcpStream, Ends)> {
    let client = witness.connect(SocketAddr::new(to, listener.at.port()))?;
    let server = witness.accept(listener)?;
    let ends = (local(&client)?, peer(&client)?);
    Ok((client.into(), server.into(), ends))
}

/// A connection over which both have sent something.
pub(super) fn used(
    witness: &Witness,
    at: IpAddr,
    to: IpAddr,
) -> Result<(TcpStream, TcpStream, Ends)> {
    used_for(witness, at, to, (FROM_CLIENT, FROM_SERVER))
}

fn used_for(
    witness: &Witness,
    at: IpAddr,
    to: IpAddr,
    (from_client, from_server): (usize, usize),
) -> Result<(TcpStream, TcpStream, Ends)> {
    let listener = witness.listen(any_port(at))?;
    let (mut client, mut server, ends) = connect(witness, &listener, to)?;
    client.write_all(&vec![1; from_client])?;
    server.read_exact(&mut vec![0; from_client])?;
    server.write_all(&vec![2; from_server])?;
    client.read_exact(&mut vec![0; from_server])?;
    Ok((client, server, ends))
}

/// Waits for the other end's FIN.
pub(super) fn expect_end(stream: &mut TcpStream) -> Result<()> {
    let read = stream.read(&mut [0]).context("wait for the end")?;
    ensure!(read == 0, "there is more data");
    Ok(())
}

pub(super) const fn swapped((client, server): Ends) -> Ends {
    (server, client)
}

fn client_first(witness: &Witness, at: IpAddr, to: IpAddr) -> Result<()> {
    client_first_for(witness, at, to, (FROM_CLIENT, FROM_SERVER))
}

/// Both send this many bytes, and the client closes first.
pub(super) fn client_first_for(
    witness: &Witness,
    at: IpAddr,
    to: IpAddr,
    (from_client, from_server): (usize, usize),
) -> Result<()> {
    let (client, mut server, ends) = used_for(witness, at, to, (from_client, from_server))?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    witness.closed(ends, (from_client, from_server), ("local", ""))?;
    witness.closed(swapped(ends), (from_server, from_client), ("peer", ""))
}

/// A connection is older than the monitor, and ends under it.
pub(crate) fn already_open(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let mut client = TcpStream::connect(listener.at)?;
    let mut server = TcpStream::from(rustix::net::accept(&listener.socket)?);
    let ends = (client.local_addr()?, client.peer_addr()?);
    client.write_all(&[1; FROM_CLIENT])?;
    server.read_exact(&mut [0; FROM_CLIENT])?;
    say("ready")?;
    await_go()?;
    server.write_all(&[2; FROM_SERVER])?;
    client.read_exact(&mut [0; FROM_SERVER])?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("local", ""))?;
    witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), ("peer", ""))
}

pub(super) fn by_client(witness: &Witness) -> Result<()> {
    client_first(witness, V4, V4)
}

pub(super) fn ipv6(witness: &Witness) -> Result<()> {
    client_first(witness, V6, V6)
}

/// An IPv6 listener, an IPv4 client.
pub(super) fn mapped(witness: &Witness) -> Result<()> {
    client_first(witness, "::".parse()?, V4)
}

pub(super) fn by_server(witness: &Witness) -> Result<()> {
    let (mut client, server, ends) = used(witness, V4, V4)?;
    drop(server);
    expect_end(&mut client)?;
    drop(client);
    witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("peer", ""))?;
    witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), ("local", ""))
}

/// The server answers after the client has said that it will send no more.
pub(super) fn half(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let (mut client, mut server, ends) = connect(witness, &listener, V4)?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            client.write_all(&vec![1; LARGE])?;
            client.shutdown(std::net::Shutdown::Write)?;
            let read = client.read_to_end(&mut Vec::new())?;
            ensure!(read == LARGE, "{read} bytes from the server");
            Ok(())
        });
        let read = server.read_to_end(&mut Vec::new())?;
        ensure!(read == LARGE, "{read} bytes from the client");
        server.write_all(&vec![2; LARGE])?;
        drop(server);
        sender.join().map_err(|_| anyhow!("thread panicked"))?
    })?;
    witness.closed(ends, (LARGE, LARGE), ("local", ""))?;
    witness.closed(swapped(ends), (LARGE, LARGE), ("peer", ""))
}

pub(super) fn zero_bytes(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let (client, mut server, ends) = connect(witness, &listener, V4)?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    witness.closed(ends, (0, 0), ("local", ""))?;
    witness.closed(swapped(ends), (0, 0), ("peer", ""))
}

/// `SO_LINGER` zero: the client sends an RST instead of a FIN.
pub(super) fn reset(witness: &Witness) -> Result<()> {
    let (client, mut server, ends) = used(witness, V4, V4)?;
    sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    drop(client);
    ensure!(server.read(&mut [0]).is_err(), "an orderly end");
    witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("local-reset", ""))?;
    let server_saw = ("peer-reset", "ECONNRESET");
    witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), server_saw)
}

/// The server closes with data unread, and sends an RST.
pub(super) fn unread(witness: &Witness) -> Result<()> {
    let (mut client, server, ends) = used(witness, V4, V4)?;
    client.write_all(b"more")?;
    drop(server);
    ensure!(client.read(&mut [0]).is_err(), "an orderly end");
    let client_sent = FROM_CLIENT + b"more".len();
    let client_saw = ("peer-reset", "ECONNRESET");
    witness.closed(ends, (client_sent, FROM_SERVER), client_saw)?;
    witness.closed(
        swapped(ends),
        (FROM_SERVER, client_sent),
        ("local-reset", ""),
    )
}

/// The client's socket is left to a child, which is killed: the kernel closes for
/// it, and the connection still belongs to who opened it.
pub(super) fn killed(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let (client, mut server, ends) = connect(witness, &listener, V4)?;
    let never = Gate::new()?;
    let child = fork(|| never.pass())?;
    let child_pid = child.pid();
    drop(client);
    child.kill()?;
    expect_end(&mut server)?;
    drop(server);
    witness.closed_by(child_pid, ends, (0, 0), ("local", ""))?;
    witness.closed(swapped(ends), (0, 0), ("peer", ""))
}

/// The client is gone, by RST, before anybody accepts.
pub(super) fn before_accept(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let client = witness.connect(listener.at)?;
    let ends = (local(&client)?, peer(&client)?);
    sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    drop(client);
    rustix::net::accept(&listener.socket).context("accept")?;
    witness.accepted_too_late(listener.at, ends)?;
    witness.closed(ends, (0, 0), ("local-reset", ""))?;
    witness.closed(swapped(ends), (0, 0), ("peer-reset", "ECONNRESET"))
}

/// Opens rows of connections and closes each of them by one call, which lets go of all its
/// files before it ends any connection, soon after another connection has come.
pub(crate) fn rows(_: &Witness) -> Result<()> {
    allow_files()?;
    say("ready")?;
    await_go()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let at = listener.local_addr()?;
    for row in 0..ROWS {
        let mut last = ROW_START;
        for _ in 0..ROW {
            let client = TcpStream::connect(at).context("connect")?;
            put(client.into())?;
            last = put(listener.accept().context("accept")?.0.into())?;
        }
        thread::sleep(REST);
        let _another = (TcpStream::connect(at)?, listener.accept()?);
        thread::sleep(STEP * row);
        // SAFETY: no memory is involved; only `put` has made files of these numbers.
        let result = unsafe { libc::syscall(libc::SYS_close_range, ROW_START, last, 0) };
        ensure!(result == 0, "close_range: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the socket the next number from [`ROW_START`] on.
fn put(socket: OwnedFd) -> Result<RawFd> {
    let put = rustix::io::fcntl_dupfd_cloexec(socket, ROW_START).context("duplicate a socket")?;
    Ok(put.into_raw_fd())
}
