//! `cgroup/connect4`, `cgroup/connect6`, `cgroup/bind4`, `cgroup/bind6`: a process
//! is about to connect a socket or to give it a port. `cgroup/sendmsg4`,
//! `cgroup/sendmsg6`: to send a datagram to an address that comes with it. They see the
//! kernel's copy of the address, in the calling thread, before the protocol does anything
//! (`__inet_stream_connect`, `inet_dgram_connect`, `inet_bind`, `udp_sendmsg`), and refuse
//! with EPERM.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_current_uid_gid, generated::bpf_get_current_ancestor_cgroup_id},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use port_monitor_common::{generation::ASKS_UDP, policy::Direction};

use crate::{
    judge::tables::{self, Party, Question},
    read::{
        mem::{self, context},
        sock::{self, Addr, WILDCARD},
        task,
    },
    report::emit,
};

/// What the kernel takes for "no" and "yes".
const REFUSE: i32 = 0;
const PROCEED: i32 = 1;

#[cgroup_sock_addr(connect4)]
fn pm_connect4(ctx: SockAddrContext) -> i32 {
    let to = sock::mapped(context!(ctx.sock_addr, user_ip4));
    answer(&ctx, Direction::Outbound, to)
}

#[cgroup_sock_addr(connect6)]
fn pm_connect6(ctx: SockAddrContext) -> i32 {
    let to = v6(ctx.sock_addr);
    answer(&ctx, Direction::Outbound, to)
}

#[cgroup_sock_addr(sendmsg4)]
fn pm_sendmsg4(ctx: SockAddrContext) -> i32 {
    let to = sock::mapped(context!(ctx.sock_addr, user_ip4));
    answer(&ctx, Direction::Outbound, to)
}

#[cgroup_sock_addr(sendmsg6)]
fn pm_sendmsg6(ctx: SockAddrContext) -> i32 {
    let to = v6(ctx.sock_addr);
    answer(&ctx, Direction::Outbound, to)
}

#[cgroup_sock_addr(bind4)]
fn pm_bind4(ctx: SockAddrContext) -> i32 {
    answer(&ctx, Direction::Listen, WILDCARD)
}

#[cgroup_sock_addr(bind6)]
fn pm_bind6(ctx: SockAddrContext) -> i32 {
    answer(&ctx, Direction::Listen, WILDCARD)
}

/// The running thread, and its socket.
struct Current {
    ctx: *const bpf_sock_addr,
}

impl Party for Current {
    const IS_KNOWN: bool = true;

    #[inline(always)]
    fn uid(&self) -> u32 {
        bpf_get_current_uid_gid() as u32
    }

    #[inline(always)]
    fn cgroup(&self, level: i32) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_current_ancestor_cgroup_id(level) }
    }

    #[inline(always)]
    fn exe(&self) -> Option<(u32, u64)> {
        task::exe(task::current())
    }

    /// Threads of the kernel open the later subflows of a process's MPTCP connection, to
    /// where its peer says.
    #[inline(always)]
    fn is_kernel(&self) -> bool {
        let sk: *const u8 = context!(self.ctx, __bindgen_anon_1.sk).cast();
        task::is_kernel_thread(task::current()) && !sock::is_subflow(mem::address(sk) as *const u8)
    }
}

#[inline(always)]
fn answer(ctx: &SockAddrContext, direction: Direction, peer: Addr) -> i32 {
    // An explicit choice: the verifier wants to see the two numbers.
    if is_refused(ctx, direction, peer).is_some() {
        REFUSE
    } else {
        PROCEED
    }
}

#[inline(always)]
fn is_refused(ctx: &SockAddrContext, direction: Direction, peer: Addr) -> Option<()> {
    let ctx = ctx.sock_addr;
    let protocol = context!(ctx, protocol);
    // In network byte order, in the low half.
    let port = u16::from_be(context!(ctx, user_port) as u16);
    let is_listen = direction as u8 == Direction::Listen as u8;
    // A port of the kernel's choice is not known yet, and most sockets with one are
    // about to connect; those that listen are judged when a peer comes.
    if is_listen && port == 0 {
        return None;
    }
    let is_tcp = sock::is_tcp_protocol(protocol);
    if !is_tcp && (is_listen || protocol != sock::UDP) {
        return None;
    }
    let now_ns = emit::now_ns();
    let policy = tables::policy(now_ns)?;
    if !is_tcp && policy.1.asks & ASKS_UDP == 0 {
        return None;
    }
    // Without a branch for each transport.
    let is_udp = sock::is_zero(protocol ^ sock::UDP) as u32;
    let question = Question {
        direction: direction as u32,
        port: is_udp << 16 | u32::from(port),
        peer,
        is_self: 0,
    };
    let party = Current { ctx };
    let decision = tables::judge(policy, now_ns, &question, &party)?;
    decision.note_process(&question);
    decision.stops().then_some(())
}

/// The address, by words: the kernel lets programs read no other parts.
#[inline(always)]
fn v6(ctx: *const bpf_sock_addr) -> Addr {
    [
        context!(ctx, user_ip6[0]),
        context!(ctx, user_ip6[1]),
        context!(ctx, user_ip6[2]),
        context!(ctx, user_ip6[3]),
    ]
}
