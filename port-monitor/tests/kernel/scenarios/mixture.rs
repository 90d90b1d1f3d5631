//! Connections that differ in everything a filter or a rule can ask for, at
//! addresses and ports that are known beforehand.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{io::Errno, net::sockopt};

use crate::{
    cgroup,
    fact::Witness,
    process::{Gate, become_user, fork, set_comm},
    scenarios::{identity::OTHER_USER, places},
    socket::{Listener, V6, any_port, bind, open},
};

/// The server's IPv4 address.
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 1));
/// Where root's client comes from.
pub(crate) const ROOT_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 10));
/// Where the other user's client comes from.
pub(crate) const USER_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 88, 0, 10));
/// A port with an IANA name, `finger`.
pub(crate) const FINGER: u16 = 79;
/// A registered port without a name, outside the usual ephemeral range.
pub(crate) const HIGH: u16 = 23_791;
/// The IPv6 server's port.
pub(crate) const HIGH_V6: u16 = 23_792;
/// The local port that clients bind who do not let the kernel choose.
pub(crate) const CLIENT_PORT: u16 = 23_795;
/// A port that refuses.
pub(crate) const REFUSING: u16 = 23_799;
/// The name of the other user's process, which is its first thread's.
pub(crate) const USER_COMM: &str = "other-client";
/// The name of its other thread.
pub(crate) const THREAD_COMM: &str = "other-thread";

/// The connections the filters choose from.
pub(crate) fn filters(witness: &Witness) -> Result<()> {
    let finger = witness.listen(SocketAddr::new(SERVER, FINGER))?;
    let high = witness.listen(SocketAddr::new(SERVER, HIGH))?;
    let high_v6 = witness.listen(SocketAddr::new(V6, HIGH_V6))?;
    let accepted = Gate::new()?;
    let root = fork(|| {
        let clients = [
            dial(witness, any_port(ROOT_CLIENT), finger.at)?,
            dial(witness, SocketAddr::new(ROOT_CLIENT, CLIENT_PORT), high.at)?,
            dial(witness, any_port(V6), high_v6.at)?,
        ];
        accepted.pass()?;
        drop(clients);
        Ok(())
    })?;
    let user = fork(|| {
        for listener in [&finger, &high, &high_v6] {
            listener.leave();
        }
        cgroup::enter(&places::own_cgroups()?.unit())?;
        set_comm(USER_COMM.as_bytes())?;
        become_user(OTHER_USER)?;
        let clients = [
            dial(witness, any_port(USER_CLIENT), high.at)?,
            dial(witness, any_port(mapped(USER_CLIENT)), mapped_at(finger.at))?,
        ];
        let by_thread = thread::scope(|scope| {
            let dials = scope.spawn(|| {
                set_comm(THREAD_COMM.as_bytes())?;
                dial(witness, any_port(USER_CLIENT), high.at)
            });
            dials.join().map_err(|_| anyhow!("thread panicked"))?
        })?;
        let refusing = SocketAddr::new(SERVER, REFUSING);
        let from = Some(any_port(USER_CLIENT));
        witness.connect_in_vain(from, refusing, Errno::CONNREFUSED)?;
        accepted.pass()?;
        drop((clients, by_thread));
        Ok(())
    })?;
    accept_all(witness, &[&finger, &finger, &high, &high, &high, &high_v6])?;
    accepted.open()?;
    accepted.open()?;
    root.join()?;
    user.join()?;
    [finger, high, high_v6].into_iter().for_each(Listener::keep);
    Ok(())
}

/// Well-known services of the sample policy, each tried by root from one
/// network and by the other user from another, all from the same port: their
/// addresses alone tell them apart.
pub(crate) fn services(witness: &Witness) -> Result<()> {
    let listeners = SERVICES
        .iter()
        .map(|&port| witness.listen(SocketAddr::new(SERVER, port)))
        .collect::<Result<Vec<_>>>()?;
    let accepted = Gate::new()?;
    let root = fork(|| dial_each(witness, ROOT_CLIENT, &listeners, &accepted))?;
    let user = fork(|| {
        listeners.iter().for_each(Listener::leave);
        become_user(OTHER_USER)?;
        dial_each(witness, USER_CLIENT, &listeners, &accepted)
    })?;
    for listener in &listeners {
        accept_all(witness, &[listener, listener])?;
    }
    accepted.open()?;
    accepted.open()?;
    root.join()?;
    user.join()?;
    listeners.into_iter().for_each(Listener::keep);
    Ok(())
}

/// ssh, telnet, http, https, postgresql, and one the policy does not name.
pub(crate) const SERVICES: [u16; 6] = [22, 23, 80, 443, 5432, HIGH];

fn dial_each(
    witness: &Witness,
    from: IpAddr,
    listeners: &[Listener],
    accepted: &Gate,
) -> Result<()> {
    let clients = listeners
        .iter()
        .map(|listener| dial(witness, SocketAddr::new(from, CLIENT_PORT), listener.at))
        .collect::<Result<Vec<_>>>()?;
    accepted.pass()?;
    drop(clients);
    Ok(())
}

/// Connects a bound socket whose close leaves nothing behind, so that the next
/// run can bind the same port.
fn dial(witness: &Witness, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd> {
    let socket = open(to.ip())?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, from)?;
    rustix::net::connect(&socket, &to).with_context(|| format!("connect to {to}"))?;
    witness.connected(&socket, true)?;
    Ok(socket)
}

fn accept_all(witness: &Witness, listeners: &[&Listener]) -> Result<()> {
    for listener in listeners {
        witness.accept(listener)?;
    }
    Ok(())
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

fn mapped_at(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(mapped(at.ip()), at.port())
}
