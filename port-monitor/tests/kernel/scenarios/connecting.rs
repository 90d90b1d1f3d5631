//! Attempts: how they are made and how they end.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
};

use anyhow::{Result, ensure};
use rustix::{
    event::PollFlags,
    io::Errno,
    net::{SocketFlags, sockopt},
};

use crate::{
    bpf, cgroup,
    fact::{Reach, Witness},
    scenarios::places,
    socket::{Listener, Refusing, V4, V6, any_port, bind, local, open, open_with, poll, set_tcp},
};

pub(super) fn ipv4(witness: &Witness) -> Result<()> {
    witness.pair(V4)
}

pub(super) fn ipv6(witness: &Witness) -> Result<()> {
    witness.pair(V6)
}

/// An IPv6 socket connects to `::ffff:127.0.0.1`.
pub(super) fn mapped_client(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let _client = witness.connect(SocketAddr::new(mapped, listener.at.port()))?;
    witness.accept(&listener)?;
    Ok(())
}

/// An IPv4 client reaches a dual-stack `[::]` listener.
pub(super) fn mapped_server(witness: &Witness) -> Result<()> {
    let socket = open(V6)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    bind(&socket, "[::]:0".parse()?)?;
    let listener = witness.listen_on(socket, 16)?;
    let _client = witness.connect(SocketAddr::new(V4, listener.at.port()))?;
    witness.accept(&listener)?;
    Ok(())
}

/// The client chose its own port: every backend knows it from the start.
pub(super) fn bound(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let _client = witness.connect_from(any_port(V4), listener.at)?;
    witness.accept(&listener)?;
    Ok(())
}

pub(super) fn non_blocking(witness: &Witness) -> Result<()> {
    let listener = witness.listen(any_port(V4))?;
    let client = open_with(V4, SocketFlags::NONBLOCK)?;
    match rustix::net::connect(&client, &listener.at) {
        Ok(()) | Err(Errno::INPROGRESS) => poll(&client, PollFlags::OUT)?,
        Err(error) => return Err(error.into()),
    }
    sockopt::socket_error(&client)??;
    witness.connected(&client, false)?;
    witness.accept(&listener)?;
    Ok(())
}

pub(super) fn refused(witness: &Witness) -> Result<()> {
    let refusing = Refusing::new(V4)?;
    witness.connect_in_vain(Some(any_port(V4)), refusing.at, Errno::CONNREFUSED)
}

pub(super) fn refused_ipv6(witness: &Witness) -> Result<()> {
    let refusing = Refusing::new(V6)?;
    witness.connect_in_vain(Some(any_port(V6)), refusing.at, Errno::CONNREFUSED)
}

/// Nobody can say afterwards which port the kernel had chosen.
pub(super) fn refused_unbound(witness: &Witness) -> Result<()> {
    let refusing = Refusing::new(V4)?;
    witness.connect_in_vain(None, refusing.at, Errno::CONNREFUSED)
}

/// Port 0 is a port like any other to connect: it is asked, and refuses.
pub(super) fn port_zero(witness: &Witness) -> Result<()> {
    witness.connect_in_vain(Some(any_port(V4)), any_port(V4), Errno::CONNREFUSED)
}

/// A listener that answers no SYN: its accept queue holds one connection and
/// is full.
fn deaf_listener(witness: &Witness) -> Result<(Listener, OwnedFd)> {
    let socket = open(V4)?;
    bind(&socket, any_port(V4))?;
    let listener = witness.listen_on(socket, 0)?;
    let filler = witness.connect(listener.at)?;
    // Once it lies in the queue, the queue is full.
    poll(&listener.socket, PollFlags::IN)?;
    witness.never_accepted(&listener, &filler)?;
    Ok((listener, filler))
}

/// The program closes the socket while its SYN is unanswered.
pub(super) fn given_up(witness: &Witness) -> Result<()> {
    let (listener, _filler) = deaf_listener(witness)?;
    let client = open_with(V4, SocketFlags::NONBLOCK)?;
    let outcome = rustix::net::connect(&client, &listener.at);
    ensure!(outcome == Err(Errno::INPROGRESS), "connect: {outcome:?}");
    witness.gave_up(client, listener.at, false)
}

/// Nobody answers within the socket's own patience of about a second.
pub(super) fn timed_out(witness: &Witness) -> Result<()> {
    let (listener, _filler) = deaf_listener(witness)?;
    let client = open(V4)?;
    bind(&client, any_port(V4))?;
    set_tcp(&client, libc::TCP_SYNCNT, 1)?;
    sockopt::set_tcp_user_timeout(&client, 1_000)?;
    witness.connect_socket_in_vain(&client, listener.at, Errno::TIMEDOUT)
}

/// In a network namespace without a route no SYN is ever sent.
pub(super) fn unreachable(witness: &Witness) -> Result<()> {
    places::enter_new_netns()?;
    // IPv6 misses an address of its own first.
    for (remote, errno) in [
        ("203.0.113.1:80", Errno::NETUNREACH),
        ("[::ffff:203.0.113.1]:80", Errno::NETUNREACH),
        ("[2001:db8::1]:80", Errno::ADDRNOTAVAIL),
    ] {
        let remote: SocketAddr = remote.parse()?;
        let socket = open(remote.ip())?;
        witness.connect_unsent(&socket, remote, errno, Reach::Nothing)?;
    }
    Ok(())
}

/// An IPv6 socket that may not speak IPv4 is asked to.
pub(super) fn v6_only(witness: &Witness) -> Result<()> {
    let socket = open(V6)?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let remote = SocketAddr::new(mapped, 80);
    witness.connect_unsent(&socket, remote, Errno::NETUNREACH, Reach::Nothing)
}

/// A cgroup program refuses, whatever the address.
pub(super) fn not_permitted(witness: &Witness) -> Result<()> {
    let cgroup = places::own_cgroups()?.offline();
    bpf::refuse_connects(&cgroup::directory(&cgroup)?)?;
    cgroup::enter(&cgroup)?;
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    for ip in [V4, V6, mapped] {
        let remote = SocketAddr::new(ip, 443);
        witness.connect_unsent(&open(ip)?, remote, Errno::PERM, Reach::Nothing)?;
    }
    Ok(())
}

/// Two sockets bound to one port cannot both be connected to one address.
pub(super) fn address_taken(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let listener = witness.listen(any_port(ip))?;
        let first = open(ip)?;
        sockopt::set_socket_reuseaddr(&first, true)?;
        bind(&first, any_port(ip))?;
        let second = open(ip)?;
        sockopt::set_socket_reuseaddr(&second, true)?;
        bind(&second, local(&first)?)?;
        rustix::net::connect(&first, &listener.at)?;
        witness.connected(&first, true)?;
        witness.accept(&listener)?;
        witness.connect_unsent(&second, listener.at, Errno::ADDRNOTAVAIL, Reach::Route)?;
    }
    Ok(())
}
