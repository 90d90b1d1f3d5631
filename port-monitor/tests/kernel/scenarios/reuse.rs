//! Addresses and ports used again while the kernel still remembers who had them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::sockopt;

use crate::{
    fact::Witness,
    process::wait_until,
    scenarios::{closing::expect_end, places},
    socket::{Listener, V4, any_port, bind, local, open},
};

/// What the client sends in each of two connections between the same addresses.
const SENT: [usize; 2] = [100, 2_000];

/// The kernel gives away what is in TIME-WAIT when that has lasted a second.
const REUSABLE_AFTER: Duration = Duration::from_millis(1_100);

/// The client has closed first, and connects from the same port again.
pub(super) fn by_client(witness: &Witness) -> Result<()> {
    const SWITCH: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
    places::enter_loopback_netns()?;
    fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
    let listener = witness.listen(any_port(V4))?;
    let mut from = any_port(V4);
    for sent in SENT {
        let (client, server) = used_from(witness, &mut from, &listener, sent)?;
        end(client, server)?;
        witness.closed((from, listener.at), (sent, 0), ("local", ""))?;
        witness.closed((listener.at, from), (0, sent), ("peer", ""))?;
        thread::sleep(REUSABLE_AFTER);
    }
    Ok(())
}

/// The server has closed first, and the client is back at once.
pub(super) fn by_server(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let mut from = any_port(V4);
    for sent in SENT {
        let (client, server) = used_from(witness, &mut from, &listener, sent)?;
        end(server, client)?;
        witness.closed((from, listener.at), (sent, 0), ("peer", ""))?;
        witness.closed((listener.at, from), (0, sent), ("local", ""))?;
    }
    Ok(())
}

/// A connection from the address, which is filled in where it is open, over which
/// the client has sent something.
fn used_from(
    witness: &Witness,
    from: &mut SocketAddr,
    listener: &Listener,
    sent: usize,
) -> Result<(TcpStream, TcpStream)> {
    let client = open(V4)?;
    sockopt::set_socket_reuseaddr(&client, true)?;
    bind(&client, *from)?;
    *from = local(&client)?;
    rustix::net::connect(&client, &listener.at)
        .with_context(|| format!("connect from {from} to {}", listener.at))?;
    witness.connected(&client, true)?;
    let mut server = TcpStream::from(witness.accept(listener)?);
    let mut client = TcpStream::from(client);
    client.write_all(&vec![1; sent])?;
    server.read_exact(&mut vec![0; sent])?;
    Ok((client, server))
}

/// Ends a connection and waits until neither end is there any more.
fn end(mut first: TcpStream, mut second: TcpStream) -> Result<()> {
    first.shutdown(std::net::Shutdown::Write)?;
    expect_end(&mut second)?;
    second.shutdown(std::net::Shutdown::Write)?;
    expect_end(&mut first)?;
    await_gone(&first)?;
    await_gone(&second)
}

/// Waits until the connection is over for the kernel too.
pub(super) fn await_gone(end: &TcpStream) -> Result<()> {
    wait_until(|| Ok(end.peer_addr().is_err())).context("wait for the end")
}
