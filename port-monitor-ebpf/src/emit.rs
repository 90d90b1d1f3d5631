//! Counting, and writing records into the ring.

use core::{arch::asm, ffi::c_void, mem::MaybeUninit, slice};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    counters::{Counter, Extra, Hook, ROW, slot},
    event::{CloseEvent, EventKind, FLAG_CANARY, FLAG_DENIED, FLAG_LOCAL_PORT_UNBOUND},
};
use zerocopy::FromZeros;

use crate::{
    filter,
    globals::config,
    maps::{COUNTERS, EVENTS, VIOLATIONS},
    mem::{self, Mem},
    task,
};

/// The CPU the program runs on.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(cpu() * ROW + index) {
        add_one(counter);
    }
}

/// Adds one to a number in a map. Atomic, because another hook may interrupt
/// between load and store: tracing programs are preemptible.
#[inline(always)]
pub(crate) fn add_one(counter: *mut u64) {
    // The target's core has no atomic add; this form of it needs no more
    // than Linux 5.10 and the first BPF instruction set.
    // SAFETY: a map value is valid for as long as the program runs.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
    }
}

/// Counts one of the [`Extra`] counters.
#[inline(always)]
pub(crate) fn count_extra(extra: Extra) {
    count(extra as u32);
}

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
pub(crate) fn emit(ctx: &impl EbpfContext, hook: Hook, owner_passes: bool, event: &mut TcpEvent) {
    // SAFETY: the event is as large as itself.
    unsafe { emit_bytes(ctx, hook, owner_passes, event, size_of::<TcpEvent>()) };
}

/// The same of a record that has `stats` if it is a `Close`.
#[inline(always)]
pub(crate) fn emit_change(
    ctx: &impl EbpfContext,
    hook: Hook,
    owner_passes: bool,
    record: &mut CloseEvent,
) {
    let size = if hook as u32 == Hook::Close as u32 {
        size_of::<CloseEvent>()
    } else {
        size_of::<TcpEvent>()
    };
    // SAFETY: the record is as large as a `CloseEvent`.
    unsafe { emit_bytes(ctx, hook, owner_passes, (&raw mut *record).cast(), size) };
}

/// # Safety
/// `event` must be the beginning of `size` bytes.
#[inline(always)]
unsafe fn emit_bytes(
    ctx: &impl EbpfContext,
    hook: Hook,
    owner_passes: bool,
    event: *mut TcpEvent,
    size: usize,
) {
    // SAFETY: the caller's event.
    let head = unsafe { &mut *event };
    let is_canary = task::is_monitor(head.owner.tgid);
    if is_canary {
        head.flags |= FLAG_CANARY;
        count_extra(Extra::Canary);
    } else {
        if config!(kinds) & 1 << head.kind == 0 {
            return;
        }
        count(slot(hook, Counter::Hit));
    }
    let fate = if is_canary || owner_passes && filter::flow_passes(head) {
        if head.local_port == 0 {
            head.flags |= FLAG_LOCAL_PORT_UNBOUND;
        }
        // SAFETY: the caller's bytes.
        let bytes = unsafe { slice::from_raw_parts(event.cast::<u8>(), size) };
        // The kernel wakes the reader only when it has caught up; the reader sleeps
        // a moment after each wake, so a burst costs one.
        let ring = if config!(judge) != 0 && head.flags & FLAG_DENIED != 0 {
            &VIOLATIONS
        } else {
            &EVENTS
        };
        match ring.output::<[u8]>(bytes, 0) {
            Ok(()) => Counter::Submitted,
            Err(_) => Counter::ReserveFailed,
        }
    } else {
        Counter::Filtered
    };
    if is_canary {
        return;
    }
    count(slot(hook, fate));
    if config!(trace) != 0 {
        let what = Trace {
            kind: head.kind,
            fate: fate as u8,
            local_port: head.local_port,
            remote_port: head.remote_port,
        };
        trace(ctx.as_ptr(), head.owner.tgid, what);
    }
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
