//! The connections that are open, in every network namespace, and their end: the
//! kernel's socket diagnosis (`NETLINK_SOCK_DIAG`, `include/uapi/linux/inet_diag.h`).

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    thread,
};

use port_monitor_common::tcp_state::TcpState;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::EnforcerError;
use crate::host::{cgroup::CgroupTree, threads};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (`include/uapi/linux/sock_diag.h`).
const LIST: u16 = 20;
const DESTROY: u16 = 21;
/// `NLMSG_ERROR` and `NLMSG_DONE` (`include/uapi/linux/netlink.h`).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, with `NLM_F_DUMP` or `NLM_F_ACK`.
const ASK_FOR_ALL: u16 = 0x301;
const ASK_AND_ACKNOWLEDGE: u16 = 5;
/// Bytes of `struct nlmsghdr`, `struct inet_diag_sockid` and `struct inet_diag_msg`.
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const SOCKET: usize = 72;
/// `INET_DIAG_CGROUP_ID` and `INET_DIAG_ULP_INFO`.
const CGROUP_ID: u16 = 21;
const UPPER_PROTOCOL: u16 = 19;
/// `TCP_TIME_WAIT` (`include/net/tcp_states.h`).
const TIME_WAIT: u8 = 6;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `AF_INET` and `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];

/// A connection that is open, at one of its ends.
#[derive(Clone, Debug)]
pub struct OpenConnection {
    /// This end.
    pub local: SocketAddr,
    /// The other.
    pub remote: SocketAddr,
    /// A socket listens at the local port.
    pub is_inbound: bool,
    /// The uid of who made the socket.
    pub uid: u32,
    /// It is a part of an MPTCP connection, which a process holds.
    pub is_subflow: bool,
    /// The path of the cgroup it was made in, with a leading slash.
    pub cgroup: Option<String>,
    /// The number by which a process's descriptors name it, if one holds it; zero of what is
    /// not accepted yet, or closed already.
    pub inode: u64,
    family: u8,
    id: [u8; SOCKET_ID],
}

impl OpenConnection {
    /// Of no other connection, ever.
    pub(crate) const fn identity(&self) -> &[u8] {
        &self.id
    }

    /// The kernel tells root of what nobody holds, but for the versions that remember.
    pub(crate) const fn has_user(&self) -> bool {
        self.inode != 0 || self.uid != 0
    }
}

#[cfg(test)]
impl OpenConnection {
    /// One that no kernel has.
    pub(crate) const fn made_up(local: SocketAddr, remote: SocketAddr, inode: u64) -> Self {
        Self {
            local,
            remote,
            is_inbound: false,
            uid: 0,
            is_subflow: false,
            cgroup: None,
            inode,
            family: 2,
            id: [0; SOCKET_ID],
        }
    }
}

/// Every connection, in any network namespace, that is meant.
pub fn open(
    is_meant: impl Fn(&OpenConnection) -> bool + Sync,
) -> Result<Vec<OpenConnection>, EnforcerError> {
    connections(|_, connection| Ok(is_meant(connection)))
}

/// Ends every connection, in any network namespace, that is to be; gives those that
/// were.
pub(super) fn end(
    is_to_end: impl Fn(&OpenConnection) -> bool + Sync,
) -> Result<Vec<OpenConnection>, EnforcerError> {
    connections(
        |diagnosis, connection| Ok(is_to_end(connection) && destroy(diagnosis, connection)?),
    )
}

/// Ends the connections of one network namespace that have these ends, each of which is one
/// socket; how many that were.
pub fn end_between(
    netns_ino: u32,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<usize, EnforcerError> {
    let is_it = |one: &OpenConnection| one.local == local && one.remote == remote;
    let is_there = |namespace: &File| {
        let ino = namespace.metadata().map(|found| found.ino());
        ino.is_ok_and(|ino| ino == u64::from(netns_ino))
    };
    let ended = within_each(is_there, |diagnosis, sockets| {
        let mut ended = Vec::new();
        for connection in sockets.connections.into_iter().filter(is_it) {
            if destroy(diagnosis, &connection)? {
                ended.push(connection);
            }
        }
        Ok(ended)
    })?;
    Ok(ended.len())
}

/// The TCP sockets of a network namespace, but for those that are over.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Those that listen: theirs is the local end.
    pub listeners: Vec<OpenConnection>,
    /// The others.
    pub connections: Vec<OpenConnection>,
}

/// The sockets of every network namespace.
pub fn sockets() -> Result<Vec<Sockets>, EnforcerError> {
    everywhere(|_, sockets| Ok(vec![sockets]))
}

/// The connections that are meant, with a socket of their network namespace to ask
/// the kernel about them.
fn connections(
    is_meant: impl Fn(&OwnedFd, &OpenConnection) -> io::Result<bool> + Sync,
) -> Result<Vec<OpenConnection>, EnforcerError> {
    everywhere(|diagnosis, sockets| {
        let mut found = Vec::new();
        for connection in sockets.connections {
            if is_meant(diagnosis, &connection)? {
                found.push(connection);
            }
        }
        Ok(found)
    })
}

/// What is found in each network namespace, with a socket to ask the kernel by.
fn everywhere<T: Send>(
    find: impl Fn(&OwnedFd, Sockets) -> io::Result<Vec<T>> + Sync,
) -> Result<Vec<T>, EnforcerError> {
    within_each(|_| true, find)
}

/// What is found in each network namespace that is meant.
fn within_each<T: Send>(
    is_meant: impl Fn(&File) -> bool,
    find: impl Fn(&OwnedFd, Sockets) -> io::Result<Vec<T>> + Sync,
) -> Result<Vec<T>, EnforcerError> {
    let groups = cgroup_paths();
    let mut found = Vec::new();
    for namespace in namespaces()?.into_iter().filter(is_meant) {
        let of_one = || within(&namespace, &groups, &find);
        // A thread of its own moves; nothing else of the process does.
        let of_one = thread::scope(|scope| scope.spawn(of_one).join());
        let of_one = of_one.unwrap_or_else(|_| Err(io::Error::other("the thread failed")));
        found.extend(of_one.map_err(EnforcerError::Sockets)?);
    }
    Ok(found)
}

fn within<T>(
    namespace: &File,
    groups: &HashMap<u64, String>,
    find: &impl Fn(&OwnedFd, Sockets) -> io::Result<Vec<T>>,
) -> io::Result<Vec<T>> {
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind)?;
    let diagnosis = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut found = Sockets::default();
    for family in FAMILIES {
        list(&diagnosis, family, |state, connection, cgroup_id| {
            let kind = if state == TcpState::LISTEN {
                &mut found.listeners
            } else {
                &mut found.connections
            };
            kind.push(OpenConnection {
                cgroup: groups.get(&cgroup_id).cloned(),
                ..connection
            });
        })?;
    }
    let ports = found.listeners.iter().map(|socket| socket.local.port());
    let listening: HashSet<u16> = ports.collect();
    for connection in &mut found.connections {
        connection.is_inbound = listening.contains(&connection.local.port());
    }
    find(&diagnosis, found)
}

/// Every network namespace that some process is in.
fn namespaces() -> Result<Vec<File>, EnforcerError> {
    let in_proc = |error| EnforcerError::File {
        path: "/proc".into(),
        error,
    };
    let mut known = HashSet::new();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").map_err(in_proc)?.flatten() {
        let path = threads::of_process(&process.path()).join("ns/net");
        // A process may be gone, and what is not a process has no namespace.
        let Ok(name) = fs::read_link(&path) else {
            continue;
        };
        if !known.contains(&name)
            && let Ok(file) = File::open(&path)
        {
            known.insert(name);
            found.push(file);
        }
    }
    Ok(found)
}

fn cgroup_paths() -> HashMap<u64, String> {
    let mut paths = HashMap::new();
    if let Some(tree) = CgroupTree::find(Path::new("/proc")) {
        tree.walk(|id, path| {
            paths.insert(id, format!("/{}", path.display()));
        });
    }
    paths
}

/// A request: `struct nlmsghdr`, then `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 8 + SOCKET_ID);
    bytes.extend(u32::to_ne_bytes(72));
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: there is one request at a time.
    bytes.extend([0; 8]);
    // No extensions.
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// Lists the sockets of a family: state, connection, and the id of the cgroup.
fn list(
    diagnosis: &OwnedFd,
    family: u8,
    mut take: impl FnMut(TcpState, OpenConnection, u64),
) -> io::Result<()> {
    // What is over has no owner to end it.
    let over = 1 << TIME_WAIT | 1 << TcpState::CLOSE.0;
    let request = request(LIST, ASK_FOR_ALL, family, !over, &[0; SOCKET_ID]);
    send(diagnosis, &request, SendFlags::empty())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (_, length) = recv(diagnosis, &mut buffer, RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let (kind, body, next) = message(rest).ok_or(Errno::IO)?;
            match kind {
                // The end says whether the list came to it.
                DONE | ERROR => return Ok(acknowledged(body)?),
                _ => {
                    if let Some((state, connection, cgroup_id)) = parse(body) {
                        take(state, connection, cgroup_id);
                    }
                }
            }
            rest = next;
        }
    }
}

/// Ends one connection; false where it has ended meanwhile.
fn destroy(diagnosis: &OwnedFd, connection: &OpenConnection) -> io::Result<bool> {
    let OpenConnection { family, id, .. } = connection;
    let request = request(DESTROY, ASK_AND_ACKNOWLEDGE, *family, u32::MAX, id);
    send(diagnosis, &request, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = recv(diagnosis, &mut answer, RecvFlags::empty())?;
    match destroyed(answer.get(..length).unwrap_or_default()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::STALE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The answer to a request that is acknowledged.
fn destroyed(answer: &[u8]) -> Result<(), Errno> {
    match message(answer) {
        Some((ERROR, body, _)) => acknowledged(body),
        _ => Err(Errno::IO),
    }
}

/// The first message: its kind, its body, and what comes after it.
pub(in crate::kernel) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// What an acknowledgement says, or the end of a list. What is too short for an errno is not
/// taken for success, nor is what is no errno.
pub(in crate::kernel) fn acknowledged(body: &[u8]) -> Result<(), Errno> {
    let error = body.first_chunk().ok_or(Errno::IO)?;
    let error = i32::from_ne_bytes(*error);
    // The library panics at what is no errno.
    let known = error
        .checked_neg()
        .filter(|errno| (0..4_096).contains(errno));
    match known {
        Some(0) => Ok(()),
        known => Err(known.map_or(Errno::IO, Errno::from_raw_os_error)),
    }
}

/// `struct inet_diag_msg`, and the attributes behind it.
pub(in crate::kernel) fn parse(body: &[u8]) -> Option<(TcpState, OpenConnection, u64)> {
    let &[family, state, ..] = body.first_chunk::<4>()?;
    let id: &[u8; SOCKET_ID] = body.get(4..)?.first_chunk()?;
    let uid = u32::from_ne_bytes(*body.get(64..)?.first_chunk()?);
    let inode = u32::from_ne_bytes(*body.get(68..)?.first_chunk()?);
    let attributes = body.get(SOCKET..)?;
    let connection = OpenConnection {
        local: end_of(family, id, 0, 4)?,
        remote: end_of(family, id, 2, 20)?,
        is_inbound: false,
        uid,
        is_subflow: is_mptcp(attributes),
        cgroup: None,
        inode: inode.into(),
        family,
        id: *id,
    };
    Some((TcpState(state), connection, cgroup_of(attributes)))
}

/// One end: the port and the address at these places, in network byte order.
fn end_of(
    family: u8,
    id: &[u8; SOCKET_ID],
    port_at: usize,
    address_at: usize,
) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*id.get(port_at..)?.first_chunk()?);
    let address: &[u8; 16] = id.get(address_at..)?.first_chunk()?;
    let ip = match family {
        2 => IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?)),
        _ => IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

/// The value of [`CGROUP_ID`] among attributes; zero where there is none.
fn cgroup_of(attributes: &[u8]) -> u64 {
    let value = attribute(attributes, CGROUP_ID).and_then(<[u8]>::first_chunk);
    value.map_or(0, |id| u64::from_ne_bytes(*id))
}

/// What is on top of TCP there is called MPTCP (`mptcp_subflow_init`).
fn is_mptcp(attributes: &[u8]) -> bool {
    let upper = attribute(attributes, UPPER_PROTOCOL).unwrap_or_default();
    upper.windows(6).any(|name| name == b"mptcp\0")
}

/// The value of an attribute.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let next = |bytes: &[u8]| {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?);
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        // Nested ones say so in the highest bits.
        Some((usize::from(length).max(4), kind & 0x3fff))
    };
    while let Some((length, kind)) = next(attributes) {
        if kind == wanted {
            let end = length.min(attributes.len());
            return attributes.get(4..end);
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::kernel::enforcer::sockets::*;

    fn socket_message() -> Vec<u8> {
        let mut body = vec![2, 1, 0, 0];
        body.extend(40_000_u16.to_be_bytes());
        body.extend(443_u16.to_be_bytes());
        body.extend([10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        body.extend([0; 12]);
        body.extend([0; 12]);
        body.extend(1_000_u32.to_ne_bytes());
        body.extend([0; 4]);
        // An attribute of one byte, then the cgroup.
        body.extend(5_u16.to_ne_bytes());
        body.extend(8_u16.to_ne_bytes());
        body.extend([7, 0, 0, 0]);
        body.extend(12_u16.to_ne_bytes());
        body.extend(CGROUP_ID.to_ne_bytes());
        body.extend(77_u64.to_ne_bytes());
        body
    }

    #[test]
    fn a_socket_is_read_as_the_kernel_writes_it() {
        let (state, connection, cgroup_id) = parse(&socket_message()).unwrap();
        assert_eq!(state, TcpState::ESTABLISHED);
        assert_eq!(connection.local, "10.0.0.5:40000".parse().unwrap());
        assert_eq!(connection.remote, "192.0.2.9:443".parse().unwrap());
        assert_eq!((connection.uid, cgroup_id), (1_000, 77));
        assert!(!connection.is_subflow);
        let mut of_mptcp = socket_message();
        of_mptcp.extend(14_u16.to_ne_bytes());
        of_mptcp.extend((UPPER_PROTOCOL | 1 << 15).to_ne_bytes());
        of_mptcp.extend([10, 0, 1, 0]);
        of_mptcp.extend(b"mptcp\0");
        let (_, connection, cgroup_id) = parse(&of_mptcp).unwrap();
        assert!(connection.is_subflow);
        assert_eq!(cgroup_id, 77);
    }

    #[test]
    fn what_is_cut_short_is_no_socket() {
        let whole = socket_message();
        for length in 0..SOCKET {
            assert!(parse(&whole[..length]).is_none(), "{length}");
        }
        assert!(message(&[0; 15]).is_none());
    }

    #[test]
    fn what_is_no_errno_is_an_error_all_the_same() {
        let read = |error: i32| acknowledged(&error.to_ne_bytes());
        assert_eq!(read(0), Ok(()));
        assert_eq!(read(-2), Err(Errno::NOENT));
        assert_eq!(read(-4_095), Err(Errno::from_raw_os_error(4_095)));
        for error in [i32::MIN, -4_096, 1, i32::MAX] {
            assert_eq!(read(error), Err(Errno::IO), "{error}");
        }
    }

    #[test]
    fn what_is_too_short_for_an_errno_is_no_success() {
        for length in 0..4 {
            assert_eq!(acknowledged(&[0; 4][..length]), Err(Errno::IO), "{length}");
        }
        let answer = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            let mut answer = length.to_ne_bytes().to_vec();
            answer.extend(kind.to_ne_bytes());
            answer.resize(HEADER, 0);
            answer.extend(body);
            answer
        };
        let whole = answer(ERROR, &[0; 20]);
        assert_eq!(destroyed(&whole), Ok(()));
        for length in 0..whole.len() {
            assert_eq!(destroyed(&whole[..length]), Err(Errno::IO), "{length}");
        }
        assert_eq!(destroyed(&answer(ERROR, &[0; 3])), Err(Errno::IO));
        assert_eq!(destroyed(&answer(LIST, &[0; 20])), Err(Errno::IO));
        let gone = answer(ERROR, &(-2_i32).to_ne_bytes());
        assert_eq!(destroyed(&gone), Err(Errno::NOENT));
    }
}
