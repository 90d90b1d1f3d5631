//! Ways to connect to a port that is denied.

use std::{
    io::IoSlice,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use io_uring::squeue::Flags;
use rustix::{
    io::Errno,
    net::{
        SendAncillaryBuffer, SendFlags, SocketFlags, connect, connect_unspec, sendmsg_addr, sendto,
    },
};

use super::vector::{About, Aim, Outcome, Vector, out};
use crate::{
    cgroup, compat,
    process::fork,
    scenarios::{places, uring},
    socket::{V4, V6, any_port, bind, open, open_mptcp, open_with, set_mark, set_tcp},
};

pub(super) const ALL: &[Vector] = &[
    out("bypass-connect-ipv4", |aim| plain(aim, V4)),
    out("bypass-connect-ipv6", |aim| plain(aim, V6)),
    out("bypass-mapped", |aim| {
        plain(aim, mapped(Ipv4Addr::LOCALHOST))
    }),
    out("bypass-unspecified", |aim| {
        loopback(aim, Ipv4Addr::UNSPECIFIED.into())
    }),
    out("bypass-unspecified-mapped", |aim| {
        loopback(aim, mapped(Ipv4Addr::UNSPECIFIED))
    }),
    out("bypass-unspecified-ipv6", |aim| {
        loopback(aim, Ipv6Addr::UNSPECIFIED.into())
    }),
    out("bypass-other-loopback", |aim| {
        loopback(aim, Ipv4Addr::new(127, 9, 9, 9).into())
    }),
    out("bypass-mapped-loopback", |aim| {
        loopback(aim, mapped(Ipv4Addr::new(127, 1, 1, 1)))
    }),
    out("bypass-nat64", nat64).guest_only(),
    out("bypass-non-blocking", non_blocking),
    out("bypass-retried", retried),
    out("bypass-thread", in_thread),
    out("bypass-fork", in_fork),
    out("bypass-io-uring", |aim| through_ring(aim, Flags::empty())),
    out("bypass-io-uring-async", |aim| {
        through_ring(aim, Flags::ASYNC)
    }),
    out("bypass-io-uring-polled", polled_ring),
    out("bypass-32-bit", through_socketcall).guest_only(),
    out("bypass-fastopen-sendto", fastopen_sendto),
    out("bypass-fastopen-sendto-ipv6", fastopen_sendto_v6),
    out("bypass-fastopen-sendmsg", fastopen_sendmsg),
    out("bypass-fastopen-sendmmsg", fastopen_sendmmsg),
    out("bypass-fastopen-cookie", fastopen_cookie),
    out("bypass-fastopen-connect", fastopen_connect),
    out("bypass-repair", repair),
    out("bypass-marked", marked),
    out("bypass-itself", itself),
    out("bypass-mptcp-ipv4", |aim| mptcp(aim, V4)),
    out("bypass-mptcp-ipv6", |aim| mptcp(aim, V6)),
    out("bypass-disconnected", disconnected),
    out("bypass-bound", bound),
    out("bypass-made-outside", made_outside).guest_only(),
    out("bypass-child-cgroup", child_cgroup),
    out("bypass-new-netns", new_netns),
];

fn mapped(ip: Ipv4Addr) -> IpAddr {
    IpAddr::V6(ip.to_ipv6_mapped())
}

/// A plain connect of a new socket.
fn try_at(at: SocketAddr) -> Result<Outcome> {
    let socket = open(at.ip())?;
    Ok(Outcome::of(&connect(&socket, &at)))
}

fn plain(aim: &Aim, ip: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    try_at(aim.at(ip, About::Port))
}

/// Another spelling of a loopback address.
fn loopback(aim: &Aim, ip: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    try_at(aim.at(ip, About::Loopback))
}

/// `64:ff9b::127.0.0.1` would be loopback to no translator; the address is one of
/// TEST-NET-2, which a guest has no way to.
fn nat64(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let ip = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc633, 0x6407);
    let outcome = try_at(aim.at(ip.into(), About::Port))?;
    // There is no route: what is not refused gets that far.
    Ok(match outcome {
        Outcome::Failed(Errno::NETUNREACH) => Outcome::Through,
        other => other,
    })
}

/// Refused at once, not when the answer comes.
fn non_blocking(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Port);
    let socket = open_with(V4, SocketFlags::NONBLOCK)?;
    Ok(match connect(&socket, &at) {
        Err(Errno::INPROGRESS) => Outcome::Through,
        other => Outcome::of(&other),
    })
}

fn retried(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Port);
    let socket = open(V4)?;
    let first = connect(&socket, &at);
    Ok(match connect(&socket, &at) {
        Err(Errno::ISCONN) => Outcome::of(&first),
        other => Outcome::of(&other),
    })
}

fn in_thread(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Port);
    thread::spawn(move || try_at(at))
        .join()
        .map_err(|_| anyhow!("thread panicked"))?
}

fn in_fork(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let at = aim.at(V4, About::Port);
    let child = fork(|| Ok(connect(&socket, &at)?))?;
    // The child's connection is this process's socket's too.
    Ok(match child.join() {
        Ok(()) => Outcome::of(&rustix::net::getpeername(&socket).map(drop)),
        Err(error) if format!("{error:#}").contains("os error 1)") => Outcome::Failed(Errno::PERM),
        Err(error) => return Err(error),
    })
}

fn through_ring(aim: &Aim, flags: Flags) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Port);
    Ok(Outcome::of(&uring::try_connect(at, flags)?))
}

fn polled_ring(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let at = aim.at(V4, About::Port);
    Ok(Outcome::of(&uring::try_connect_polled(at)?))
}

/// `connect` as a program of 32 bits calls it: `socketcall`, by `int 0x80`.
fn through_socketcall(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let result = compat::connect(&socket, aim.port(About::Port))?;
    Ok(Outcome::of(&result))
}

fn fast() -> SendFlags {
    SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned())
}

fn fastopen_sendto(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    Ok(Outcome::of(&sendto(
        &open(V4)?,
        b"hello",
        fast(),
        &aim.at(V4, About::Port),
    )))
}

fn fastopen_sendto_v6(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    Ok(Outcome::of(&sendto(
        &open(V6)?,
        b"hello",
        fast(),
        &aim.at(V6, About::Port),
    )))
}

fn fastopen_sendmsg(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let text = [IoSlice::new(b"hello")];
    let mut nothing = SendAncillaryBuffer::default();
    let at = aim.at(V4, About::Port);
    Ok(Outcome::of(&sendmsg_addr(
        &open(V4)?,
        &at,
        &text,
        &mut nothing,
        fast(),
    )))
}

/// One of several messages.
fn fastopen_sendmmsg(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, aim.port(About::Port));
    with_message(at, |message| send_one(&socket, message, libc::MSG_FASTOPEN))
}

/// Sends a message as one of several.
pub(super) fn send_one(socket: &OwnedFd, message: &libc::msghdr, flags: i32) -> Result<Outcome> {
    let mut all = libc::mmsghdr {
        msg_hdr: *message,
        msg_len: 0,
    };
    // SAFETY: the descriptor is open, and the message points to what outlives the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut all, 1, flags) };
    Ok(if sent == 1 {
        Outcome::Through
    } else {
        Outcome::Failed(Errno::from_io_error(&std::io::Error::last_os_error()).context("errno")?)
    })
}

pub(super) fn sockaddr(at: SocketAddrV4) -> Result<libc::sockaddr_in> {
    Ok(libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET)?,
        sin_port: at.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*at.ip()).to_be(),
        },
        sin_zero: [0; 8],
    })
}

/// Hands a short message to an address to `send`.
pub(super) fn with_message<T>(
    at: SocketAddrV4,
    send: impl FnOnce(&libc::msghdr) -> Result<T>,
) -> Result<T> {
    let mut name = sockaddr(at)?;
    let mut text = *b"hello";
    let mut part = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: all-zero bytes are a valid `msghdr`, plain data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = libc::socklen_t::try_from(size_of_val(&name))?;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    send(&message)
}

/// The server has given a cookie before, at a port that is allowed: now the SYN carries
/// data.
fn fastopen_cookie(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let allowed = SocketAddr::new(V4, aim.denied_port(About::Port) + 1);
    for _ in 0..2 {
        sendto(&open(V4)?, b"hello", fast(), &allowed).context("get a cookie")?;
    }
    let at = aim.at(V4, About::Port);
    Ok(Outcome::of(&sendto(&open(V4)?, b"hello", fast(), &at)))
}

/// As checkpoints are restored: connected without a packet.
fn repair(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    set_tcp(&socket, libc::TCP_REPAIR, 1)?;
    Ok(Outcome::of(&connect(&socket, &aim.at(V4, About::Port))))
}

/// With the mark by which a firewall would let it pass.
fn marked(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    set_mark(&socket, 1)?;
    Ok(Outcome::of(&connect(&socket, &aim.at(V4, About::Port))))
}

/// To the very socket that connects; in a network namespace where nobody has its port.
fn itself(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    places::enter_loopback_netns()?;
    let at = aim.at(V4, About::Port);
    let socket = open(V4)?;
    bind(&socket, at)?;
    Ok(Outcome::of(&connect(&socket, &at)))
}

/// The connect waits for the first write, and is refused before.
fn fastopen_connect(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    set_tcp(&socket, libc::TCP_FASTOPEN_CONNECT, 1)?;
    let connected = connect(&socket, &aim.at(V4, About::Port));
    Ok(Outcome::of(
        &connected.and_then(|()| rustix::io::write(&socket, b"hello")),
    ))
}

fn mptcp(aim: &Aim, ip: IpAddr) -> Result<Outcome> {
    aim.enter()?;
    let socket = open_mptcp(ip)?;
    Ok(Outcome::of(&connect(&socket, &aim.at(ip, About::Port))))
}

/// A socket that was connected to an allowed port before.
fn disconnected(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let allowed = SocketAddr::new(V4, aim.denied_port(About::Port) + 1);
    connect(&socket, &allowed).context("connect to the allowed port")?;
    connect_unspec(&socket).context("disconnect")?;
    Ok(Outcome::of(&connect(&socket, &aim.at(V4, About::Port))))
}

/// With an address and an interface of its own choice.
fn bound(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    let socket = open(V4)?;
    let name = c"lo";
    let size = libc::socklen_t::try_from(name.to_bytes().len())?;
    // SAFETY: the descriptor is open, and the kernel reads `size` bytes of the name.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            size,
        )
    };
    anyhow::ensure!(
        status == 0,
        "bind to lo: {}",
        std::io::Error::last_os_error()
    );
    bind(&socket, any_port(V4))?;
    Ok(Outcome::of(&connect(&socket, &aim.at(V4, About::Port))))
}

/// A socket from before the process moved into its cgroup: the kernel asks the cgroup
/// that the socket was made in, which the policy of the whole host holds too.
fn made_outside(aim: &Aim) -> Result<Outcome> {
    let socket: OwnedFd = open(V4)?;
    aim.enter()?;
    Ok(Outcome::of(&connect(&socket, &aim.at(V4, About::Port))))
}

/// In a cgroup below the one that is held to the policy.
fn child_cgroup(aim: &Aim) -> Result<Outcome> {
    let child = format!("{}/child-{}", aim.cgroup, std::process::id());
    let directory = cgroup::directory(&child)?;
    std::fs::create_dir(&directory).context("make a cgroup")?;
    cgroup::enter(&child)?;
    let outcome = try_at(aim.at(V4, About::Port));
    let parent = if aim.cgroup.is_empty() {
        "/"
    } else {
        &aim.cgroup
    };
    cgroup::enter(parent)?;
    std::fs::remove_dir(&directory).context("remove a cgroup")?;
    outcome
}

/// In a network namespace of its own, where somebody listens too.
fn new_netns(aim: &Aim) -> Result<Outcome> {
    aim.enter()?;
    places::enter_loopback_netns()?;
    let at = aim.at(V4, About::Port);
    let listener = open(V4)?;
    bind(&listener, at)?;
    rustix::net::listen(&listener, 1)?;
    try_at(at)
}
