//! Connections that a process takes out of its socket, or puts into one, by `TCP_REPAIR`:
//! no packet tells the peer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};

use super::closing::{FROM_CLIENT, FROM_SERVER, connect, expect_end, swapped, used};
use crate::{
    fact::{Ending, Witness},
    process::{await_go, say, wait_until},
    socket::{Ends, V4, V6, any_port, bind, info, local, open, peer, set_tcp},
};

/// `TCP_REPAIR_QUEUE`.
const RECEIVED: libc::c_int = 1;
const TO_SEND: libc::c_int = 2;
/// Sequence numbers, and what both ends shift their windows by.
const NUMBERS: (libc::c_int, libc::c_int) = (100_000, 700_000);
const SCALES: (u32, u32) = (7, 7);

/// What goes over a connection after it was restored.
const MORE: usize = 700;
/// What a connection is restored with, sent and not acknowledged, and received and not read.
const UNACKNOWLEDGED: usize = 300;
const UNREAD: usize = 200;

/// What a connection goes on from.
struct Checkpoint {
    ends: Ends,
    /// The next number to send, and the next to receive.
    numbers: (libc::c_int, libc::c_int),
    /// What windows sent and received are shifted by.
    scales: (u32, u32),
}

impl Checkpoint {
    /// Takes a connection away when all it has sent is acknowledged.
    fn take(socket: OwnedFd) -> Result<Self> {
        await_quiet(&socket)?;
        set_tcp(&socket, libc::TCP_REPAIR, 1)?;
        let scales = get_scales(&socket)?;
        let number = |queue| {
            set_tcp(&socket, libc::TCP_REPAIR_QUEUE, queue)?;
            get_tcp(&socket, libc::TCP_QUEUE_SEQ)
        };
        let checkpoint = Self {
            ends: (local(&socket)?, peer(&socket)?),
            numbers: (number(TO_SEND)?, number(RECEIVED)?),
            scales,
        };
        drop(socket);
        Ok(checkpoint)
    }

    /// Puts it into a socket, which stays in repair.
    fn restore_unseen(&self) -> Result<OwnedFd> {
        let socket = open(self.ends.0.ip())?;
        set_tcp(&socket, libc::TCP_REPAIR, 1)?;
        bind(&socket, self.ends.0)?;
        let (to_send, to_receive) = self.numbers;
        for (queue, number) in [(TO_SEND, to_send), (RECEIVED, to_receive)] {
            set_tcp(&socket, libc::TCP_REPAIR_QUEUE, queue)?;
            set_tcp(&socket, libc::TCP_QUEUE_SEQ, number)?;
        }
        rustix::net::connect(&socket, &self.ends.1).context("connect in repair")?;
        // `TCPOPT_WINDOW`.
        set_repair_option(&socket, 3, self.scales.0 | self.scales.1 << 16)?;
        Ok(socket)
    }

    /// Restores the connection, and writes that down.
    fn restore(&self, witness: &Witness) -> Result<OwnedFd> {
        let socket = self.restore_unseen()?;
        witness.attempted(&socket, self.ends.1, true, Ending::Restored)?;
        Ok(socket)
    }
}

/// Two ends that nothing but `restore` has made, in repair.
fn made_up(at: (SocketAddr, SocketAddr)) -> [Checkpoint; 2] {
    let (one, other) = NUMBERS;
    [(at, (one, other)), ((at.1, at.0), (other, one))].map(|(ends, numbers)| Checkpoint {
        ends,
        numbers,
        scales: SCALES,
    })
}

/// Two free ports.
fn two_ports(ip: std::net::IpAddr) -> Result<(SocketAddr, SocketAddr)> {
    let sockets = (open(ip)?, open(ip)?);
    bind(&sockets.0, any_port(ip))?;
    bind(&sockets.1, any_port(ip))?;
    Ok((local(&sockets.0)?, local(&sockets.1)?))
}

/// Lets the socket speak to its peer again.
fn end_repair(socket: OwnedFd) -> Result<TcpStream> {
    set_tcp(&socket, libc::TCP_REPAIR, 0)?;
    Ok(socket.into())
}

/// Waits until the peer has acknowledged everything.
fn await_quiet(socket: &OwnedFd) -> Result<()> {
    wait_until(|| Ok(unsent(socket)? == 0)).context("wait for the peer")
}

fn get_scales(socket: &OwnedFd) -> Result<(u32, u32)> {
    let scales = info(socket)?.tcpi_snd_rcv_wscale;
    Ok(((scales & 15).into(), (scales >> 4).into()))
}

/// Both ends of a connection go, and neither learns of it.
pub(super) fn taken(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let (client, server, ends) = used(witness, ip, ip)?;
        Checkpoint::take(client.into())?;
        witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("taken-away", ""))?;
        Checkpoint::take(server.into())?;
        witness.closed(
            swapped(ends),
            (FROM_SERVER, FROM_CLIENT),
            ("taken-away", ""),
        )?;
    }
    Ok(())
}

/// The peer has closed its half already; the other end is closed after that.
pub(super) fn taken_half_closed(witness: &Witness) -> Result<()> {
    let (client, server, ends) = used(witness, V4, V4)?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut server = server;
    expect_end(&mut server)?;
    let (client, server): (OwnedFd, OwnedFd) = (client.into(), server.into());
    // Its FIN is acknowledged.
    await_quiet(&client)?;
    for (socket, ends, bytes) in [
        (server, swapped(ends), (FROM_SERVER, FROM_CLIENT)),
        (client, ends, (FROM_CLIENT, FROM_SERVER)),
    ] {
        Checkpoint::take(socket)?;
        witness.closed(ends, bytes, ("taken-away", ""))?;
    }
    Ok(())
}

/// A connection is put into two sockets, goes on, and ends as others do.
pub(super) fn restored(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let at = two_ports(ip)?;
        let [one, other] = made_up(at);
        let (one, other) = (one.restore(witness)?, other.restore(witness)?);
        let (mut one, mut other) = (end_repair(one)?, end_repair(other)?);
        one.write_all(&[1; FROM_CLIENT])?;
        other.read_exact(&mut [0; FROM_CLIENT])?;
        other.write_all(&[2; FROM_SERVER])?;
        one.read_exact(&mut [0; FROM_SERVER])?;
        drop(one);
        expect_end(&mut other)?;
        drop(other);
        witness.closed(at, (FROM_CLIENT, FROM_SERVER), ("local", ""))?;
        witness.closed(swapped(at), (FROM_SERVER, FROM_CLIENT), ("peer", ""))?;
    }
    Ok(())
}

/// A connection leaves one socket and goes on in another, without its peer's knowledge.
pub(super) fn moved(witness: &Witness) -> Result<()> {
    let (client, mut server, ends) = used(witness, V4, V4)?;
    // What the client has not acknowledged yet would come again, to nobody.
    let watched: OwnedFd = server.try_clone()?.into();
    await_quiet(&watched)?;
    drop(watched);
    let checkpoint = Checkpoint::take(client.into())?;
    witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("taken-away", ""))?;
    let mut client = end_repair(checkpoint.restore(witness)?)?;
    client.write_all(&[1; MORE])?;
    server.read_exact(&mut [0; MORE])?;
    server.write_all(&[2; MORE])?;
    client.read_exact(&mut [0; MORE])?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    witness.closed(ends, (MORE, MORE), ("local", ""))?;
    let bytes = (FROM_SERVER + MORE, FROM_CLIENT + MORE);
    witness.closed(swapped(ends), bytes, ("peer", ""))
}

/// What the sockets are restored with counts as theirs: what was sent and has to be sent
/// again, and what was received and not read.
pub(super) fn restored_queues(witness: &Witness) -> Result<()> {
    let at = two_ports(V4)?;
    let [one, other] = made_up(at);
    let (one, other) = (one.restore(witness)?, other.restore(witness)?);
    set_tcp(&one, libc::TCP_REPAIR_QUEUE, RECEIVED)?;
    rustix::net::send(&one, &[2; UNREAD], rustix::net::SendFlags::empty())?;
    set_tcp(&one, libc::TCP_REPAIR_QUEUE, TO_SEND)?;
    rustix::net::send(&one, &[1; UNACKNOWLEDGED], rustix::net::SendFlags::empty())?;
    // The peer has sent what is received.
    set_tcp(&other, libc::TCP_REPAIR_QUEUE, TO_SEND)?;
    rustix::net::send(&other, &[2; UNREAD], rustix::net::SendFlags::empty())?;
    let (mut one, mut other) = (end_repair(one)?, end_repair(other)?);
    other.read_exact(&mut [0; UNACKNOWLEDGED])?;
    one.read_exact(&mut [0; UNREAD])?;
    drop(one);
    expect_end(&mut other)?;
    drop(other);
    witness.closed(at, (UNACKNOWLEDGED, UNREAD), ("local", ""))?;
    witness.closed(swapped(at), (UNREAD, UNACKNOWLEDGED), ("peer", ""))
}

/// A socket in repair listens: its connections come by handshakes, like others. Where they
/// are in repair themselves, their ends are told to nobody.
pub(super) fn listening(witness: &Witness) -> Result<()> {
    let socket = open(V4)?;
    set_tcp(&socket, libc::TCP_REPAIR, 1)?;
    bind(&socket, any_port(V4))?;
    let listener = witness.listen_on(socket, 8)?;
    let (client, server, ends) = connect(witness, &listener, V4)?;
    let server: OwnedFd = server.into();
    let is_told = get_tcp(&server, libc::TCP_REPAIR)? == 0;
    drop(server);
    if is_told {
        let mut client = client;
        expect_end(&mut client)?;
        drop(client);
        witness.closed(swapped(ends), (0, 0), ("local", ""))?;
        return witness.closed(ends, (0, 0), ("peer", ""));
    }
    witness.closed(swapped(ends), (0, 0), ("taken-away", ""))?;
    drop(client);
    witness.closed(ends, (0, 0), ("local", "ECONNRESET"))
}

/// A connection that was restored is older than the monitor, and one that is in repair.
pub(crate) fn already_restored(witness: &Witness) -> Result<()> {
    let at = two_ports(V4)?;
    let [one, other] = made_up(at);
    let (one, other) = (one.restore_unseen()?, other.restore_unseen()?);
    let mut one = end_repair(one)?;
    say("ready")?;
    await_go()?;
    let mut other = end_repair(other)?;
    one.write_all(&[1; FROM_CLIENT])?;
    other.read_exact(&mut [0; FROM_CLIENT])?;
    let one: OwnedFd = one.into();
    await_quiet(&one)?;
    ensure!(get_tcp(&one, libc::TCP_REPAIR)? == 0, "still in repair");
    Checkpoint::take(one)?;
    witness.closed(at, (FROM_CLIENT, 0), ("taken-away", ""))?;
    Checkpoint::take(other.into())?;
    witness.closed(swapped(at), (0, FROM_CLIENT), ("taken-away", ""))
}

/// A TCP option that is a number.
fn get_tcp(socket: &OwnedFd, option: libc::c_int) -> Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value))?;
    // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes to
    // `value`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("get TCP option {option}"));
    }
    Ok(value)
}

/// Tells a socket in repair what its connection agreed on, by the number of a TCP option.
fn set_repair_option(socket: &OwnedFd, code: u32, value: u32) -> Result<()> {
    let pair = [code, value];
    let size = libc::socklen_t::try_from(size_of_val(&pair))?;
    // SAFETY: the descriptor is open, and the kernel reads `size` bytes of `pair`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR_OPTIONS,
            pair.as_ptr().cast(),
            size,
        )
    };
    let error = std::io::Error::last_os_error();
    ensure!(status == 0, "TCP_REPAIR_OPTIONS: {error}");
    Ok(())
}

/// Bytes that the peer has not acknowledged.
fn unsent(socket: &OwnedFd) -> Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one number.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    ensure!(status == 0, "TIOCOUTQ: {}", std::io::Error::last_os_error());
    Ok(bytes)
}
