//! What the policy says of the monitor's events, by the same tables and the same
//! decision as enforcement.
//!
//! Of the owner only the user is asked here: which unit, cgroup or executable a rule
//! means changes on a running host, and userspace knows. Where the first rule that may
//! match asks for one of those, the event leaves unjudged.

use port_monitor_common::{
    TcpEvent,
    event::{FLAG_DENIED, FLAG_JUDGED, OWNER_KERNEL},
    judging::Judging,
    policy::Direction,
};

use crate::{
    globals::config,
    judge::tables::{self, Party, Peer, Question},
    maps::{ENDS, POLICIES, STATE},
    read::{sock, task},
};

/// The owner of an event, as far as it is asked here.
struct User {
    uid: u32,
    is_kernel: bool,
}

impl Party for User {
    const USER_IS_KNOWN: bool = true;
    const IS_KNOWN: bool = false;

    #[inline(always)]
    fn uid(&self) -> u32 {
        self.uid
    }

    #[inline(always)]
    fn is_kernel(&self) -> bool {
        self.is_kernel
    }
}

/// Judges an event whose owner is known, if there is a policy.
#[inline(always)]
pub(crate) fn stamp(direction: Direction, event: &mut TcpEvent) {
    if config!(judge) == 0 || task::is_monitor(event.owner.tgid) {
        return;
    }
    let port = match direction {
        Direction::Outbound => event.remote_port,
        Direction::Inbound | Direction::Listen => event.local_port,
    };
    let (own, peer) = (
        sock::words(&event.local_addr),
        sock::words(&event.remote_addr),
    );
    let [high, low] = tables::halves(&peer);
    let what = u64::from(port)
        | (direction as u64) << 16
        | sock::same(own, peer) << 24
        | u64::from(event.owner.flags & OWNER_KERNEL) << 25
        | u64::from(event.owner.uid) << 32;
    let judging = judging();
    let answer = pm_judge(what, high, low, judging.0);
    event.flags |= (answer >> 16) as u16;
    event.owner.rule = answer as u16;
    // It may have another policy's, of the listener that it was copied from.
    event.owner.flags = event.owner.flags & OWNER_KERNEL | judging.owner_flags();
}

/// By which policy is judged from here on: read once for an event.
#[inline(always)]
fn judging() -> Judging {
    let Some(word) = STATE.get_ptr(0) else {
        return Judging::by_userspace(0);
    };
    // SAFETY: a map value is valid for as long as the program runs.
    Judging(unsafe { word.read_volatile() })
}

/// Judges a connection with a peer, or a listener: in `what` the service port, from bit
/// 16 on the direction, in bit 24 that the peer's address is the socket's own, in bit 25
/// that the kernel itself acts, from bit 32 on the user; in `judging` a [`Judging`]. The answer
/// is the rule, and from bit 16 on the flags. A function of its own, as `pm_first` is: the
/// verifier looks at it once, whatever calls it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_judge(what: u64, high: u64, low: u64, judging: u64) -> u64 {
    judge(what, high, low, Judging(judging)).unwrap_or(0)
}

#[inline(always)]
fn judge(what: u64, high: u64, low: u64, judging: Judging) -> Option<u64> {
    if !judging.has_tables() {
        return None;
    }
    let generation = judging.generation();
    let question = Question {
        direction: (what >> 16) as u32 & 3,
        port: what as u32 & 0xffff,
        peer: [
            high as u32,
            (high >> 32) as u32,
            low as u32,
            (low >> 32) as u32,
        ],
        is_self: (what >> 24) as u32 & 1,
    };
    let header = POLICIES.get(generation)?;
    // Of listeners no rule asks for a peer, and no default spares loopback.
    let peer = Peer::of(generation, &question);
    let user = User {
        uid: (what >> 32) as u32,
        is_kernel: what >> 25 & 1 != 0,
    };
    // No rule of the monitor's ends: those that do are left to userspace.
    let directions = ENDS.get(generation)?.endless();
    let decision = tables::judge_peer(
        (generation, header),
        (0, directions),
        &question,
        peer,
        &user,
    )?;
    let denied = if decision.denies() { FLAG_DENIED } else { 0 };
    Some(u64::from(FLAG_JUDGED | denied) << 16 | u64::from(decision.tally()))
}
