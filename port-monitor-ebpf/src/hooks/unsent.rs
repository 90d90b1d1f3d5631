//! Attempts that fail before `tcp_connect` sends a SYN: `connect` returns their
//! errno at once, and no socket state tells of them.
//!
//! - `security_socket_connect`: a security module denies (`security/security.c`).
//! - `tcp_v4_pre_connect`, `tcp_v6_pre_connect`: a cgroup program refuses
//!   (`net/ipv4/tcp_ipv4.c`, `net/ipv6/tcp_ipv6.c`).
//! - `tcp_v4_connect`, `tcp_v6_connect`: no route, no local address or port.
//!
//! Fast Open, io_uring and MPTCP come through the last four too.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use port_monitor_common::{
    counters::{Extra, Hook},
    event::{AF_INET, AF_INET6, EventKind, TcpEvent},
    policy::Direction,
};

use crate::{
    emit, filter,
    globals::offset,
    hooks::{connect, connection},
    maps::CONNECTING,
    mem::{self, Probe},
    sock::{self, Addr},
    task::{self, read},
    verdict,
};

/// What a thread's `connect` was called with, until it returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// The `sock`, or the `socket` of the security hook.
    socket: u64,
    /// The `sockaddr`, in kernel memory.
    address: u64,
    /// Its length.
    length: u64,
}

impl Call {
    #[inline(always)]
    const fn socket(&self) -> *const u8 {
        self.socket as *const u8
    }
}

#[fexit(function = "tcp_v4_connect")]
fn pm_unsent4_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    unsent(&ctx, &call, result);
    0
}

#[fexit(function = "tcp_v6_connect")]
fn pm_unsent6_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    if result != 0 && !is_left_to_v4(&call) {
        unsent(&ctx, &call, result);
    }
    0
}

#[fexit(function = "tcp_v4_pre_connect")]
fn pm_refused4_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    unsent(&ctx, &call, result);
    0
}

#[fexit(function = "tcp_v6_pre_connect")]
fn pm_refused6_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    unsent(&ctx, &call, result);
    0
}

#[fexit(function = "security_socket_connect")]
fn pm_denied_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    denied(&ctx, &call, result);
    0
}

/// Entry of all five: a return probe does not see the arguments.
#[kprobe]
fn pm_call_kp(ctx: ProbeContext) -> u32 {
    let _: Option<()> = note(&ctx);
    0
}

#[kretprobe]
fn pm_unsent_krp(ctx: RetProbeContext) -> u32 {
    // Within `tcp_v6_connect`, `tcp_v4_connect` takes the call of both.
    if let Some(call) = take() {
        unsent(&ctx, &call, ctx.ret());
    }
    0
}

#[kretprobe]
fn pm_denied_krp(ctx: RetProbeContext) -> u32 {
    if let Some(call) = take() {
        denied(&ctx, &call, ctx.ret());
    }
    0
}

/// All five take three arguments.
#[inline(always)]
fn returned(ctx: &FExitContext) -> (Call, i32) {
    let call = Call {
        socket: ctx.arg(0),
        address: ctx.arg(1),
        length: u64::from(ctx.arg::<u32>(2)),
    };
    (call, ctx.arg(3))
}

#[inline(always)]
fn note(ctx: &ProbeContext) -> Option<()> {
    let call = Call {
        socket: ctx.arg(0)?,
        address: ctx.arg(1)?,
        length: u64::from(ctx.arg::<u32>(2)?),
    };
    if CONNECTING.insert(thread(), call, 0).is_err() {
        emit::count_extra(Extra::ConnectionsFull);
    }
    Some(())
}

#[inline(always)]
fn take() -> Option<Call> {
    let thread = thread();
    // SAFETY: only this thread writes its own entry.
    let call = unsafe { CONNECTING.get(thread) }.copied()?;
    let _: Result<(), i32> = CONNECTING.remove(thread);
    Some(call)
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

#[inline(always)]
fn unsent(ctx: &impl EbpfContext, call: &Call, result: i32) {
    if result < 0 {
        let _: Option<()> = report(ctx, call.socket(), call, result.unsigned_abs());
    }
}

#[inline(always)]
fn denied(ctx: &impl EbpfContext, call: &Call, result: i32) {
    if result < 0 {
        let _: Option<()> = try_denied(ctx, call, result.unsigned_abs());
    }
}

#[inline(always)]
fn try_denied(ctx: &impl EbpfContext, call: &Call, errno: u32) -> Option<()> {
    let sk: *const u8 = read(call.socket(), offset!(socket_sk))?;
    if sock::is_tcp_stream(sk) {
        report(ctx, sk, call, errno)?;
    }
    Some(())
}

/// Reports a failed attempt by the running thread: under the id of the attempt,
/// if `tcp_connect` was reached and failed, else as one of its own.
#[inline(always)]
fn report(ctx: &impl EbpfContext, sk: *const u8, call: &Call, errno: u32) -> Option<()> {
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = emit::record(&mut slot, EventKind::Failed);
    // Before the ways part, for the verifier's sake.
    task::read_current::<Probe>(&mut event.owner);
    sock::read::<Probe>(sk, event)?;
    let (remote_addr, remote_port) = destination(call, event.family)?;
    // Whatever kind of address it was.
    let forget = |value| mem::forget(value, event.ts_ns);
    let remote_addr = remote_addr.map(|word| forget(word.into()) as u32);
    let remote_port = forget(remote_port.into()) as u16;
    sock::set(&mut event.remote_addr, remote_addr);
    event.remote_port = remote_port;
    if sock::is_v4(&remote_addr) && sock::words(&event.local_addr) == sock::WILDCARD {
        // An unbound IPv6 socket that was to speak IPv4.
        sock::set(&mut event.local_addr, sock::WILDCARD_V4);
    }
    if connection::take_attempt(sk, event).is_none() {
        connect::identify::<Probe>(sk, event);
        verdict::stamp(Direction::Outbound, event);
    }
    event.detail = errno;
    let owner_passes = filter::owner_passes(&event.owner, task::current);
    emit::emit(ctx, Hook::Outcome, owner_passes, event);
    Some(())
}

/// Where `connect` was asked to connect to: a `sockaddr_in`, also of an IPv6
/// socket that is to speak IPv4, or a `sockaddr_in6`; nowhere, if it is anything
/// else.
#[inline(always)]
fn destination(call: &Call, family: u8) -> Option<(Addr, u16)> {
    const PORT: usize = 2;
    const V4_ADDR: usize = 4;
    const V4_LENGTH: u64 = 16;
    const V6_ADDR: usize = 8;
    const V6_LENGTH: u64 = 24;
    let address = call.address as *const u8;
    let asked: u16 = read(address, 0)?;
    let port_be: u16 = read(address, PORT)?;
    let addr = if asked == u16::from(AF_INET) && call.length >= V4_LENGTH {
        sock::mapped(read(address, V4_ADDR)?)
    } else if asked == u16::from(AF_INET6) && family == AF_INET6 && call.length >= V6_LENGTH {
        read(address, V6_ADDR)?
    } else {
        return None;
    };
    Some((addr, u16::from_be(port_be)))
}

/// `tcp_v6_connect` has called `tcp_v4_connect`, which has its own hook: the
/// address is an IPv4-mapped one, and the socket may use it.
#[inline(always)]
fn is_left_to_v4(call: &Call) -> bool {
    let is_mapped = matches!(destination(call, AF_INET6), Some((addr, _)) if sock::is_v4(&addr));
    is_mapped && !sock::is_v6_only(call.socket())
}
