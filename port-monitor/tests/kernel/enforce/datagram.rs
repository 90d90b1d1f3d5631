//! Ways to send a datagram to a port that is denied.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, connect, ipproto,
        sendmsg_addr, sendto, socket_with,
    },
};

use super::{
    Enforced,
    hammer::Ports,
    outbound::{send_one, sockaddr, with_message},
    this_program,
    vector::{About, Aim, Outcome, Vector, out},
};
use crate::{
    lab::Lab,
    report::Verdict,
    scenarios::uring,
    socket::{V4, V6},
};

pub(super) const ALL: &[Vector] = &[
    out("bypass-udp-connect-ipv4", |aim| connected(aim, V4)),
    out("bypass-udp-connect-ipv6", |aim| connected(aim, V6)),
    out("bypass-udp-ipv4", |aim| sent(aim, V4, V4)),
    out("bypass-udp-ipv6", |aim| sent(aim, V6, V6)),
    out("bypass-udp-mapped", |aim| {
        sent(aim, V6, Ipv4Addr::LOCALHOST.to_ipv6_mapped().into())
    }),
    out("bypass-udp-unspecified", |aim| {
        sent(aim, V4, Ipv4Addr::UNSPECIFIED.into())
    }),
    out("bypass-udp-unspecified-ipv6", |aim| {
        sent(aim, V6, Ipv6Addr::UNSPECIFIED.into())
    }),
    out("bypass-udp-ipv4-by-ipv6", |aim| sent(aim, V6, V4)),
    out("bypass-udp-no-family", no_family),
    out("bypass-udp-sendmsg", message),
    out("bypass-udp-sendmmsg", messages),
    out("bypass-udp-connected-elsewhere", connected_elsewhere),
    out("bypass-udp-io-uring", through_ring),
    out("bypass-udp-any-transport", any_transport),
];

/// A UDP socket of the address's family.
fn open(ip: IpAddr) -> Result<OwnedFd> {
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP)).context("socket")
}

fn connected(aim: &Aim, ip: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(ip, About::Datagram);
    Ok(Outcome::of(&connect(open(ip)?, &at)))
}

fn send_to(socket: &OwnedFd, at: SocketAddr) -> Outcome {
    Outcome::of(&sendto(socket, b"hello", SendFlags::empty(), &at))
}

/// By a socket of one family, to an address of any.
fn sent(aim: &Aim, by: IpAddr, to: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    Ok(send_to(&open(by)?, aim.at(to, About::Datagram)))
}

fn v4(aim: &Aim) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, aim.port(About::Datagram))
}

/// `AF_UNSPEC` is taken for `AF_INET` (`udp_sendmsg`).
fn no_family(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let mut address = sockaddr(v4(aim))?;
    address.sin_family = libc::sa_family_t::try_from(libc::AF_UNSPEC)?;
    let size = libc::socklen_t::try_from(size_of_val(&address))?;
    let text = b"hello";
    // SAFETY: the descriptor is open, and the kernel reads no more than it is told of.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            text.as_ptr().cast(),
            text.len(),
            0,
            (&raw const address).cast(),
            size,
        )
    };
    Ok(if sent < 0 {
        let error = std::io::Error::last_os_error();
        Outcome::Failed(Errno::from_io_error(&error).context("errno")?)
    } else {
        Outcome::Through
    })
}

fn message(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let text = [std::io::IoSlice::new(b"hello")];
    let mut nothing = SendAncillaryBuffer::default();
    let (at, flags) = (aim.at(V4, About::Datagram), SendFlags::empty());
    let sent = sendmsg_addr(open(V4)?, &at, &text, &mut nothing, flags);
    Ok(Outcome::of(&sent))
}

/// One of several messages.
fn messages(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    with_message(v4(aim), |message| send_one(&socket, message, 0))
}

/// A connected socket sends to an address that comes with the datagram all the same.
fn connected_elsewhere(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let allowed = SocketAddr::new(V4, aim.denied_port(About::Datagram) + 1);
    connect(&socket, &allowed).context("connect to the allowed port")?;
    Ok(send_to(&socket, aim.at(V4, About::Datagram)))
}

fn through_ring(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    with_message(v4(aim), |message| {
        Ok(Outcome::of(&uring::try_send(&socket, message)?))
    })
}

/// Where a rule names UDP the outbound default is about it too, and else nothing is.
pub(crate) fn by_default(lab: &Lab) -> Result<Verdict> {
    let base = Ports::new()?.denied();
    let port = base + About::Datagram as u16;
    let policy = format!(
        "version = 1\nmode = \"enforce\"\n[default]\noutbound = {{ action = \"deny\", loopback = \
         \"filter\" }}\n[[rule]]\nname = \"open\"\ndirection = \"out\"\nport = {port}\naction = \
         \"allow\"\n"
    );
    let enforced = Enforced::new(lab, &format!("{policy}proto = [\"udp\", \"tcp\"]\n"))?;
    let unit = lab.cgroups.held_unit(&enforced.cgroup);
    let send = |side: &str| -> Result<String> {
        let output = this_program()?
            .args(["vector", "bypass-udp-ipv4", "--side", side])
            .args(["--base", &base.to_string(), "--copy", "/", "--unit", &unit])
            .args(["--cgroup", &enforced.cgroup])
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    // The first port is the one that the rule allows.
    let [open, other] = [send("denied")?, send("allowed")?];
    ensure!(
        open == "through" && other == "errno 1",
        "a rule names UDP: {open}, {other}"
    );
    let hits = enforced.hits("open")?;
    ensure!(hits == 1, "{hits} hits, not 1");
    enforced.apply(&policy, &["--no-confirm"])?;
    let [open, other] = [send("denied")?, send("allowed")?];
    ensure!(
        open == "through" && other == "through",
        "none names UDP: {open}, {other}"
    );
    Ok(Verdict::pass())
}

/// A rule that names no transport is about UDP too, where another one names it.
fn any_transport(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    Ok(send_to(&open(V4)?, aim.at(V4, About::Port)))
}
