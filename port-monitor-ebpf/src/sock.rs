//! The only reader of `struct sock`: addresses, ports and namespace, with the
//! byte order fixed here once and for all.

use port_monitor_common::{
    event::{AF_INET, AF_INET6, CloseStats},
    tcp_state::TcpState,
};

use crate::{globals::offset, mem::Mem, task};

/// `IPPROTO_TCP`.
const TCP: u16 = 6;

/// An address as `port_monitor_common::addr` spells it, in words: bytes would be
/// copied one by one, and verified one by one.
pub(crate) type Addr = [u32; 4];

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// `::ffff:a.b.c.d` for `a.b.c.d`, both in network byte order.
#[inline(always)]
pub(crate) const fn mapped(v4: u32) -> Addr {
    [0, 0, MAPPED, v4]
}

/// `::`.
pub(crate) const WILDCARD: Addr = [0; 4];
/// `0.0.0.0`.
pub(crate) const WILDCARD_V4: Addr = mapped(0);

/// The address is an IPv4-mapped one.
#[inline(always)]
pub(crate) fn is_v4(addr: &Addr) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == MAPPED
}

/// Where a socket leads.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) local_addr: Addr,
    pub(crate) remote_addr: Addr,
    pub(crate) netns_ino: u32,
    pub(crate) ifindex: u32,
    /// Host byte order; zero: not bound yet, or no longer.
    pub(crate) local_port: u16,
    /// Host byte order.
    pub(crate) remote_port: u16,
    pub(crate) family: u8,
}

/// The socket's family, if it is one of ours.
#[inline(always)]
pub(crate) unsafe fn family<M: Mem>(sk: *const u8) -> Option<u8> {
    // SAFETY: the caller's socket.
    let family: u16 = unsafe { M::read(sk, offset!(skc_family)) }?;
    match u8::try_from(family) {
        Ok(family @ (AF_INET | AF_INET6)) => Some(family),
        _ => None,
    }
}

/// The socket speaks TCP: not SCTP, DCCP, or MPTCP above its TCP subflows.
#[inline(always)]
pub(crate) unsafe fn is_tcp<M: Mem>(sk: *const u8) -> bool {
    // SAFETY: the caller's socket.
    let protocol: Option<u16> = unsafe { M::read(sk, offset!(sk_protocol)) };
    protocol == Some(TCP)
}

/// The socket speaks TCP, by itself or through MPTCP.
#[inline(always)]
pub(crate) unsafe fn is_tcp_stream(sk: *const u8) -> bool {
    const MPTCP: u16 = 262;
    let protocol: Option<u16> = task::read(sk, offset!(sk_protocol));
    matches!(protocol, Some(TCP | MPTCP))
}

/// `IPV6_V6ONLY` is set: `skc_ipv6only`, in the byte of bit fields after the
/// state (`skc_reuse:4`, `skc_reuseport:1`, `skc_ipv6only:1`).
#[inline(always)]
pub(crate) unsafe fn is_v6_only(sk: *const u8) -> bool {
    let bits: Option<u8> = task::read(sk, offset!(skc_state) + 1);
    matches!(bits, Some(bits) if bits & 1 << 5 != 0)
}

/// The socket's `connect` has not returned: `struct socket` is unconnected until
/// `__inet_stream_connect` has called the protocol (`net/ipv4/af_inet.c`).
#[inline(always)]
pub(crate) unsafe fn is_within_connect(sk: *const u8) -> bool {
    const SS_UNCONNECTED: u32 = 1;
    let state = task::read(sk, offset!(sk_socket))
        .and_then(|socket: *const u8| task::read::<u32>(socket, offset!(socket_state)));
    state == Some(SS_UNCONNECTED)
}

/// Everything in `struct sock_common`. `skc_num` is the local port from bind
/// until the socket is unbound, which happens before its →CLOSE is traced.
#[inline(always)]
pub(crate) unsafe fn flow<M: Mem>(sk: *const u8) -> Option<Flow> {
    // SAFETY: the caller's socket.
    let family = unsafe { family::<M>(sk) }?;
    // SAFETY: the caller's socket.
    let (local_addr, remote_addr) = unsafe { addresses::<M>(sk, family) }?;
    // SAFETY: the caller's socket.
    let local_port: u16 = unsafe { M::read(sk, offset!(skc_num)) }?;
    // SAFETY: the caller's socket.
    let remote_port_be: u16 = unsafe { M::read(sk, offset!(skc_dport)) }?;
    // SAFETY: the caller's socket.
    let ifindex: u32 = unsafe { M::read(sk, offset!(skc_bound_dev_if)) }?;
    // SAFETY: the caller's socket.
    let net: *const u8 = unsafe { M::read(sk, offset!(skc_net)) }?;
    // SAFETY: a socket holds its network namespace.
    let netns_ino: u32 = unsafe { M::read(net, offset!(net_inum)) }?;
    Some(Flow {
        local_addr,
        remote_addr,
        netns_ino,
        ifindex,
        local_port,
        remote_port: u16::from_be(remote_port_be),
        family,
    })
}

/// Local and remote address, IPv4 as IPv4-mapped.
#[inline(always)]
unsafe fn addresses<M: Mem>(sk: *const u8, family: u8) -> Option<(Addr, Addr)> {
    if family == AF_INET {
        // SAFETY: the caller's socket.
        let local = unsafe { M::read(sk, offset!(skc_rcv_saddr)) }?;
        // SAFETY: the caller's socket.
        let remote = unsafe { M::read(sk, offset!(skc_daddr)) }?;
        Some((mapped(local), mapped(remote)))
    } else {
        // SAFETY: the caller's socket.
        let local = unsafe { v6::<M>(sk, offset!(skc_v6_rcv_saddr)) }?;
        // SAFETY: the caller's socket.
        let remote = unsafe { v6::<M>(sk, offset!(skc_v6_daddr)) }?;
        Some((local, remote))
    }
}

/// An IPv6 address, in the words `struct in6_addr` is made of.
#[inline(always)]
unsafe fn v6<M: Mem>(sk: *const u8, offset: usize) -> Option<Addr> {
    // SAFETY: the caller's socket.
    let first = unsafe { M::read(sk, offset) }?;
    // SAFETY: the caller's socket.
    let second = unsafe { M::read(sk, offset + 4) }?;
    // SAFETY: the caller's socket.
    let third = unsafe { M::read(sk, offset + 8) }?;
    // SAFETY: the caller's socket.
    let fourth = unsafe { M::read(sk, offset + 12) }?;
    Some([first, second, third, fourth])
}

/// The local port from bind to the very end: `inet_sport` outlives `skc_num`.
#[inline(always)]
pub(crate) unsafe fn lasting_local_port<M: Mem>(sk: *const u8) -> Option<u16> {
    // SAFETY: the caller's socket.
    let port_be: u16 = unsafe { M::read(sk, offset!(inet_sport)) }?;
    Some(u16::from_be(port_be))
}

/// The socket's state.
#[inline(always)]
pub(crate) unsafe fn state<M: Mem>(sk: *const u8) -> Option<TcpState> {
    // SAFETY: the caller's socket.
    let state: u8 = unsafe { M::read(sk, offset!(skc_state)) }?;
    Some(TcpState(state))
}

/// `SOCK_DONE` of `enum sock_flags`: a FIN was received in order (`tcp_fin`).
const SOCK_DONE: u64 = 1 << 1;

/// What `tcp_sock` counts. `bytes_received` counts a FIN too, and `bytes_sent`
/// what was sent again.
#[inline(always)]
pub(crate) unsafe fn stats(sk: *const u8) -> Option<CloseStats> {
    let received: u64 = task::read(sk, offset!(tcp_bytes_received))?;
    let flags: u64 = task::read(sk, offset!(skc_flags))?;
    let sent: u64 = task::read(sk, offset!(tcp_bytes_sent))?;
    let sent_again: u64 = task::read(sk, offset!(tcp_bytes_retrans))?;
    let srtt_us_by_8: u32 = task::read(sk, offset!(tcp_srtt_us))?;
    let fin = u64::from(flags & SOCK_DONE != 0);
    Some(CloseStats {
        duration_ns: 0,
        bytes_received: received.saturating_sub(fin),
        bytes_sent: sent.saturating_sub(sent_again),
        retransmits: task::read(sk, offset!(tcp_total_retrans))?,
        srtt_us: srtt_us_by_8 >> 3,
        closed_by: 0,
        reserved: [0; 3],
        closer_tgid: 0,
    })
}

/// The socket's pending error, an errno.
#[inline(always)]
pub(crate) unsafe fn error<M: Mem>(sk: *const u8) -> Option<u32> {
    // SAFETY: the caller's socket.
    unsafe { M::read(sk, offset!(sk_err)) }
}
