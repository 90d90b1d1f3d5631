//! Counting, and writing records into the ring: reserve, fill, submit.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use port_monitor_common::{
    ABI_VERSION, TcpEvent,
    counters::{Counter, Extra, Hook, ROW, slot},
    event::{
        CloseEvent, CloseStats, EventKind, FLAG_CANARY, FLAG_INBOUND, FLAG_LOCAL_PORT_UNBOUND,
        Owner, OwnerSource,
    },
};

use crate::{
    filter,
    globals::config,
    maps::{COUNTERS, EVENTS},
    mem,
    sock::{Addr, Flow},
    task,
};

/// What the hooks know of an event before it is filtered and written.
pub(crate) struct Draft<'a> {
    pub(crate) hook: Hook,
    pub(crate) kind: EventKind,
    pub(crate) flags: u16,
    pub(crate) id: u64,
    pub(crate) ts_ns: u64,
    pub(crate) detail: u32,
    pub(crate) flow: &'a Flow,
    pub(crate) owner: &'a Owner,
    pub(crate) owner_source: OwnerSource,
    /// The owner filters' word on the owner.
    pub(crate) owner_passes: bool,
    /// A peer opened the connection.
    pub(crate) is_inbound: bool,
    /// Of a `Close`.
    pub(crate) stats: Option<&'a CloseStats>,
}

/// The CPU the program runs on.
#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Adds one to a counter of this CPU. Atomic, because another hook may
/// interrupt between load and store: tracing programs are preemptible.
#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(cpu() * ROW + index) {
        // The target's core has no atomic add; this form of it needs no more
        // than Linux 5.10 and the first BPF instruction set.
        // SAFETY: a map value is valid for as long as the program runs.
        unsafe {
            asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
        }
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

/// A connection's id: the socket's address and the time of its first event
/// under a random key. Two sockets of one time differ in address; the key keeps
/// kernel addresses out of the output.
#[inline(always)]
pub(crate) fn connection_id(sk: *const u8, ts_ns: u64) -> u64 {
    let mixed = (mem::address(sk) ^ config!(salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32 ^ ts_ns).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// The user wants events of this kind.
#[inline(always)]
pub(crate) fn is_wanted(kind: EventKind) -> bool {
    config!(kinds) & kind.bit() != 0
}

/// Counts, filters and writes one event.
#[inline(always)]
pub(crate) fn emit(ctx: &impl EbpfContext, draft: &Draft<'_>) {
    if task::is_monitor(draft.owner.tgid) {
        count_extra(Extra::Canary);
        let _: Result<(), Full> = write(draft, FLAG_CANARY);
        return;
    }
    if !is_wanted(draft.kind) {
        return;
    }
    count(slot(draft.hook, Counter::Hit));
    let fate = if !draft.owner_passes || !filter::flow_passes(draft.is_inbound, draft.flow) {
        Counter::Filtered
    } else {
        match write(draft, 0) {
            Ok(()) => Counter::Submitted,
            Err(Full) => Counter::ReserveFailed,
        }
    };
    count(slot(draft.hook, fate));
    if config!(trace) != 0 {
        let what = Trace {
            kind: draft.kind as u8,
            fate: fate as u8,
            local_port: draft.flow.local_port,
            remote_port: draft.flow.remote_port,
        };
        trace(ctx.as_ptr(), draft.owner.tgid, what);
    }
}

/// What [`trace`] tells, by value: a reference to the draft would keep it on a
/// stack that is full.
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

struct Full;

#[inline(always)]
fn write(draft: &Draft<'_>, extra_flags: u16) -> Result<(), Full> {
    // The kernel wakes the reader only when it has caught up; the reader sleeps
    // a moment after each wake, so a burst costs one.
    if let Some(stats) = draft.stats {
        let mut entry = EVENTS.reserve::<CloseEvent>(0).ok_or(Full)?;
        let record = entry.as_mut_ptr();
        // SAFETY: the reserved record is ours until it is submitted.
        let event = unsafe { &raw mut (*record).event };
        // SAFETY: as above.
        unsafe { fill(event, draft, extra_flags) };
        // SAFETY: as above.
        unsafe { (&raw mut (*record).stats).write(*stats) };
        entry.submit(0);
    } else {
        let mut entry = EVENTS.reserve::<TcpEvent>(0).ok_or(Full)?;
        // SAFETY: the reserved record is ours until it is submitted.
        unsafe { fill(entry.as_mut_ptr(), draft, extra_flags) };
        entry.submit(0);
    }
    Ok(())
}

#[inline(always)]
unsafe fn fill(record: *mut TcpEvent, draft: &Draft<'_>, extra_flags: u16) {
    let flow = draft.flow;
    let inbound = if draft.is_inbound { FLAG_INBOUND } else { 0 };
    let unbound = if flow.local_port == 0 {
        FLAG_LOCAL_PORT_UNBOUND
    } else {
        0
    };
    // Field by field, straight into the ring: a whole record on the way there
    // would take a quarter of the stack.
    // SAFETY: the reserved record is ours until it is submitted, it is as large
    // as a `TcpEvent`, and every byte of it is written: `TcpEvent` has no
    // padding.
    let TcpEvent {
        abi,
        kind,
        family,
        owner_source,
        flags,
        cpu: event_cpu,
        ts_ns,
        id,
        owner,
        local_addr,
        remote_addr,
        netns_ino,
        local_port,
        remote_port,
        detail,
        ifindex,
    } = unsafe { &mut *record };
    *abi = ABI_VERSION;
    *kind = draft.kind as u8;
    *family = flow.family;
    *owner_source = draft.owner_source as u8;
    *flags = draft.flags | extra_flags | unbound | inbound;
    *event_cpu = cpu() as u16;
    *ts_ns = draft.ts_ns;
    *id = draft.id;
    *owner = *draft.owner;
    // SAFETY: 16 bytes each, aligned to 8 by the record.
    unsafe { (&raw mut *local_addr).cast::<Addr>().write(flow.local_addr) };
    // SAFETY: as above.
    unsafe {
        (&raw mut *remote_addr)
            .cast::<Addr>()
            .write(flow.remote_addr)
    };
    *netns_ino = flow.netns_ino;
    *local_port = flow.local_port;
    *remote_port = flow.remote_port;
    *detail = draft.detail;
    *ifindex = flow.ifindex;
}
