//! How many bytes a socket has sent.

use port_monitor_common::tcp_state::TcpState;

use crate::{
    globals::offset,
    read::mem::{Mem, Probe, address},
};

/// Who opened a connection, which says whether a SYN is among its sequence numbers.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Opener {
    /// This end, by a SYN, which has a number.
    Local = 0,
    /// The peer, or nobody, of a connection that was restored: the numbers begin after a SYN.
    Peer = 1,
    /// Nobody saw; this end, as far as can be told.
    PerhapsLocal = 2,
    /// Nobody saw; the peer, as far as can be told.
    PerhapsPeer = 3,
}

/// Payload bytes sent, each once, of a connection whose state is, or was last, `state`.
/// `restored` is 1 where there was no SYN, because `TCP_REPAIR` took its place, else 0.
#[inline(always)]
pub(crate) fn bytes<M: Mem>(sk: *const u8, state: TcpState, opener: Opener, restored: u8) -> u64 {
    let opener = opener as u64 | u64::from(restored);
    if M::IS_TYPED {
        count::<M>(sk, state.0.into(), opener)
    } else {
        pm_sent(address(sk), state.0.into(), opener)
    }
}

/// The states in which a FIN is to be sent, or has been, a bit each.
const FIN_STATES: u64 = 1 << TcpState::FIN_WAIT1.0
    | 1 << TcpState::FIN_WAIT2.0
    | 1 << TcpState::LAST_ACK.0
    | 1 << TcpState::CLOSING.0;

/// What an acknowledgement changes: as long as it stays, all that [`bytes`] reads fits
/// together.
#[inline(always)]
pub(crate) fn acknowledged(sk: *const u8) -> (u64, u32) {
    (
        Probe::read_or_zero(sk, offset!(tcp_bytes_acked)),
        Probe::read_or_zero(sk, offset!(tcp_snd_una)),
    )
}

/// This end closes or has closed in this state.
#[inline(always)]
pub(crate) fn has_fin(state: u64) -> bool {
    FIN_STATES >> (state & 31) & 1 != 0
}

/// What [`bytes`] counts. A function that the verifier looks at by itself, once: the programs
/// that ask have no stack left for what it reads by a helper.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_sent(sk: u64, state: u64, opener: u64) -> u64 {
    count::<Probe>(sk as *const u8, state, opener)
}

/// The sequence numbers that the peer has acknowledged and those that are in flight, but for
/// a SYN's and a FIN's: of what the host's own queue or filter refuses, there is none.
#[inline(always)]
fn count<M: Mem>(sk: *const u8, state: u64, opener: u64) -> u64 {
    let acked: u64 = M::read_or_zero(sk, offset!(tcp_bytes_acked));
    let first: u32 = M::read_or_zero(sk, offset!(tcp_snd_una));
    let next: u32 = M::read_or_zero(sk, offset!(tcp_snd_nxt));
    let end: u32 = M::read_or_zero(sk, offset!(tcp_write_seq));
    let mut numbers = acked + u64::from(next.wrapping_sub(first));
    // A FIN has the last number.
    if has_fin(state) && next == end {
        numbers = numbers.saturating_sub(1);
    }
    let without_syn = numbers.saturating_sub(1);
    if opener == Opener::Local as u64 {
        return without_syn;
    }
    if opener == Opener::Peer as u64 {
        return numbers;
    }
    // The payload of all segments is as much, unless the host refused some.
    let sent: u64 = M::read_or_zero(sk, offset!(tcp_bytes_sent));
    let again: u64 = M::read_or_zero(sk, offset!(tcp_bytes_retrans));
    let payload = sent.saturating_sub(again);
    if payload == without_syn || payload > numbers && opener == Opener::PerhapsLocal as u64 {
        without_syn
    } else {
        numbers
    }
}
