//! Ways to reach a listener that is denied, and to listen where that is denied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    net::{connect, listen, sockopt},
};

use super::vector::{About, Aim, Outcome, Side, Vector, into, out};
use crate::{
    scenarios::places,
    socket::{Refusing, V4, V6, any_port, bind, local, open, open_mptcp, set_tcp},
};

pub(super) const ALL: &[Vector] = &[
    into("enforce-in-ipv4", |aim| reach(aim, V4, V4)),
    into("enforce-in-ipv6", |aim| reach(aim, V6, V6)).guest_only(),
    into("enforce-in-dual-stack", |aim| {
        reach(aim, Ipv6Addr::UNSPECIFIED.into(), V4)
    })
    .guest_only(),
    into("enforce-in-reuseport", reuseport).guest_only(),
    into("enforce-in-mptcp", mptcp).guest_only(),
    into("enforce-in-source", source).guest_only(),
    into("enforce-in-netns", netns).silent(),
    into("enforce-in-unbound", unbound).silent().guest_only(),
    out("enforce-bind-ipv4", |aim| bind_at(aim, V4)),
    out("enforce-bind-ipv6", |aim| bind_at(aim, V6)),
    out("enforce-bind-wildcard", |aim| {
        bind_at(aim, Ipv4Addr::UNSPECIFIED.into())
    }),
    out("enforce-bind-dual-stack", |aim| {
        bind_at(aim, Ipv6Addr::UNSPECIFIED.into())
    }),
];

/// Sends one SYN more than the first, and then gives up.
const RETRIES: i32 = 1;

/// Connects as a peer does.
pub(super) fn knock(at: SocketAddr) -> Result<Outcome> {
    let socket = open(at.ip())?;
    set_tcp(&socket, libc::TCP_SYNCNT, RETRIES)?;
    Ok(Outcome::of(&connect(&socket, &at)))
}

fn reach(aim: &Aim, ip: IpAddr, through: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(ip, About::Inbound);
    let listener = open(ip)?;
    bind(&listener, at)?;
    listen(&listener, 8)?;
    knock(aim.at(through, About::Inbound))
}

/// The second socket of a port that listens.
fn reuseport(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Inbound);
    let listeners = [open(V4)?, open(V4)?];
    for listener in &listeners {
        sockopt::set_socket_reuseport(listener, true)?;
        bind(listener, at)?;
        listen(listener, 8)?;
    }
    knock(at)
}

fn mptcp(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Inbound);
    let listener = open_mptcp(V4)?;
    bind(&listener, at)?;
    listen(&listener, 8)?;
    let client = open_mptcp(V4)?;
    Ok(Outcome::of(&connect(&client, &at)))
}

/// From an address that is denied, to a port that others may reach.
fn source(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = SocketAddr::new(V4, aim.denied_port(About::Source));
    let listener = open(V4)?;
    bind(&listener, at)?;
    listen(&listener, 8)?;
    let from = match aim.side {
        Side::Denied => Ipv4Addr::new(127, 66, 0, 1),
        Side::Allowed => Ipv4Addr::new(127, 67, 0, 1),
    };
    let client = open(V4)?;
    bind(&client, any_port(from.into()))?;
    Ok(Outcome::of(&connect(&client, &at)))
}

/// In a network namespace of its own, where nothing answers for a closed port.
fn netns(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    places::enter_loopback_netns()?;
    reach(aim, V4, V4)
}

/// A port that the kernel chose when the socket began to listen: no hook but that of
/// the packet sees it. The policy denies listening to one user, on any port.
fn unbound(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    if aim.side == Side::Denied {
        crate::process::become_user(super::owner::NO_LISTENER)?;
    }
    let listener = open(V4)?;
    listen(&listener, 8)?;
    knock(SocketAddr::new(V4, local(&listener)?.port()))
}

fn bind_at(aim: &Aim, ip: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(ip)?;
    let at = aim.at(ip, About::Listen);
    let bound = rustix::net::bind(&socket, &at);
    if bound.is_ok() {
        listen(&socket, 1).context("listen")?;
        return knock(SocketAddr::new(
            if ip.is_ipv4() { V4 } else { V6 },
            at.port(),
        ));
    }
    // Refused for another reason than the policy's?
    let other = Refusing::new(if ip.is_ipv4() { V4 } else { V6 });
    other.context("bind to a port of the kernel's choice")?;
    Ok(Outcome::of::<()>(&Err(bound.err().unwrap_or(Errno::PERM))))
}
