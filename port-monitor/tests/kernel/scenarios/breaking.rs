//! Connections that break: nobody closes them, or not in order.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{event::PollFlags, io::Errno, net::sockopt};

use crate::{
    diag,
    fact::{Resent, Witness},
    process::wait_until,
    scenarios::{
        closing::{FROM_CLIENT, FROM_SERVER, swapped, used},
        places,
    },
    socket::{V4, V6, any_port, dropped, local, peer, poll, set_deaf},
};

/// How long a client waits for an answer, ms: long enough to ask again, after 200
/// and after 600.
const PATIENCE_MS: u32 = 1_000;

/// Waits until the connection is broken, for this reason.
pub(super) fn expect_error(stream: &mut TcpStream, errno: Errno) -> Result<()> {
    match stream.read(&mut [0]) {
        Err(error) if error.raw_os_error() == Some(errno.raw_os_error()) => Ok(()),
        other => bail!("{other:?}, not {errno}"),
    }
}

/// The client's end is destroyed from outside, which tells the server by RST.
pub(super) fn destroyed(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let (mut client, mut server, ends) = used(witness, ip, ip)?;
        diag::destroy(ends)?;
        expect_error(&mut client, Errno::CONNABORTED)?;
        expect_error(&mut server, Errno::CONNRESET)?;
        let (client_saw, server_saw) = (
            ("local-reset", "ECONNABORTED"),
            ("peer-reset", "ECONNRESET"),
        );
        witness.closed(ends, (FROM_CLIENT, FROM_SERVER), client_saw)?;
        witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), server_saw)?;
    }
    Ok(())
}

/// The server does not answer any more: neither what one client sends, nor when
/// another one asks whether it is still there.
pub(super) fn timed_out(witness: &Witness) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    let (mut idle, mut idle_server, idle_ends) = used(witness, V4, V4)?;
    sockopt::set_tcp_keepidle(&idle, SECOND)?;
    sockopt::set_tcp_keepintvl(&idle, SECOND)?;
    sockopt::set_tcp_keepcnt(&idle, 1)?;
    set_deaf(&idle_server, true)?;
    sockopt::set_socket_keepalive(&idle, true)?;

    let (mut client, mut server, ends) = used(witness, V4, V4)?;
    sockopt::set_tcp_user_timeout(&client, PATIENCE_MS)?;
    set_deaf(&server, true)?;
    client.write_all(b"?")?;

    let client_saw = ("timeout", "ETIMEDOUT");
    expect_error(&mut client, Errno::TIMEDOUT)?;
    witness.closed_resending(
        ends,
        (FROM_CLIENT + 1, FROM_SERVER),
        client_saw,
        Resent::Some,
    )?;
    learn_too_late(&mut server)?;
    let server_saw = ("peer-reset", "ECONNRESET");
    witness.closed(swapped(ends), (FROM_SERVER + 1, FROM_CLIENT), server_saw)?;

    expect_error(&mut idle, Errno::TIMEDOUT)?;
    // It asked once, and then sent an RST, which may come later than the client knows.
    wait_until(|| Ok(dropped(&idle_server)? == 2)).context("wait for the RST that is not heard")?;
    witness.closed(idle_ends, (FROM_CLIENT, FROM_SERVER), client_saw)?;
    learn_too_late(&mut idle_server)?;
    let sent = FROM_SERVER + 1;
    witness.closed(swapped(idle_ends), (sent, FROM_CLIENT), server_saw)
}

/// The server hears again, and the client is no more.
fn learn_too_late(server: &mut TcpStream) -> Result<()> {
    set_deaf(&*server, false)?;
    server.write_all(b"!")?;
    expect_error(server, Errno::CONNRESET)
}

/// The way to the server goes while it does not answer: what the kernel tells in
/// the end is why it could not ask again.
pub(super) fn unreachable(witness: &Witness) -> Result<()> {
    places::enter_loopback_netns()?;
    places::add_second_address()?;
    let listener = witness.listen(any_port(places::SECOND_ADDRESS.into()))?;
    let client = witness.connect_from(any_port(V4), listener.at)?;
    let server = witness.accept(&listener)?;
    let ends = (local(&client)?, listener.at);
    sockopt::set_tcp_user_timeout(&client, PATIENCE_MS)?;
    set_deaf(&server, true)?;
    let mut client = TcpStream::from(client);
    client.write_all(b"?")?;
    places::remove_second_address()?;
    expect_error(&mut client, Errno::NETUNREACH)?;
    witness.closed(ends, (1, 0), ("timeout", "ENETUNREACH"))
}

/// The server closes its listener while the connection waits there.
pub(super) fn listener(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let client = witness.connect(listener.at)?;
    poll(&listener.socket, PollFlags::IN)?;
    witness.never_accepted(&listener, &client)?;
    let ends = (local(&client)?, peer(&client)?);
    drop(listener);
    expect_error(&mut client.into(), Errno::CONNRESET)?;
    witness.closed(ends, (0, 0), ("peer-reset", "ECONNRESET"))?;
    witness.closed(swapped(ends), (0, 0), ("local-reset", ""))
}
