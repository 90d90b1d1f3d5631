//! `SOCK_DESTROY` of the kernel's socket diagnosis: ends a connection from
//! outside, as `ss -K` does.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
};

use crate::socket::Ends;

/// `SOCK_DESTROY` (`include/uapi/linux/sock_diag.h`).
const DESTROY: u16 = 21;
/// `NLM_F_REQUEST | NLM_F_ACK`, `NLMSG_ERROR` (`include/uapi/linux/netlink.h`).
const ASK_AND_ACKNOWLEDGE: u16 = 5;
const ANSWER: u16 = 2;

/// Destroys the end of a connection that is ours. An error that is an errno is
/// the kernel's answer.
pub(crate) fn destroy(ends: Ends) -> Result<()> {
    ask(Some(netlink::SOCK_DIAG), &request(ends)?).context("SOCK_DESTROY")
}

/// Asks the kernel for something that it does or does not do. An error that is an errno is
/// its answer.
pub(crate) fn ask(protocol: Option<Protocol>, request: &[u8]) -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )
    .context("socket of netlink")?;
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut answer = [0_u8; 256];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // `struct nlmsghdr`, then the errno, negative.
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(kind == ANSWER, "netlink answers {kind}");
    if errno != 0 {
        return Err(Errno::from_raw_os_error(-errno).into());
    }
    Ok(())
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`.
fn request((local, remote): Ends) -> Result<Vec<u8>> {
    const LENGTH: u32 = 72;
    let family = match local {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(DESTROY.to_ne_bytes());
    bytes.extend(ASK_AND_ACKNOWLEDGE.to_ne_bytes());
    // Sequence number and sender: the answer is the only one.
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family)?, u8::try_from(libc::IPPROTO_TCP)?]);
    // Extensions and padding, then all states.
    bytes.extend([0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(address(local.ip()));
    bytes.extend(address(remote.ip()));
    // Any interface, any cookie.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    ensure!(bytes.len() == LENGTH as usize, "{} bytes", bytes.len());
    Ok(bytes)
}

/// Four words; IPv4 uses the first.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}
