//! A network namespace of the self-test's own: no firewall, no routes, nobody else's
//! traffic, and a loopback interface that is up.

use std::{fs, fs::File, io, os::fd::AsFd as _};

use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::kernel::aya_workarounds::file_limit;

/// `RTM_NEWLINK` (`include/uapi/linux/rtnetlink.h`).
const NEW_LINK: u16 = 16;
/// `NLM_F_REQUEST` with `NLM_F_ACK` (`include/uapi/linux/netlink.h`).
const ASK_AND_ACKNOWLEDGE: u16 = 5;
/// Bytes of `struct nlmsghdr`; in an answer, `nlmsgerr.error` comes behind it.
const HEADER: usize = 16;
/// The loopback interface of every network namespace has this index
/// (`LOOPBACK_IFINDEX`).
const LOOPBACK: i32 = 1;
/// `IFF_UP`.
const UP: u32 = 1;

/// Whether loopback has IPv6 addresses; of the calling thread's network namespace.
const IPV6_IS_OFF: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/// Moves the calling thread into a new network namespace. On error it is where it was.
pub(super) fn enter_private() -> io::Result<()> {
    let opening = file_limit::opening();
    let home = File::open("/proc/thread-self/ns/net")?;
    drop(opening);
    // SAFETY: of what a process shares between its threads, only the network namespace
    // changes, and no memory or descriptor of this program depends on that.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    if let Err(error) = set_loopback_up() {
        move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
        return Err(error);
    }
    Ok(())
}

fn set_loopback_up() -> io::Result<()> {
    let opening = file_limit::opening();
    // Without a protocol it is `NETLINK_ROUTE`.
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    drop(opening);
    send(&socket, &loopback_up(), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let error = answer.get(HEADER..length).and_then(<[u8]>::first_chunk);
    match error.map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The request, a `struct nlmsghdr` and a `struct ifinfomsg`.
fn loopback_up() -> [u8; 32] {
    let mut request = [0; 32];
    request[0..4].copy_from_slice(&32_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
    request[6..8].copy_from_slice(&ASK_AND_ACKNOWLEDGE.to_ne_bytes());
    request[20..24].copy_from_slice(&LOOPBACK.to_ne_bytes());
    request[24..28].copy_from_slice(&UP.to_ne_bytes());
    request[28..32].copy_from_slice(&UP.to_ne_bytes());
    request
}

/// Gives loopback its IPv6 address where this host's settings keep it from having one.
/// Only in a private network namespace.
pub(super) fn allow_ipv6() -> io::Result<()> {
    fs::write(IPV6_IS_OFF, "0")
}
