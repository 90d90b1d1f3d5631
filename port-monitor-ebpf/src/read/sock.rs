//! The only reader of `struct sock`: addresses, ports and namespace, with the
//! byte order fixed here once and for all.

use core::hint::black_box;

pub(crate) use port_monitor_common::addr::{Words as Addr, is_mapped as is_v4, mapped};
use port_monitor_common::{
    event::{AF_INET, AF_INET6, CloseStats, TcpEvent},
    tcp_state::TcpState,
};

use crate::{
    globals::offset,
    read::{
        mem::{Mem, Probe},
        sent::{self, Opener},
        task,
    },
};

/// `IPPROTO_TCP`.
const TCP: u16 = 6;
/// `IPPROTO_MPTCP`.
const MPTCP: u16 = 262;

/// `IPPROTO_UDP`.
pub(crate) const UDP: u32 = 17;

/// `::`.
pub(crate) const WILDCARD: Addr = [0; 4];
/// `0.0.0.0`.
pub(crate) const WILDCARD_V4: Addr = mapped(0);

/// The words of an address in a record.
#[inline(always)]
pub(crate) const fn words(addr: &[u8; 16]) -> Addr {
    // SAFETY: 16 bytes, aligned to 8 by the record.
    unsafe { *(&raw const *addr).cast() }
}

/// Writes an address into a record.
#[inline(always)]
pub(crate) const fn set(addr: &mut [u8; 16], words: Addr) {
    // SAFETY: as above.
    unsafe { (&raw mut *addr).cast::<Addr>().write(words) };
}

/// 1 where both are the same address, else 0. Without a branch, which would lead the
/// verifier twice through all that follows.
#[inline(always)]
pub(crate) fn same(one: Addr, other: Addr) -> u64 {
    let words = one.iter().zip(&other);
    is_zero(words.fold(0, |bits, (one, other)| bits | (one ^ other)))
}

/// 1 for zero, else 0, likewise.
#[inline(always)]
pub(crate) fn is_zero(word: u32) -> u64 {
    u64::from(black_box(word)).wrapping_sub(1) >> 63
}

/// The socket's family, if it is one of ours.
#[inline(always)]
pub(crate) fn family<M: Mem>(sk: *const u8) -> Option<u8> {
    let family: u16 = M::read(sk, offset!(skc_family))?;
    match u8::try_from(family) {
        Ok(family @ (AF_INET | AF_INET6)) => Some(family),
        _ => None,
    }
}

/// The number is that of TCP, by itself or through MPTCP.
#[inline(always)]
pub(crate) fn is_tcp_protocol(protocol: u32) -> bool {
    protocol == u32::from(TCP) || protocol == u32::from(MPTCP)
}

/// The uid of whoever made the socket, in the initial user namespace.
#[inline(always)]
pub(crate) fn uid(sk: *const u8) -> Option<u32> {
    task::read(sk, offset!(sk_uid))
}

/// The socket speaks TCP: not SCTP, DCCP, or MPTCP above its TCP subflows.
#[inline(always)]
pub(crate) fn is_tcp<M: Mem>(sk: *const u8) -> bool {
    let protocol: Option<u16> = M::read(sk, offset!(sk_protocol));
    protocol == Some(TCP)
}

/// The TCP socket behind a socket: itself, or the first subflow of an MPTCP one.
#[inline(always)]
pub(crate) fn tcp(sk: *const u8) -> Option<*const u8> {
    match task::read::<u16>(sk, offset!(sk_protocol))? {
        TCP => Some(sk),
        MPTCP if offset!(mptcp_first) != 0 => {
            let first: *const u8 = task::read(sk, offset!(mptcp_first))?;
            if first.is_null() { None } else { Some(first) }
        }
        _ => None,
    }
}

/// A subflow of an MPTCP connection.
#[inline(always)]
pub(crate) fn is_subflow(sk: *const u8) -> bool {
    if offset!(tcp_is_mptcp) == 0 {
        return false;
    }
    let is_mptcp: Option<u8> = task::read(sk, offset!(tcp_is_mptcp));
    matches!(is_mptcp, Some(is_mptcp) if is_mptcp != 0)
}

/// The socket speaks TCP, by itself or through MPTCP.
#[inline(always)]
pub(crate) fn is_tcp_stream(sk: *const u8) -> bool {
    let protocol: Option<u16> = task::read(sk, offset!(sk_protocol));
    matches!(protocol, Some(TCP | MPTCP))
}

/// `IPV6_V6ONLY` is set: `skc_ipv6only`, a bit field.
#[inline(always)]
pub(crate) fn is_v6_only(sk: *const u8) -> bool {
    if offset!(skc_ipv6only) == 0 {
        return false;
    }
    let bits: Option<u8> = task::read(sk, offset!(skc_ipv6only));
    matches!(bits, Some(bits) if bits as usize >> (offset!(skc_ipv6only_bit) & 7) & 1 != 0)
}

/// 1 where `TCP_REPAIR` is on, else 0: what happens to the socket, its peer does not learn.
/// Without a branch.
#[inline(always)]
pub(crate) fn in_repair<M: Mem>(sk: *const u8) -> u8 {
    let bits: u8 = M::read_or_zero(sk, offset!(tcp_repair));
    bits >> (offset!(tcp_repair_bit) & 7) & u8::from(offset!(tcp_repair) != 0)
}

/// The socket's `connect` has not returned: `struct socket` is unconnected until
/// `__inet_stream_connect` has called the protocol (`net/ipv4/af_inet.c`).
#[inline(always)]
pub(crate) fn is_within_connect<M: Mem>(sk: *const u8) -> bool {
    const SS_UNCONNECTED: u32 = 1;
    let state = M::read(sk, offset!(sk_socket))
        .and_then(|socket: *const u8| M::read::<u32>(socket, offset!(socket_state)));
    state == Some(SS_UNCONNECTED)
}

/// The socket's SYN waits for the first write: it has called `connect`, and sent nothing.
#[inline(always)]
pub(crate) fn is_deferred(sk: *const u8) -> bool {
    is_unsent(sk) && state::<Probe>(sk) == Some(TcpState::SYN_SENT)
}

/// The socket's `connect` has returned, without a connection so far.
#[inline(always)]
pub(crate) fn is_connecting<M: Mem>(sk: *const u8) -> bool {
    const SS_CONNECTING: u32 = 2;
    let state = M::read(sk, offset!(sk_socket))
        .and_then(|socket: *const u8| M::read::<u32>(socket, offset!(socket_state)));
    state == Some(SS_CONNECTING)
}

/// A socket in `SYN_RECV` is the child of a listener, not one that connects and has met
/// its peer's SYN (simultaneous open): a child has no `struct socket`, or is connected from
/// the accept on (`inet_accept`); the other one is not before it is established.
#[inline(always)]
pub(crate) fn is_passive<M: Mem>(sk: *const u8) -> bool {
    const SS_CONNECTED: u32 = 3;
    let Some(socket) = M::read::<*const u8>(sk, offset!(sk_socket)) else {
        return false;
    };
    socket.is_null() || M::read::<u32>(socket, offset!(socket_state)) == Some(SS_CONNECTED)
}

/// The child of a listener, whose handshake is not complete, was in the accept queue before
/// that. Its request is taken away before a reset is told: then it is known by the data of
/// its SYN, or by being accepted.
#[inline(always)]
pub(crate) fn is_fast_open(sk: *const u8) -> bool {
    let request: Option<u64> = task::read(sk, offset!(tcp_fastopen_rsk));
    let received: Option<u64> = task::read(sk, offset!(tcp_bytes_received));
    let socket: Option<u64> = task::read(sk, offset!(sk_socket));
    let facts = [request, received, socket];
    facts
        .iter()
        .any(|fact| matches!(fact, Some(fact) if *fact != 0))
}

/// The listener of a Fast Open connection was closed before the handshake is complete: its
/// request holds it in memory.
#[inline(always)]
pub(crate) fn is_let_go(sk: *const u8) -> bool {
    let listener = task::read(sk, offset!(tcp_fastopen_rsk))
        .and_then(|request: *const u8| task::read(request, offset!(skc_listener)))
        .and_then(state::<Probe>);
    offset!(skc_listener) != 0 && listener == Some(TcpState::CLOSE)
}

/// Fast Open connections have come to the listener whose handshakes are not complete.
#[inline(always)]
pub(crate) fn has_fast_open_requests(sk: *const u8) -> bool {
    let requests: Option<u32> = task::read(sk, offset!(fast_open_requests));
    offset!(fast_open_requests) != 0 && matches!(requests, Some(requests) if requests != 0)
}

/// The socket's SYN is not sent yet: `tcp_connect` has not counted it.
#[inline(always)]
pub(crate) fn is_unsent(sk: *const u8) -> bool {
    task::read::<u32>(sk, offset!(tcp_packets_out)) == Some(0)
}

/// The socket is in no table of the kernel's: if it listens, `inet_hash` is still to come.
#[inline(always)]
pub(crate) fn is_unhashed(sk: *const u8) -> bool {
    task::read::<usize>(sk, offset!(skc_node_pprev)) == Some(0)
}

/// Everything in `struct sock_common`, into a record. `skc_num` is the local port
/// from bind until the socket is unbound, which happens before its →CLOSE is traced.
#[inline(always)]
pub(crate) fn read<M: Mem>(sk: *const u8, event: &mut TcpEvent) -> Option<()> {
    // A pointer, so before the ways part: `task::read_current`. A socket holds its
    // network namespace.
    let net: *const u8 = M::read(sk, offset!(skc_net))?;
    event.netns_ino = M::read(net, offset!(net_inum))?;
    event.family = family::<M>(sk)?;
    read_addresses::<M>(sk, event)?;
    event.local_port = M::read(sk, offset!(skc_num))?;
    event.remote_port = u16::from_be(M::read(sk, offset!(skc_dport))?);
    event.ifindex = M::read(sk, offset!(skc_bound_dev_if))?;
    Some(())
}

/// Local and remote address, IPv4 as IPv4-mapped. IPv6 first: to the verifier,
/// which walks through it first, the constant words of IPv4 are then a case of it.
#[inline(always)]
fn read_addresses<M: Mem>(sk: *const u8, event: &mut TcpEvent) -> Option<()> {
    let (local, remote) = if event.family == AF_INET6 {
        (
            v6::<M>(sk, offset!(skc_v6_rcv_saddr))?,
            v6::<M>(sk, offset!(skc_v6_daddr))?,
        )
    } else {
        (
            mapped(M::read(sk, offset!(skc_rcv_saddr))?),
            mapped(M::read(sk, offset!(skc_daddr))?),
        )
    };
    set(&mut event.local_addr, local);
    set(&mut event.remote_addr, remote);
    Some(())
}

/// An IPv6 address, in the words `struct in6_addr` is made of.
#[inline(always)]
fn v6<M: Mem>(sk: *const u8, offset: usize) -> Option<Addr> {
    Some([
        M::read(sk, offset)?,
        M::read(sk, offset + 4)?,
        M::read(sk, offset + 8)?,
        M::read(sk, offset + 12)?,
    ])
}

/// The local port from bind to the very end: `inet_sport` outlives `skc_num`.
#[inline(always)]
pub(crate) fn lasting_local_port<M: Mem>(sk: *const u8) -> Option<u16> {
    let port_be: u16 = M::read(sk, offset!(inet_sport))?;
    Some(u16::from_be(port_be))
}

/// The socket's state.
#[inline(always)]
pub(crate) fn state<M: Mem>(sk: *const u8) -> Option<TcpState> {
    let state: u8 = M::read(sk, offset!(skc_state))?;
    Some(TcpState(state))
}

/// `SOCK_DONE` of `enum sock_flags`: a FIN was received in order (`tcp_fin`).
const SOCK_DONE: u64 = 1 << 1;

/// What `tcp_sock` counts, of a connection whose state is, or was last, `state`.
/// `bytes_received` counts a FIN too.
#[inline(always)]
pub(crate) fn read_stats<M: Mem>(
    sk: *const u8,
    state: TcpState,
    opener: Opener,
    stats: &mut CloseStats,
) -> Option<()> {
    let received: u64 = M::read(sk, offset!(tcp_bytes_received))?;
    let flags: u64 = M::read(sk, offset!(skc_flags))?;
    let srtt_us_by_8: u32 = M::read(sk, offset!(tcp_srtt_us))?;
    let fin = u64::from(flags & SOCK_DONE != 0);
    stats.bytes_received = received.saturating_sub(fin);
    stats.bytes_sent = sent::bytes::<M>(sk, state, opener, stats.restored);
    stats.retransmits = M::read(sk, offset!(tcp_total_retrans))?;
    stats.srtt_us = srtt_us_by_8 >> 3;
    Some(())
}

/// Both ends have closed a connection that was in the state `last`.
#[inline(always)]
pub(crate) fn is_closed_by_both<M: Mem>(sk: *const u8, last: TcpState) -> bool {
    let flags: Option<u64> = M::read(sk, offset!(skc_flags));
    sent::has_fin(last.0.into()) && matches!(flags, Some(flags) if flags & SOCK_DONE != 0)
}

/// The socket's pending error, an errno.
#[inline(always)]
pub(crate) fn error<M: Mem>(sk: *const u8) -> Option<u32> {
    M::read(sk, offset!(sk_err))
}
