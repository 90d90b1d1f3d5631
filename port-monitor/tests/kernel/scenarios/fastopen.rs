//! TCP Fast Open: connections that begin with a write.

use std::{
    fs, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::SendFlags;

use crate::{
    fact::Witness,
    socket::{Listener, V4, any_port, open, set_tcp},
};

/// `tcpi_options`: the SYN carried data that the peer acknowledged.
const SYN_DATA_ACKED: u8 = 32;

/// `sendto(MSG_FASTOPEN)` on an unconnected socket.
pub(super) fn sendto(witness: &Witness) -> Result<()> {
    let listener = fastopen_listener(witness)?;
    send_first(witness, &listener)?;
    Ok(())
}

/// `TCP_FASTOPEN_CONNECT`: connect may wait for the first write.
pub(super) fn deferred(witness: &Witness) -> Result<()> {
    let listener = fastopen_listener(witness)?;
    connect_first(witness, &listener)?;
    Ok(())
}

/// With a cookie from a first connection, both ways put data into the SYN.
pub(super) fn data_in_syn(witness: &Witness) -> Result<()> {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_fastopen";
    let before = fs::read_to_string(SETTING).with_context(|| format!("read {SETTING}"))?;
    // 1 = client, 2 = server.
    fs::write(SETTING, "3").with_context(|| format!("write {SETTING}"))?;
    let listener = fastopen_listener(witness)?;
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

fn fastopen_listener(witness: &Witness) -> Result<Listener> {
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
