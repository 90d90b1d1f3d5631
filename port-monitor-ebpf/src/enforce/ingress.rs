//! `cgroup_skb/ingress` and `sk_lookup`: a peer's packet has come for a listener.
//!
//! Neither runs for a process: `current` is whoever was interrupted. The first knows
//! the listening socket, in every network namespace, and can only drop the packet.
//! The second knows no socket and runs in one namespace; what it drops, the kernel
//! answers as a closed port does.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, sk_action},
    helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes},
    macros::{cgroup_skb, sk_lookup},
    programs::{SkBuffContext, SkLookupContext},
};
use core::{hint::black_box, mem::MaybeUninit};
use port_monitor_common::{
    event::AF_INET6,
    generation::{ASKS_LISTEN, INBOUND_OPEN, STYLE_RESET},
    policy::Direction,
    tcp_state::TcpState,
};

use crate::{
    judge::tables::{self, Party, Question},
    read::{
        mem::{self, context},
        sock::{self, Addr, WILDCARD},
    },
    report::emit,
};

const SYN: u8 = 1 << 1;
const ACK: u8 = 1 << 4;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

#[cgroup_skb(ingress)]
fn pm_ingress(ctx: SkBuffContext) -> i32 {
    answer(is_dropped(ctx.skb.skb))
}

#[cgroup_skb(ingress)]
fn pm_unlisted(ctx: SkBuffContext) -> i32 {
    answer(is_unlisted(ctx.skb.skb))
}

/// 0 for what is to be dropped, else 1; masked, so that the verifier sees that it is one of
/// them.
#[inline(always)]
fn answer(dropped: Option<()>) -> i32 {
    black_box(i32::from(dropped.is_none())) & 1
}

#[sk_lookup]
fn pm_lookup(ctx: SkLookupContext) -> u32 {
    if is_closed(&ctx).is_some() {
        sk_action::SK_DROP
    } else {
        sk_action::SK_PASS
    }
}

/// The process behind a listening socket, which does not remember its executable.
struct Listener {
    skb: *mut __sk_buff,
    sk: *const u8,
}

impl Listener {
    #[inline(always)]
    fn new(skb: *mut __sk_buff, sk: *mut bpf_sock) -> Self {
        Self {
            skb,
            sk: mem::address(sk.cast()) as *const u8,
        }
    }
}

impl Party for Listener {
    const IS_KNOWN: bool = true;

    #[inline(always)]
    fn uid(&self) -> u32 {
        // Nobody's where it cannot be read.
        sock::uid(self.sk).unwrap_or(u32::MAX)
    }

    #[inline(always)]
    fn cgroup(&self, level: i32) -> u64 {
        // SAFETY: the helper takes the context of this program.
        unsafe { bpf_skb_ancestor_cgroup_id(self.skb, level) }
    }
}

/// Who is not known.
struct Nobody;

impl Party for Nobody {
    const IS_KNOWN: bool = false;
}

/// The peer may not reach this port. What comes to a listening socket is a SYN, or
/// the ACK that completes a handshake.
#[inline(always)]
fn is_dropped(skb: *mut __sk_buff) -> Option<()> {
    let sk = listener(skb)?;
    let now_ns = emit::now_ns();
    let policy = tables::policy(now_ns)?;
    if policy.1.asks & INBOUND_OPEN != 0 {
        return None;
    }
    let packet = Packet::of(skb)?.forgotten(now_ns);
    let question = Question {
        direction: Direction::Inbound as u32,
        port: context!(sk, src_port) & 0xffff,
        peer: packet.from,
        is_self: sock::same(packet.from, packet.to) as u32,
    };
    let decision = tables::judge(policy, now_ns, &question, &Listener::new(skb, sk))?;
    // One connection, one verdict: the ACK's repeats that of the SYN.
    if packet.is_syn != 0 {
        decision.note_packet(&question);
    }
    decision.stops().then_some(())
}

/// Nobody may listen at this port: it was the kernel's choice, which no other hook
/// sees, or the socket is older than the policy.
#[inline(always)]
fn is_unlisted(skb: *mut __sk_buff) -> Option<()> {
    let sk = listener(skb)?;
    let now_ns = emit::now_ns();
    let policy = tables::policy(now_ns)?;
    if policy.1.asks & ASKS_LISTEN == 0 {
        return None;
    }
    let packet = Packet::of(skb)?.forgotten(now_ns);
    let question = Question {
        direction: Direction::Listen as u32,
        port: context!(sk, src_port) & 0xffff,
        peer: WILDCARD,
        is_self: 0,
    };
    let decision = tables::judge(policy, now_ns, &question, &Listener::new(skb, sk))?;
    // Allowed ones were counted when they got their port.
    if packet.is_syn != 0 && decision.denies() {
        decision.note_packet(&question);
    }
    decision.stops().then_some(())
}

/// The socket the packet is for, if it listens for TCP.
#[inline(always)]
fn listener(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the context is valid for as long as the program runs.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() || context!(sk, state) != u32::from(TcpState::LISTEN.0) {
        return None;
    }
    // SAFETY: a socket the kernel gave.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() || !sock::is_tcp_protocol(context!(sk, protocol)) {
        return None;
    }
    Some(sk)
}

/// Who sends to whom.
struct Packet {
    from: Addr,
    to: Addr,
    /// 1 or 0.
    is_syn: u64,
}

impl Packet {
    /// The packet, whichever way what is known of it came about.
    #[inline(always)]
    fn forgotten(self, unknown: u64) -> Self {
        let forget = |word: u32| mem::forget(word.into(), unknown) as u32;
        Self {
            from: self.from.map(forget),
            to: self.to.map(forget),
            is_syn: mem::forget(self.is_syn, unknown),
        }
    }

    #[inline(always)]
    fn of(skb: *mut __sk_buff) -> Option<Self> {
        let first: u8 = load(skb, 0)?;
        let (from, to) = if first >> 4 == 6 {
            let [from, to]: [Addr; 2] = load(skb, 8)?;
            (from, to)
        } else {
            let [from, to]: [u32; 2] = load(skb, 12)?;
            (sock::mapped(from), sock::mapped(to))
        };
        Some(Self {
            from,
            to,
            is_syn: is_syn(skb, first)?.into(),
        })
    }
}

/// The packet is the first of a connection; `first` is its first byte.
#[inline(always)]
fn is_syn(skb: *const __sk_buff, first: u8) -> Option<bool> {
    let flags = if first >> 4 == 6 {
        // Behind other headers it counts as the first packet.
        match load(skb, 6)? {
            TCP => load(skb, 40 + 13)?,
            _ => SYN,
        }
    } else {
        load(skb, u32::from(first & 0xf) * 4 + 13)?
    };
    Some(flags & (SYN | ACK) == SYN)
}

/// Bytes of the packet, from its IP header on.
#[inline(always)]
fn load<T: Copy>(skb: *const __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr().cast();
    // SAFETY: the helper writes this many bytes, or fails.
    let error = unsafe { bpf_skb_load_bytes(skb.cast(), offset, to, size_of::<T>() as u32) };
    // SAFETY: it has written all of it.
    (error == 0).then(|| unsafe { value.assume_init() })
}

/// A packet that belongs to no connection, and what it is for is denied whoever
/// listens there.
#[inline(always)]
fn is_closed(ctx: &SkLookupContext) -> Option<()> {
    let ctx = ctx.lookup;
    if context!(ctx, protocol) != u32::from(TCP) {
        return None;
    }
    let now_ns = emit::now_ns();
    let policy = tables::policy(now_ns)?;
    if policy.1.style != STYLE_RESET || policy.1.asks & INBOUND_OPEN != 0 {
        return None;
    }
    // All of both families, before asking which it is: the compiler would make one
    // read of either's, at a place that the verifier cannot tell.
    let (from_v4, to_v4) = (context!(ctx, remote_ip4), context!(ctx, local_ip4));
    let from_v6 = [
        context!(ctx, remote_ip6[0]),
        context!(ctx, remote_ip6[1]),
        context!(ctx, remote_ip6[2]),
        context!(ctx, remote_ip6[3]),
    ];
    let to_v6 = [
        context!(ctx, local_ip6[0]),
        context!(ctx, local_ip6[1]),
        context!(ctx, local_ip6[2]),
        context!(ctx, local_ip6[3]),
    ];
    let (from, to) = if context!(ctx, family) == u32::from(AF_INET6) {
        (from_v6, to_v6)
    } else {
        (sock::mapped(from_v4), sock::mapped(to_v4))
    };
    let question = Question {
        direction: Direction::Inbound as u32,
        port: context!(ctx, local_port) & 0xffff,
        peer: from,
        is_self: sock::same(from, to) as u32,
    };
    let decision = tables::judge(policy, now_ns, &question, &Nobody)?;
    if decision.stops() {
        decision.note_packet(&question);
        return Some(());
    }
    None
}
