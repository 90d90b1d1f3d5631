//! The path manager of MPTCP, as `ip mptcp` sets it (`include/uapi/linux/mptcp_pm.h`,
//! `include/uapi/linux/genetlink.h`).

use std::{net::Ipv4Addr, os::fd::OwnedFd};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `MPTCP_PM_CMD_ADD_ADDR`, `MPTCP_PM_CMD_SET_LIMITS`.
const ADD_ADDR: u8 = 1;
const SET_LIMITS: u8 = 5;

/// `MPTCP_PM_ATTR_ADDR`, nested; `MPTCP_PM_ATTR_RCV_ADD_ADDRS`, `MPTCP_PM_ATTR_SUBFLOWS`.
const ENDPOINT: u16 = 1 | 1 << 15;
const RCV_ADD_ADDRS: u16 = 2;
const SUBFLOWS: u16 = 3;

/// `MPTCP_PM_ADDR_ATTR_FAMILY`, `_ID`, `_ADDR4`, `_PORT`, `_FLAGS`.
const FAMILY: u16 = 1;
const ID: u16 = 2;
const ADDR4: u16 = 3;
const PORT: u16 = 5;
const FLAGS: u16 = 6;
/// `MPTCP_PM_ADDR_FLAG_SIGNAL`.
const SIGNAL: u32 = 1;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK_AND_ACKNOWLEDGE: u16 = 5;
/// `NLMSG_ERROR`.
const ANSWER: u16 = 2;

/// Servers of this network namespace announce an address and a port of theirs, at which
/// the kernel then listens, and clients connect to what is announced.
pub(super) fn announce(addr: Ipv4Addr, port: u16) -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )
    .context("socket of NETLINK_GENERIC")?;
    let name = attribute(FAMILY_NAME, b"mptcp_pm\0");
    let family = ask(&socket, CONTROL, GET_FAMILY, &name).context("look up mptcp_pm")?;
    let family = find(family.get(20..).unwrap_or_default(), FAMILY_ID).context("no family id")?;

    let two = 2_u32.to_ne_bytes();
    let limits = [attribute(RCV_ADD_ADDRS, &two), attribute(SUBFLOWS, &two)].concat();
    ask(&socket, family, SET_LIMITS, &limits).context("set the limits")?;

    let inet = u16::try_from(libc::AF_INET)?;
    let endpoint = [
        attribute(FAMILY, &inet.to_ne_bytes()),
        attribute(ID, &[7]),
        attribute(ADDR4, &addr.octets()),
        attribute(PORT, &port.to_ne_bytes()),
        attribute(FLAGS, &SIGNAL.to_ne_bytes()),
    ]
    .concat();
    ask(&socket, family, ADD_ADDR, &attribute(ENDPOINT, &endpoint)).context("add the endpoint")?;
    Ok(())
}

/// `struct nlattr` and its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The number in an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<u16> {
    let number = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_ne_bytes(bytes))
    };
    loop {
        let (length, kind) = (number(attributes, 0)?, number(attributes, 2)?);
        if kind == wanted {
            return number(attributes, 4);
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..)?;
    }
}

/// Sends `struct nlmsghdr`, `struct genlmsghdr` and attributes; gives the answer.
fn ask(socket: &OwnedFd, kind: u16, command: u8, attributes: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(20 + attributes.len())?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(ASK_AND_ACKNOWLEDGE.to_ne_bytes());
    // Sequence number and sender.
    bytes.extend([0; 8]);
    // Command, version 1, reserved.
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(attributes);
    rustix::net::send(socket, &bytes, SendFlags::empty())?;
    let mut answer = None;
    // The acknowledgement comes last: an errno, negative.
    loop {
        let mut message = vec![0; 4_096];
        let (length, _) = rustix::net::recv(socket, &mut message, RecvFlags::empty())?;
        message.truncate(length);
        ensure!(length >= 20, "netlink answers {length} bytes");
        if u16::from_ne_bytes([message[4], message[5]]) != ANSWER {
            answer = Some(message);
            continue;
        }
        let errno = i32::from_ne_bytes([message[16], message[17], message[18], message[19]]);
        if errno != 0 {
            return Err(Errno::from_raw_os_error(-errno).into());
        }
        return Ok(answer.unwrap_or_default());
    }
}
