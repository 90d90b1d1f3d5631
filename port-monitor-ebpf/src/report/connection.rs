//! What is remembered of a connection from its attempt or accept to its end:
//! state changes run in softirq as a rule, where `current` is anybody.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_ANY, BPF_NOEXIST},
};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{CloseEvent, ClosedBy, EventKind, FLAG_ENDED, FLAG_INBOUND, TcpEvent},
    site::Site,
    tcp_state::TcpState,
};

use crate::{
    account::{self, Look, Removal, Stop, is_stored, ours, readable, removal},
    globals::config,
    maps::{
        CONNECTIONS,
        values::{Connection, LASTING_FLAGS},
    },
    read::{
        mem::{self, Mem, Probe},
        sock, task,
    },
    report::{closing, emit, filter, once},
};

/// What becomes of an attempt, a bit for each kind.
pub(crate) const OUTCOMES: u32 =
    EventKind::Connected.bit() | EventKind::Failed.bit() | EventKind::Restored.bit();

/// [`Connection::flags`]: established.
const OPEN: u8 = 1 << 7;
/// [`Connection::flags`]: how its owner is known.
const OWNER_SOURCE: u8 = 7;
const _: () = assert!(LASTING_FLAGS & !(u8::MAX & !OPEN & !OWNER_SOURCE) as u16 == 0);

/// [`Connection::end`]: it is over, and could not be removed.
const OVER: u8 = 1;

impl Connection {
    /// Hands `keep` what the event that begins it tells of it. The event stays as it was.
    #[inline(always)]
    pub(crate) fn lend<R>(
        event: &mut TcpEvent,
        is_open: bool,
        closed_by: ClosedBy,
        keep: impl FnOnce(&Self) -> R,
    ) -> R {
        let flags = (event.flags & LASTING_FLAGS) as u8 | event.owner_source;
        let open = if is_open { OPEN } else { 0 };
        let first = (&raw mut *event).cast::<u64>();
        // SAFETY: the event's first word, which ends where both have their time.
        let before = unsafe { first.read_volatile() };
        let word = u64::from(flags + open) << 32 | (closed_by as u64) << 40;
        // SAFETY: as above.
        unsafe { first.write_volatile(word) };
        // SAFETY: from the second word on both are the same.
        let result = keep(unsafe { &*first.cast::<Self>() });
        // SAFETY: as above.
        unsafe { first.write_volatile(before) };
        result
    }

    /// Tells a later event whose it is.
    #[inline(always)]
    pub(crate) fn identify(&self, event: &mut TcpEvent) {
        mem::copy(&self.owner, &mut event.owner);
        event.id = self.id;
        event.flags = u16::from(self.flags) & LASTING_FLAGS;
        event.owner_source = self.flags & OWNER_SOURCE;
    }

    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.flags & OPEN != 0
    }

    /// It is a socket that listens.
    #[inline(always)]
    pub(crate) fn is_listener(&self) -> bool {
        !self.is_open() && u16::from(self.flags) & FLAG_INBOUND != 0
    }

    /// Nobody has told its end.
    #[inline(always)]
    pub(crate) fn is_known(&self) -> bool {
        self.end & OVER == 0
    }

    #[inline(always)]
    pub(crate) fn set_over(&mut self) {
        self.end = OVER;
    }

    #[inline(always)]
    pub(crate) fn set_open(&mut self) {
        self.flags |= OPEN;
    }
}

/// Connections are remembered beyond their beginning: for their end, or because
/// the look at the open sockets must not report them again.
#[inline(always)]
fn is_end_wanted() -> bool {
    emit::is_wanted(EventKind::Close)
        || emit::is_wanted(EventKind::Preexisting)
        || emit::is_wanted(EventKind::Progress)
}

/// Of a connection more is wanted than its beginning.
#[inline(always)]
fn is_more_wanted() -> bool {
    config!(kinds) & OUTCOMES != 0 || is_end_wanted()
}

/// Remembers the connection on `sk`; what cannot be is counted.
#[inline(always)]
fn remember(sk: *const u8, connection: &Connection) -> bool {
    let keep = |flags: u32| CONNECTIONS.insert(sk as u64, connection, flags.into());
    // As a rule there is none.
    if !account::is_injected(Site::Remember) && keep(BPF_NOEXIST).is_ok() {
        return true;
    }
    end_earlier(sk);
    is_stored(Site::Remember, || keep(BPF_ANY))
}

/// Forgets the connection on `sk`, which is `known`. Of several programs that see its end,
/// one is told that it was this one: it reports it.
#[inline(always)]
fn forget(sk: *const u8, known: &mut Connection) -> bool {
    match removal(Site::Forget, || CONNECTIONS.remove(sk as u64)) {
        Removal::Removed => true,
        Removal::Absent => false,
        Removal::Failed => {
            known.set_over();
            true
        }
    }
}

/// Counts what an earlier socket at this address has left: its end was not seen. It is not
/// taken for a later one's, also where it can neither be replaced nor removed.
#[inline(always)]
fn end_earlier(sk: *const u8) {
    if let Some(earlier) = known(sk) {
        earlier.set_over();
        if earlier.is_rest_wanted() {
            account::count_extra(Extra::Unseen);
        }
    }
}

/// Forgets what an earlier socket at this address may have left.
#[inline(always)]
fn forget_earlier(sk: *const u8) {
    end_earlier(sk);
    removal(Site::Forget, || CONNECTIONS.remove(sk as u64));
}

/// What is remembered on `sk`.
#[inline(always)]
fn known(sk: *const u8) -> Option<&'static mut Connection> {
    // SAFETY: a map value; only changes of this very socket's state, which do not
    // run concurrently, write or remove it.
    let known = unsafe { &mut *CONNECTIONS.get_ptr_mut(sk as u64)? };
    if known.is_known() { Some(known) } else { None }
}

/// Makes it an event of the pending attempt on `sk`, which is forgotten.
#[inline(always)]
pub(crate) fn take_attempt(sk: *const u8, event: &mut TcpEvent) -> Option<()> {
    let attempt = known(sk)?;
    if attempt.is_open() {
        return None;
    }
    attempt.identify(event);
    forget(sk, attempt).then_some(())
}

/// Remembers an attempt for its outcome and its end, if somebody asks for them.
#[inline(always)]
pub(crate) fn remember_attempt(sk: *const u8, owner_passes: bool, event: &mut TcpEvent) {
    let wanted = is_more_wanted();
    let passes = owner_passes && filter::may_pass_when_bound(event);
    if task::is_monitor(event.owner.tgid) || wanted && passes {
        Connection::lend(event, false, ClosedBy::Unknown, |attempt| {
            remember(sk, attempt);
        });
    } else if wanted {
        // Nor may it be taken for an earlier socket's at this address.
        forget_earlier(sk);
    }
}

/// The pending attempt on `sk` sends its SYN now: the handshake begins.
#[inline(always)]
pub(crate) fn sends_late(sk: *const u8) {
    if let Some(attempt) = known(sk)
        && !attempt.is_open()
        && attempt.ts_ns != 0
    {
        attempt.ts_ns = emit::now_ns();
    }
}

/// Remembers an inbound connection for its end, if somebody asks for that: true where it
/// is remembered.
#[inline(always)]
pub(crate) fn remember_inbound(
    sk: *const u8,
    owner_passes: bool,
    event: &mut TcpEvent,
    state: TcpState,
) -> bool {
    let passes = owner_passes && filter::flow_passes(event);
    if !task::is_monitor(event.owner.tgid) && !(is_end_wanted() && passes) {
        if is_more_wanted() {
            forget_earlier(sk);
        }
        return false;
    }
    // The peer may have closed before anybody accepted.
    let closed_by = if state == TcpState::CLOSE_WAIT {
        ClosedBy::Peer
    } else {
        ClosedBy::Unknown
    };
    Connection::lend(event, true, closed_by, |connection| {
        remember(sk, connection)
    })
}

/// Notes or reports what a state change says of a socket, to the program whose proof
/// `WATCHER` is.
#[inline(always)]
pub(crate) fn changed<M: Mem, const TRACEPOINT: bool, const WATCHER: u64>(
    ctx: &impl EbpfContext,
    sk: *const u8,
    old: TcpState,
    new: TcpState,
) -> Look {
    if account::is_injected(Site::Event) {
        return Err(Stop::NotOurs);
    }
    // An end; a handshake that is complete, or given up after the peer's SYN: that of an
    // inbound connection is of no interest where its accept is told.
    let mut told = Err(Stop::NotOurs);
    if new == TcpState::CLOSE
        || old == TcpState::SYN_RECV && (TRACEPOINT || known(sk).is_some())
        || old == TcpState::SYN_SENT && new == TcpState::ESTABLISHED
    {
        told = report_or::<M, TRACEPOINT, WATCHER>(ctx, sk, old, new);
    }
    match (old, new) {
        // A FIN leaves in the thread that closes.
        (TcpState::ESTABLISHED | TcpState::SYN_RECV, TcpState::FIN_WAIT1) => {
            note_end(sk, Some(ClosedBy::Local), closing::running_process());
        }
        (TcpState::CLOSE_WAIT, TcpState::LAST_ACK) => {
            note_end(sk, None, closing::running_process())
        }
        (TcpState::ESTABLISHED | TcpState::SYN_RECV, TcpState::CLOSE_WAIT) => {
            note_end(sk, Some(ClosedBy::Peer), 0);
        }
        _ => {}
    }
    told
}

/// Notes who closed the connection on `sk` first, and who closed this end.
#[inline(always)]
fn note_end(sk: *const u8, first: Option<ClosedBy>, closer_tgid: u32) {
    if let Some(connection) = known(sk) {
        if let Some(first) = first {
            connection.closed_by = first as u8;
        }
        connection.closer_tgid = closer_tgid;
    }
}

/// Reports the outcome of an attempt, the end of a connection or of a listener:
/// whichever is remembered on `sk`.
#[inline(always)]
pub(crate) fn report(ctx: &impl EbpfContext, sk: *const u8, old: TcpState, new: TcpState) -> Look {
    report_or::<Probe, false, 0>(ctx, sk, old, new)
}

/// Does what [`report`] does; on the tracepoint backend, a completed handshake that belongs to
/// no attempt is an inbound connection, and nobody sees what `connect` returns. All in one,
/// so that there is one copy of what they share.
#[inline(always)]
pub(crate) fn report_or<M: Mem, const TRACEPOINT: bool, const WATCHER: u64>(
    ctx: &impl EbpfContext,
    sk: *const u8,
    old: TcpState,
    new: TcpState,
) -> Look {
    let mut slot = MaybeUninit::uninit();
    let record: &mut CloseEvent = emit::record(&mut slot, EventKind::Close);
    let (hook, sk) = if old == TcpState::LISTEN {
        ours(crate::report::listening::recall(sk, &mut record.event))?;
        (Hook::Listen, whole::<M>(sk)?)
    } else if TRACEPOINT && came_in(sk, old, new) {
        (Hook::Accept, sk)
    } else {
        let connection = ours(known(sk))?;
        let sk = whole::<M>(sk)?;
        let hook = recall::<M, TRACEPOINT, WATCHER>(sk, connection, (old, new), record)?;
        (hook, sk)
    };
    readable(sock::read::<M>(sk, &mut record.event), Site::Socket)?;
    record.event.local_port = readable(sock::lasting_local_port::<M>(sk), Site::Socket)?;
    let mut owner_passes = true;
    if hook as u32 == Hook::Accept as u32 {
        owner_passes = ours(crate::report::listeners::established(
            sk,
            &mut record.event,
            ended(new),
        ))?;
    }
    if hook as u32 == Hook::Close as u32 {
        readable(closing::complete::<M>(sk, old, record), Site::Socket)?;
    }
    let told = emit::emit_change::<M>(ctx, hook, owner_passes, record);
    if hook as u32 == Hook::Accept as u32 {
        if new != TcpState::CLOSE {
            remember_inbound(sk, owner_passes, &mut record.event, new);
        } else if owner_passes && filter::flow_passes(&record.event) {
            // It is over, and no other change will tell its end.
            record.event.flags &= LASTING_FLAGS;
            account::ended(report_end(ctx, sk, old, record));
        }
    }
    told
}

/// The flag of a connection that is over when it is told.
#[inline(always)]
fn ended(new: TcpState) -> u16 {
    if new == TcpState::CLOSE {
        FLAG_ENDED
    } else {
        0
    }
}

/// A connection has come in: its handshake is complete, or it is a Fast Open one, which
/// can be read, answered and closed before that.
#[inline(always)]
fn came_in(sk: *const u8, old: TcpState, new: TcpState) -> bool {
    old == TcpState::SYN_RECV
        && sock::is_passive::<Probe>(sk)
        && (new == TcpState::ESTABLISHED || sock::is_fast_open(sk))
}

/// Reports the end of a connection that was over before it was remembered, in the record
/// of its beginning.
#[inline(always)]
pub(crate) fn ended_early(
    ctx: &impl EbpfContext,
    sk: *const u8,
    last: TcpState,
    record: &mut CloseEvent,
) -> Look {
    let connection = ours(known(sk))?;
    connection.identify(&mut record.event);
    record.stats.closed_by = connection.closed_by;
    record.stats.closer_tgid = connection.closer_tgid;
    if !forget(sk, connection) {
        // The programs that see ends have reported it.
        return Err(Stop::NotOurs);
    }
    report_end(ctx, sk, last, record)
}

/// Makes the record of a connection's beginning that of its end, now, and reports it.
#[inline(always)]
fn report_end(
    ctx: &impl EbpfContext,
    sk: *const u8,
    last: TcpState,
    record: &mut CloseEvent,
) -> Look {
    let began_ns = record.event.ts_ns;
    record.event.kind = EventKind::Close as u8;
    record.event.ts_ns = emit::now_ns();
    record.stats.duration_ns = record.event.ts_ns.saturating_sub(began_ns);
    readable(closing::complete::<Probe>(sk, last, record), Site::Socket)?;
    emit::emit_change::<Probe>(ctx, Hook::Close, true, record)
}

/// From the number of an attempt that succeeded to that of a connection that was restored.
const TO_RESTORED: u8 = EventKind::Restored as u8 - EventKind::Connected as u8;

/// The socket, all of which `M` can read.
#[inline(always)]
fn whole<M: Mem>(sk: *const u8) -> Look<*const u8> {
    let sk = M::tcp(sk);
    if M::IS_TYPED && sk.is_null() {
        return Err(Stop::GaveUp(Site::Socket));
    }
    Ok(sk)
}

/// Makes the record that of what the change of `sk` ends, of what is remembered on it.
#[inline(always)]
fn recall<M: Mem, const TRACEPOINT: bool, const WATCHER: u64>(
    sk: *const u8,
    connection: &mut Connection,
    (old, new): (TcpState, TcpState),
    record: &mut CloseEvent,
) -> Look<Hook> {
    let event = &mut record.event;
    let is_open = connection.is_open();
    // A simultaneous open goes through `SYN_RECV`.
    let is_attempt =
        old == TcpState::SYN_SENT || old == TcpState::SYN_RECV && !sock::is_passive::<M>(sk);
    if !is_open && is_attempt {
        if !TRACEPOINT && is_returned::<M>(sk, new) {
            return Err(Stop::NotOurs);
        }
        connection.identify(event);
        if new == TcpState::ESTABLISHED {
            connection.restored = sock::in_repair::<M>(sk);
            event.kind = EventKind::Connected as u8 + connection.restored * TO_RESTORED;
            event.detail = handshake_us(connection.ts_ns, event.ts_ns);
        } else {
            event.kind = EventKind::Failed as u8;
            event.detail = readable(sock::error::<M>(sk), Site::Socket)?;
        }
        let is_monitor = task::is_monitor(connection.owner.tgid);
        if is_monitor && new == TcpState::ESTABLISHED {
            prove(WATCHER);
        }
        if new == TcpState::ESTABLISHED && (is_monitor || is_end_wanted()) {
            connection.set_open();
        } else if !forget(sk, connection) {
            return Err(Stop::NotOurs);
        }
        return Ok(Hook::Outcome);
    }
    if new != TcpState::CLOSE {
        if task::is_monitor(connection.owner.tgid) && old == TcpState::SYN_SENT {
            prove(WATCHER);
        }
        // Reported by another program; or of an earlier socket at this address, whose end
        // was not seen.
        return Err(Stop::NotOurs);
    }
    connection.identify(event);
    if connection.ts_ns != 0 {
        record.stats.duration_ns = event.ts_ns.saturating_sub(connection.ts_ns);
    }
    record.stats.closed_by = connection.closed_by;
    record.stats.closer_tgid = connection.closer_tgid;
    record.stats.restored = connection.restored;
    let is_first = forget(sk, connection);
    if is_first && !is_open && emit::is_wanted(EventKind::Connected) {
        // It was established, and the kernel skipped every program that sees that.
        account::count_extra(Extra::Unseen);
    }
    ours(is_first.then_some(Hook::Close))
}

/// A program that sees changes beside others has seen one of the self-test.
#[inline(always)]
fn prove(watcher: u64) {
    account::add_extra(Extra::Proofs, watcher);
    once::prove_each();
}

/// Makes it the event of the connection that is open on `sk`, whose beginning is not told
/// again.
#[inline(always)]
pub(crate) fn progress(sk: *const u8, record: &mut CloseEvent) -> Option<()> {
    let connection = known(sk)?;
    if !connection.is_open() {
        return None;
    }
    connection.identify(&mut record.event);
    if connection.ts_ns != 0 {
        record.stats.duration_ns = record.event.ts_ns.saturating_sub(connection.ts_ns);
    }
    record.stats.restored = connection.restored;
    Some(())
}

/// The connection on `sk` is the one of this id.
#[inline(always)]
pub(crate) fn is_still(sk: *const u8, id: u64) -> bool {
    matches!(known(sk), Some(connection) if connection.id == id)
}

/// The attempt fails within `connect`, not by an error on the socket nor because
/// its owner gives it up: `unsent` reports what `connect` returns, if somebody asks.
#[inline(always)]
fn is_returned<M: Mem>(sk: *const u8, new: TcpState) -> bool {
    new == TcpState::CLOSE
        && emit::is_wanted(EventKind::Failed)
        && sock::error::<M>(sk) == Some(0)
        && sock::is_within_connect::<M>(sk)
}

/// Zero where the beginning was not seen, and only there.
#[inline(always)]
fn handshake_us(start_ns: u64, end_ns: u64) -> u32 {
    if start_ns == 0 {
        return 0;
    }
    let us = end_ns.saturating_sub(start_ns) / 1_000;
    if us > u64::from(u32::MAX) {
        u32::MAX
    } else if us == 0 {
        1
    } else {
        us as u32
    }
}
