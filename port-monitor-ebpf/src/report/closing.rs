//! Who opened a connection, and who closed it: what completes the record of its end.

use port_monitor_common::{
    event::{CloseEvent, ClosedBy, FLAG_INBOUND},
    tcp_state::TcpState,
};

use crate::read::{
    mem::{self, Mem, Probe},
    sent::Opener,
    sock, task,
};

/// The running process. Zero where it closes what others gave up: a thread of the kernel closes
/// the subflows of MPTCP and the files of a process that is gone; the monitor, what was let go
/// of while its iterator held it (`task_file_seq_next`).
#[inline(always)]
pub(crate) fn running_process() -> u32 {
    let tgid = task::current_tgid();
    let is_by_itself = !task::is_kernel_thread(task::current()) && !task::is_monitor(tgid);
    tgid * u32::from(is_by_itself)
}

/// Completes the record of a connection that was in the state `last`.
#[inline(always)]
pub(crate) fn complete<M: Mem>(
    sk: *const u8,
    last: TcpState,
    record: &mut CloseEvent,
) -> Option<()> {
    let opener = opener(record);
    let stats = &mut record.stats;
    let errno = sock::error::<M>(sk)?;
    record.event.detail = errno;
    sock::read_stats::<M>(sk, last, opener, stats)?;
    let noted = closed(stats.closed_by, stats.closer_tgid);
    let closed = if M::IS_TYPED {
        closed_by::<M>(sk, last, errno, noted)
    } else {
        pm_closed(mem::address(sk), last.0.into(), errno.into(), noted)
    };
    stats.closed_by = closed as u8;
    stats.closer_tgid = (closed >> 32) as u32;
    Some(())
}

/// Who closed a connection first, and the process that closed this end, as one number.
#[inline(always)]
fn closed(by: u8, closer_tgid: u32) -> u64 {
    u64::from(closer_tgid) << 32 | u64::from(by)
}

/// What [`closed_by`] says, by a function that the verifier looks at by itself, once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_closed(sk: u64, last: u64, errno: u64, noted: u64) -> u64 {
    closed_by::<Probe>(sk as *const u8, TcpState(last as u8), errno as u32, noted)
}

/// Who closed a connection that was in the state `last`, by what was noted of it: both as
/// [`closed`] has it.
#[inline(always)]
fn closed_by<M: Mem>(sk: *const u8, last: TcpState, errno: u32, noted: u64) -> u64 {
    if errno == 0 && sock::in_repair::<M>(sk) != 0 && !sock::is_closed_by_both::<M>(sk, last) {
        // Whoever has closed its half, the connection lives on without this socket.
        return closed(ClosedBy::TakenAway as u8, running_process());
    }
    if noted as u8 != ClosedBy::Unknown as u8 {
        return noted;
    }
    let by = closed_first(last, errno) as u8;
    if by == ClosedBy::LocalReset as u8 {
        return closed(by, running_process());
    }
    closed(by, (noted >> 32) as u32)
}

/// Who opened the connection.
#[inline(always)]
pub(crate) fn opener(record: &CloseEvent) -> Opener {
    let was_seen = record.stats.duration_ns != 0;
    match (record.event.flags & FLAG_INBOUND != 0, was_seen) {
        (false, true) => Opener::Local,
        (true, true) => Opener::Peer,
        (false, false) => Opener::PerhapsLocal,
        (true, false) => Opener::PerhapsPeer,
    }
}

/// Who ended a connection, where nobody saw a FIN: it came before the connection
/// was remembered, which the last state tells; or there was none, and the errno is
/// that of `tcp_reset`, `tcp_abort`, or `tcp_write_err`, which gives what an ICMP
/// said of the silence, else `ETIMEDOUT`.
#[inline(always)]
fn closed_first(last: TcpState, errno: u32) -> ClosedBy {
    const EPIPE: u32 = 32;
    const ECONNABORTED: u32 = 103;
    const ECONNRESET: u32 = 104;
    match (last, errno) {
        (TcpState::CLOSE_WAIT | TcpState::LAST_ACK, _) => ClosedBy::Peer,
        (TcpState::FIN_WAIT1 | TcpState::FIN_WAIT2 | TcpState::CLOSING, _) => ClosedBy::Local,
        (_, 0 | ECONNABORTED) => ClosedBy::LocalReset,
        (_, EPIPE | ECONNRESET) => ClosedBy::PeerReset,
        _ => ClosedBy::Timeout,
    }
}
