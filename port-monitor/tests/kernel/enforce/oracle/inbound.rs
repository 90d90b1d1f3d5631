//! Peers that come: each is let in or hears nothing.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketFlags, bind, connect, listen, sockopt},
};

use super::words::Try;
use crate::socket::{V4, V6, any_port, local, open, open_with};

/// At most: a machine that does nothing else has it long before.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// A listener that every peer gets through to. Packets on loopback are handled one after
/// the other where they were sent: what came before one that got through is decided.
pub(super) struct Always {
    listener: OwnedFd,
    pub(super) port: u16,
}

impl Always {
    pub(super) fn new() -> Result<Self> {
        let listener = open(V4)?;
        bind(&listener, &any_port(V4))?;
        listen(&listener, 64)?;
        let port = local(&listener)?.port();
        Ok(Self { listener, port })
    }

    fn wait(&self) -> Result<()> {
        let socket = begin(V4, SocketAddr::new(V4, self.port))?;
        ensure!(
            is_through(&socket, Some(&PATIENCE))?,
            "it never got through"
        );
        rustix::net::accept(&self.listener).context("accept")?;
        Ok(())
    }
}

/// For each peer, whether it was refused by who listens at `port`.
pub(super) fn come(tries: &[Try], always: &Always) -> Result<Vec<bool>> {
    let sockets = tries.iter().map(|tried| {
        let from = tried.at.ip();
        let to = if from.is_ipv4() { from } else { V6 };
        begin(from, SocketAddr::new(to, tried.at.port()))
    });
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    always.wait()?;
    let now = Timespec::default();
    let through = sockets.iter().map(|socket| is_through(socket, Some(&now)));
    let refused = through.map(|through| through.map(|through| !through));
    refused.collect()
}

/// A connection that has begun, and is reset when it is dropped.
fn begin(from: IpAddr, to: SocketAddr) -> Result<OwnedFd> {
    let socket = open_with(from, SocketFlags::NONBLOCK)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    let from = if from == IpAddr::V6(Ipv6Addr::LOCALHOST) {
        V6
    } else {
        from
    };
    bind(&socket, &any_port(from)).context("bind")?;
    match connect(&socket, &to) {
        // What is answered by RST at once is told by the socket, too.
        Ok(()) | Err(Errno::INPROGRESS | Errno::CONNREFUSED) => Ok(socket),
        Err(errno) => Err(errno).with_context(|| format!("connect to {to}")),
    }
}

/// It is through; what was answered by RST is not.
fn is_through(socket: &OwnedFd, timeout: Option<&Timespec>) -> Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut fds, timeout).context("poll")?;
    let [fd] = fds;
    let failed = PollFlags::ERR | PollFlags::HUP;
    Ok(fd.revents().contains(PollFlags::OUT) && !fd.revents().intersects(failed))
}
