//! Counting, and writing records into the ring.

use core::{ffi::c_void, mem::MaybeUninit, slice};

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_ktime_get_boot_ns, maps::RingBuf,
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    counters::{Counter, Extra, Hook, extra_slot, slot},
    event::{CloseEvent, EventKind, FLAG_DENIED, FLAG_LOCAL_PORT_UNBOUND, FLAG_SELF_TEST},
};
use zerocopy::FromZeros;

use crate::{
    account::{Look, Row, Stop, cpu},
    globals::config,
    maps::{EVENTS, VIOLATIONS},
    read::{
        mem::{self, Mem},
        task,
    },
    report::filter,
};

/// Now, `CLOCK_BOOTTIME` ns.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A connection's id: the socket's number and the time of its first event
/// under a random key. Two sockets of one time differ in number; the key keeps
/// kernel addresses out of the output.
#[inline(always)]
pub(crate) fn connection_id<M: Mem>(sk: *const u8, ts_ns: u64) -> u64 {
    let mixed = (M::number(sk) ^ config!(salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32 ^ ts_ns).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// The user wants events of this kind.
#[inline(always)]
pub(crate) fn is_wanted(kind: EventKind) -> bool {
    config!(kinds) & kind.bit() != 0
}

/// A record of an event that happens now.
///
/// Built on the stack in the form it leaves in, and copied into the ring by one
/// helper: the verifier then walks through no copy of it.
#[inline(always)]
pub(crate) fn record<T: FromZeros + AsMut<TcpEvent>>(
    slot: &mut MaybeUninit<T>,
    kind: EventKind,
) -> &mut T {
    let record = mem::zeroed(slot);
    let event = record.as_mut();
    event.abi = ABI_VERSION;
    event.kind = kind as u8;
    event.cpu = cpu() as u16;
    event.ts_ns = now_ns();
    record
}

/// Counts, filters and writes one event; `owner_passes` is the owner filters' word.
#[inline(always)]
pub(crate) fn emit(
    ctx: &impl EbpfContext,
    hook: Hook,
    owner_passes: bool,
    event: &mut TcpEvent,
) -> Look {
    emit_by(ctx, hook, owner_passes, event, |ring, event| {
        ring.output::<TcpEvent>(event, 0).ok()
    })
}

/// Emits for programs that read sockets by `M`, as [`emit`] does. Those that read them
/// directly copy the event themselves: cheaper to run, but there is more for the verifier to
/// walk through, on every way that leads here.
#[inline(always)]
pub(crate) fn emit_for<M: Mem>(
    ctx: &impl EbpfContext,
    hook: Hook,
    owner_passes: bool,
    event: &mut TcpEvent,
) -> Look {
    if !M::IS_TYPED {
        return emit(ctx, hook, owner_passes, event);
    }
    emit_by(ctx, hook, owner_passes, event, copied)
}

/// Copies a record into the ring, word by word; `None` where there is no room.
#[inline(always)]
fn copied<T: Copy + 'static>(ring: &RingBuf, record: &T) -> Option<()> {
    let mut room = ring.reserve::<T>(0)?;
    mem::fill(record, &mut room);
    room.submit(0);
    Some(())
}

/// Emits a record that has `stats` if it is a `Close`, as [`emit`] an event.
#[inline(always)]
pub(crate) fn emit_change<M: Mem>(
    ctx: &impl EbpfContext,
    hook: Hook,
    owner_passes: bool,
    record: &mut CloseEvent,
) -> Look {
    if M::IS_TYPED {
        return emit_by(ctx, hook, owner_passes, record, |ring, record| {
            if hook as u32 == Hook::Close as u32 {
                copied(ring, record)
            } else {
                copied(ring, &record.event)
            }
        });
    }
    let size = if hook as u32 == Hook::Close as u32 {
        size_of::<CloseEvent>()
    } else {
        size_of::<TcpEvent>()
    };
    emit_by(ctx, hook, owner_passes, record, |ring, record| {
        // SAFETY: no more than the record.
        let bytes = unsafe { slice::from_raw_parts((&raw const *record).cast(), size) };
        ring.output::<[u8]>(bytes, 0).ok()
    })
}

/// Emits what an open connection has carried so far: it was remembered because its owner
/// passes.
#[inline(always)]
pub(crate) fn emit_progress(ctx: &impl EbpfContext, hook: Hook, record: &mut CloseEvent) -> Look {
    emit_by(ctx, hook, true, record, |ring, record| {
        ring.output::<CloseEvent>(record, 0).ok()
    })
}

/// Counts, filters and writes one record by `write`: `None` where the ring has no room.
#[inline(always)]
fn emit_by<T: AsMut<TcpEvent>>(
    ctx: &impl EbpfContext,
    hook: Hook,
    owner_passes: bool,
    record: &mut T,
    write: impl FnOnce(&RingBuf, &T) -> Option<()>,
) -> Look {
    let event = record.as_mut();
    let row = Row::of_this_cpu().ok_or(Stop::NotOurs)?;
    let is_self_test = task::is_monitor(event.owner.tgid);
    if is_self_test {
        event.flags |= FLAG_SELF_TEST;
        row.count(extra_slot(Extra::SelfTest));
    } else {
        if config!(kinds) & 1 << event.kind == 0 {
            return Err(Stop::NotOurs);
        }
        row.count(slot(hook, Counter::Hit));
    }
    let fate = if is_self_test || owner_passes && filter::flow_passes(event) {
        if event.local_port == 0 {
            event.flags |= FLAG_LOCAL_PORT_UNBOUND;
        }
        // The kernel wakes the reader only when it has caught up; the reader sleeps
        // a moment after each wake, so a burst costs one.
        let ring = if config!(judge) != 0 && event.flags & FLAG_DENIED != 0 {
            &VIOLATIONS
        } else {
            &EVENTS
        };
        match write(ring, record) {
            Some(()) => Counter::Submitted,
            None => Counter::ReserveFailed,
        }
    } else {
        Counter::Filtered
    };
    if is_self_test {
        return Ok(());
    }
    row.count(slot(hook, fate));
    if config!(trace) != 0 {
        let event = record.as_mut();
        let what = Trace {
            kind: event.kind,
            fate: fate as u8,
            local_port: event.local_port,
            remote_port: event.remote_port,
        };
        trace(ctx.as_ptr(), event.owner.tgid, what);
    }
    Ok(())
}

/// What [`trace`] tells, by value: a reference to the record would have the verifier
/// keep all of it apart.
struct Trace {
    kind: u8,
    fate: u8,
    local_port: u16,
    remote_port: u16,
}

/// With `--bpf-log debug`, every event and what became of it. A function of its
/// own: the caller's stack and this one's have to fit into 512 bytes together.
#[inline(never)]
fn trace(ctx: *mut c_void, tgid: u32, what: Trace) {
    let ctx = RawTracePointContext::new(ctx);
    debug!(
        &ctx,
        "kind {} of process {}: local port {}, remote port {}, fate {}",
        what.kind,
        tgid,
        what.local_port,
        what.remote_port,
        what.fate
    );
}
