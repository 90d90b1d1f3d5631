//! Attempts that fail before `tcp_connect` sends a SYN: `connect` returns their
//! errno at once, and no socket state tells of them. And those whose SYN waits for the
//! first write (`TCP_FASTOPEN_CONNECT`): the last two tell of them.
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
    counters::{Extra, Hook, Watcher},
    event::{AF_INET, AF_INET6, EventKind, TcpEvent},
    policy::Direction,
    site::Site,
};

use crate::{
    account::{self, Look, Removal, Stop, is_stored, ours, readable, removal},
    globals::offset,
    judge::verdict,
    maps::{CONNECTING, values::Call},
    monitor::connect,
    read::{
        mem::{self, Probe},
        sock::{self, Addr},
        task::{self, read},
    },
    report::{connection, emit, executable, filter},
};

impl Call {
    /// What came of it is told already, and it could not be removed.
    #[inline(always)]
    const fn is_over(&self) -> bool {
        self.socket == 0
    }

    #[inline(always)]
    const fn socket(&self) -> *const u8 {
        self.socket as *const u8
    }
}

#[fexit(function = "tcp_v4_connect")]
fn pm_unsent4_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    account::look(|| unsent(&ctx, &call, result));
    0
}

#[fexit(function = "tcp_v6_connect")]
fn pm_unsent6_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    account::look(|| {
        if !is_told(&call, result) || is_left_to_v4(&call) {
            return Err(Stop::NotOurs);
        }
        report(&ctx, call.socket(), &call, result.unsigned_abs())
    });
    0
}

#[fexit(function = "tcp_v4_pre_connect")]
fn pm_refused4_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    account::look(|| unsent(&ctx, &call, result));
    0
}

#[fexit(function = "tcp_v6_pre_connect")]
fn pm_refused6_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    account::look(|| unsent(&ctx, &call, result));
    0
}

#[fexit(function = "security_socket_connect")]
fn pm_denied_fe(ctx: FExitContext) -> i32 {
    let (call, result) = returned(&ctx);
    account::look(|| denied(&ctx, &call, result));
    0
}

/// Entry of all five: a return probe does not see the arguments.
#[kprobe]
fn pm_call_kp(ctx: ProbeContext) -> u32 {
    account::look(|| note(&ctx));
    0
}

#[kretprobe]
fn pm_unsent_krp(ctx: RetProbeContext) -> u32 {
    // Within `tcp_v6_connect`, `tcp_v4_connect` takes the call of both.
    account::look(|| unsent(&ctx, &ours(take())?, ctx.ret()));
    0
}

#[kretprobe]
fn pm_denied_krp(ctx: RetProbeContext) -> u32 {
    account::look(|| denied(&ctx, &ours(take())?, ctx.ret()));
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
fn note(ctx: &ProbeContext) -> Look {
    let call = Call {
        socket: readable(ctx.arg(0), Site::Call)?,
        address: readable(ctx.arg(1), Site::Call)?,
        length: u64::from(readable(ctx.arg::<u32>(2), Site::Call)?),
    };
    let thread = thread();
    if !is_stored(Site::RememberCall, || CONNECTING.insert(thread, call, 0))
        && let Some(earlier) = CONNECTING.get_ptr_mut(thread)
    {
        // It stays of a return that the kernel showed no program, and is not this call's.
        // SAFETY: only this thread writes its own entry.
        unsafe { end(earlier) };
    }
    // What comes of it is told when it returns.
    Err(Stop::NotOurs)
}

#[inline(always)]
fn take() -> Option<Call> {
    let thread = thread();
    let entry = CONNECTING.get_ptr_mut(thread)?;
    // SAFETY: only this thread writes its own entry.
    let call = unsafe { entry.read() };
    if call.is_over() {
        return None;
    }
    if removal(Site::ForgetCall, || CONNECTING.remove(thread)) == Removal::Failed {
        // SAFETY: as above.
        unsafe { end(entry) };
    }
    Some(call)
}

/// Notes of a call that cannot be removed that it is over.
///
/// # Safety
///
/// The entry is the running thread's.
#[inline(always)]
unsafe fn end(entry: *mut Call) {
    // SAFETY: the caller says so.
    unsafe { (&raw mut (*entry).socket).write(0) };
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

#[inline(always)]
fn unsent(ctx: &impl EbpfContext, call: &Call, result: i32) -> Look {
    if !is_told(call, result) {
        return Err(Stop::NotOurs);
    }
    report(ctx, call.socket(), call, result.unsigned_abs())
}

/// The attempt failed, or its SYN waits for the first write.
#[inline(always)]
fn is_told(call: &Call, result: i32) -> bool {
    result < 0 || result == 0 && sock::is_deferred(call.socket())
}

#[inline(always)]
fn denied(ctx: &impl EbpfContext, call: &Call, result: i32) -> Look {
    if result >= 0 {
        prove(call);
        return Err(Stop::NotOurs);
    }
    let sk: *const u8 = readable(read(call.socket(), offset!(socket_sk)), Site::Socket)?;
    if !sock::is_tcp_stream(sk) {
        return Err(Stop::NotOurs);
    }
    report(ctx, sk, call, result.unsigned_abs())
}

/// Proves to the self-test that the socket of a call that is not denied can be told.
#[inline(always)]
fn prove(call: &Call) {
    if !task::is_monitor(task::current_tgid()) {
        return;
    }
    let sk: Option<*const u8> = read(call.socket(), offset!(socket_sk));
    if matches!(sk, Some(sk) if sock::is_tcp_stream(sk)) {
        account::add_extra(Extra::Proofs, Watcher::Denied.proof());
    }
}

/// Reports a failed attempt by the running thread: under the id of the attempt,
/// if `tcp_connect` was reached and failed, else as one of its own. Without an errno it
/// is an attempt that has just begun.
#[inline(always)]
fn report(ctx: &impl EbpfContext, sk: *const u8, call: &Call, errno: u32) -> Look {
    let mut slot = MaybeUninit::uninit();
    let event: &mut TcpEvent = emit::record(&mut slot, EventKind::Failed);
    // Before the ways part, for the verifier's sake.
    task::read_current::<Probe, Probe>(&mut event.owner);
    readable(sock::read::<Probe>(sk, event), Site::Socket)?;
    if errno == 0 {
        event.kind = EventKind::Connect as u8;
        return connect::attempt::<Probe>(ctx, sk, event);
    }
    // To nowhere of this family: it is no attempt at a connection.
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
    executable::note(&event.owner, owner_passes);
    emit::emit(ctx, Hook::Outcome, owner_passes, event)
}

/// Where `connect` was asked to connect to: a `sockaddr_in`, also of an IPv6
/// socket that is to speak IPv4, or a `sockaddr_in6`; nowhere, if it is anything
/// else.
#[inline(always)]
fn destination(call: &Call, family: u8) -> Look<(Addr, u16)> {
    const PORT: usize = 2;
    const V4_ADDR: usize = 4;
    const V4_LENGTH: u64 = 16;
    const V6_ADDR: usize = 8;
    const V6_LENGTH: u64 = 24;
    let address = call.address as *const u8;
    let asked: u16 = readable(read(address, 0), Site::Call)?;
    let port_be: u16 = readable(read(address, PORT), Site::Call)?;
    let addr = if asked == u16::from(AF_INET) && call.length >= V4_LENGTH {
        sock::mapped(readable(read(address, V4_ADDR), Site::Call)?)
    } else if asked == u16::from(AF_INET6) && family == AF_INET6 && call.length >= V6_LENGTH {
        readable(read(address, V6_ADDR), Site::Call)?
    } else {
        return Err(Stop::NotOurs);
    };
    Ok((addr, u16::from_be(port_be)))
}

/// `tcp_v6_connect` has called `tcp_v4_connect`, which has its own hook: the
/// address is an IPv4-mapped one, and the socket may use it.
#[inline(always)]
fn is_left_to_v4(call: &Call) -> bool {
    let is_mapped = matches!(destination(call, AF_INET6), Ok((addr, _)) if sock::is_v4(&addr));
    is_mapped && !sock::is_v6_only(call.socket())
}
