//! How much has been sent: never more than was written, and what the peer has and what is
//! on its way to it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{SendFlags, sockopt},
};

use crate::{
    fact::Witness,
    scenarios::{
        breaking::expect_error,
        closing::{FROM_CLIENT, FROM_SERVER, connect, expect_end, swapped, used},
    },
    socket::{V4, V6, any_port, set_deaf},
};

/// More than the window of a peer that does not read.
const MUCH: usize = 8 << 20;

/// Bytes written that no segment has carried yet (`SIOCOUTQNSD`).
pub(super) fn unsent(socket: impl AsFd) -> Result<usize> {
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open; the kernel writes one number.
    let status = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("SIOCOUTQNSD");
    }
    Ok(usize::try_from(bytes)?)
}

/// Bytes that segments have carried, as often as it was tried: `tcpi_bytes_sent`, the 26th
/// word of eight bytes.
pub(super) fn attempted(socket: impl AsFd) -> Result<u64> {
    const AT: usize = 200;
    let mut info = [0_u8; AT + 8];
    let mut size = libc::socklen_t::try_from(info.len())?;
    // SAFETY: the descriptor is open; the kernel writes at most `size` bytes.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("TCP_INFO");
    }
    let word = info.last_chunk().context("no word")?;
    Ok(u64::from_ne_bytes(*word))
}

/// Writes this much, or what the socket takes; tells how much that is.
pub(super) fn flood(client: &TcpStream, bytes: usize) -> Result<usize> {
    client.set_nonblocking(true)?;
    let bytes = vec![1; bytes];
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match (&*client).write(rest) {
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("write"),
        }
    }
    client.set_nonblocking(false)?;
    Ok(written)
}

/// Ends it by a reset.
pub(super) fn reset(stream: TcpStream) -> Result<()> {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Probes of a connection where nothing is said are nothing that is sent.
pub(super) fn keepalive(witness: &Witness) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    let (client, mut server, ends) = used(witness, V4, V4)?;
    sockopt::set_tcp_keepidle(&client, SECOND)?;
    sockopt::set_tcp_keepintvl(&client, SECOND)?;
    sockopt::set_socket_keepalive(&client, true)?;
    // Two probes, answered.
    thread::sleep(3 * SECOND);
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("local", ""))?;
    witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), ("peer", ""))
}

/// Urgent data is data.
pub(super) fn urgent(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let (client, mut server, ends) = used(witness, ip, ip)?;
        for _ in 0..2 {
            rustix::net::send(&client, b"now!", SendFlags::OOB).context("send(MSG_OOB)")?;
            // All but the last byte, which is urgent.
            server.read_exact(&mut [0; 3])?;
        }
        drop(client);
        expect_end(&mut server)?;
        drop(server);
        let from_client = FROM_CLIENT + 8;
        witness.closed(ends, (from_client, FROM_SERVER), ("local", ""))?;
        witness.closed(swapped(ends), (FROM_SERVER, from_client), ("peer", ""))?;
    }
    Ok(())
}

/// What is on its way when a reset ends the connection has been sent, also if the peer never
/// takes it, and whoever ends it.
pub(super) fn on_the_way(witness: &Witness) -> Result<()> {
    for (by_client, bytes) in [(true, 1), (true, 3_000), (false, 3_000)] {
        let (mut client, server, ends) = used(witness, V4, V4)?;
        set_deaf(&server, true)?;
        let written = FROM_CLIENT + flood(&client, bytes)?;
        let sent = written - unsent(&client)?;
        ensure!(sent == written, "{sent} of {written} bytes were sent");
        let (client_saw, server_saw) = if by_client {
            reset(client)?;
            set_deaf(&server, false)?;
            reset(server)?;
            (("local-reset", ""), ("local-reset", ""))
        } else {
            reset(server)?;
            expect_error(&mut client, Errno::CONNRESET)?;
            (("peer-reset", "ECONNRESET"), ("local-reset", ""))
        };
        witness.closed(ends, (sent, FROM_SERVER), client_saw)?;
        witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), server_saw)?;
    }
    Ok(())
}

/// A peer that does not read shuts its window: what waits for it is not sent, and no more is
/// told by the probes of the window.
pub(super) fn window_shut(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let listener = witness.listen(any_port(ip))?;
        let (client, mut server, ends) = connect(witness, &listener, ip)?;
        let mut written = flood(&client, MUCH)?;
        // Until nothing moves: the window is shut, and what was sent was taken.
        let (mut waiting, mut took) = (unsent(&client)?, 0);
        while took < 3 {
            thread::sleep(Duration::from_millis(300));
            written += flood(&client, MUCH)?;
            let now = unsent(&client)?;
            took = if now == waiting { took + 1 } else { 0 };
            waiting = now;
        }
        ensure!(0 < waiting && waiting < written, "{waiting} of {written}");
        let sent = written - waiting;
        let received = rustix::io::ioctl_fionread(&server)?;
        reset(client)?;
        // What was not read is still there.
        while server.read(&mut [0; 1 << 13]).is_ok_and(|bytes| bytes > 0) {}
        drop(server);
        witness.closed(ends, (sent, 0), ("local-reset", ""))?;
        let received = usize::try_from(received)?;
        witness.closed(swapped(ends), (0, received), ("peer-reset", "ECONNRESET"))?;
    }
    Ok(())
}
