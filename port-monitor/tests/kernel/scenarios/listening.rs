//! Sockets that begin to listen, and end to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use rustix::{io::Errno, net::sockopt};

use crate::{
    fact::{Fact, Witness},
    scenarios::places,
    socket::{Listener, V4, V6, any_port, bind, local, open},
};

/// At loopback and everywhere, here and in another network namespace.
pub(super) fn and_stop(witness: &Witness) -> Result<()> {
    let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for ip in [V4, V6].into_iter().chain(everywhere) {
        listen_and_stop(witness, any_port(ip))?;
    }
    places::enter_new_netns()?;
    listen_and_stop(witness, any_port(Ipv4Addr::UNSPECIFIED.into()))
}

fn listen_and_stop(witness: &Witness, at: SocketAddr) -> Result<()> {
    let socket = open(at.ip())?;
    bind(&socket, at)?;
    let at = local(&socket)?;
    rustix::net::listen(&socket, 16)?;
    // A second time changes the queue's length, and nothing else.
    rustix::net::listen(&socket, 32)?;
    drop(socket);
    let mut listen = witness.listened(at, true)?;
    listen.ended = true;
    witness.tell(&Fact::Listen(listen))
}

/// Two sockets may be bound to one port, but only one may listen.
pub(super) fn refused(witness: &Witness) -> Result<()> {
    let first = bound(any_port(V4))?;
    let second = bound(first.at)?;
    let first = witness.listen_on(first.socket, 16)?;
    let outcome = rustix::net::listen(&second.socket, 16);
    ensure!(outcome == Err(Errno::ADDRINUSE), "listen: {outcome:?}");
    let mut listen = witness.listened(first.at, true)?;
    listen.refused = true;
    // Its end would look like the other's.
    std::mem::forget(first);
    witness.tell(&Fact::Listen(listen))
}

fn bound(at: SocketAddr) -> Result<Listener> {
    let socket = open(at.ip())?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, at)?;
    let at = local(&socket)?;
    Ok(Listener { socket, at })
}
