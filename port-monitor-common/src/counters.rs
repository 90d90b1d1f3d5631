//! The kernel's own accounting: which counters there are, and the law they obey.
//!
//! Each hook has a row of four; userspace sums them over the CPUs. At rest
//! `hit = filtered + reserve_failed + submitted` holds in every row, and over all of them
//! `entered = not ours + gave up + canary + hits`, where `gave up` is what failed at the
//! [`Site`](crate::site::Site)s that end a look.

/// A place in the kernel that reports events; one row of counters each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Hook {
    /// A connection attempt: `tcp_connect`, or CLOSE→`SYN_SENT` on the
    /// tracepoint rung.
    Connect = 0,
    /// An accepted connection: `inet_csk_accept`, `security_sock_graft`, or
    /// `SYN_RECV`→ESTABLISHED on the tracepoint rung.
    Accept = 1,
    /// The outcome of an attempt: `SYN_SENT`→ESTABLISHED or →CLOSE.
    Outcome = 2,
    /// The end of a connection: →CLOSE.
    Close = 3,
    /// The look at the open sockets at the start, and at what open connections have carried
    /// so far.
    Snapshot = 4,
    /// A socket that begins to listen, `inet_hash` or →LISTEN, or ends to.
    Listen = 5,
}

impl Hook {
    /// Every hook, in row order.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Accept,
        Self::Outcome,
        Self::Close,
        Self::Snapshot,
        Self::Listen,
    ];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Outcome => "outcome",
            Self::Close => "close",
            Self::Snapshot => "snapshot",
            Self::Listen => "listen",
        }
    }
}

/// What a hook did with an event; a column of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counter {
    /// The hook ran for an event of a kind that was asked for.
    Hit = 0,
    /// A filter kept the event back.
    Filtered = 1,
    /// The ring was full: the event is lost.
    ReserveFailed = 2,
    /// The event went into the ring.
    Submitted = 3,
}

/// Counters outside the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Extra {
    /// Accepts that only `security_sock_graft` saw: the accepting thread was
    /// asleep in `accept` when the return probe was attached, or the kernel
    /// skipped that program.
    AcceptPreattach = 24,
    /// Looks of programs, at a change of a socket, a call, or a file, that ended with an
    /// event or gave up.
    Ours = 25,
    /// All other looks: there was nothing to report: another protocol, a change
    /// that is no event, an event that nobody asked for or that another program reports.
    NotOurs = 26,
    /// Events of the start-up canary; they are in no other counter.
    Canary = 27,
    /// How often each [`Watcher`] saw that a connection of the start-up canary was there.
    Proofs = 28,
    /// Outcomes and ends for which the kernel skipped every program that sees them, found
    /// out later: of what is still remembered as an attempt when its connection ends, and
    /// of what is still remembered when another socket has its address, or at the stop. An
    /// attempt of which neither the outcome nor the end was seen is one of them.
    Unseen = 29,
}

/// A program that is not proved by a record: others beside it see the same, or it has
/// nothing to report of a connection that comes to its end. Each is proved by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Watcher {
    /// `pm_outcome_rt`
    Outcome = 0,
    /// `pm_again_rt`
    Again = 1,
    /// `pm_again_tp`
    AgainEvent = 2,
    /// `pm_remote_rt`
    Remote = 3,
    /// `pm_remote_tp`
    RemoteEvent = 4,
    /// `pm_graft_fe` or `pm_graft_mkp`, beside the program at the return of accept.
    Graft = 5,
    /// `pm_denied_fe` or `pm_denied_krp`, which report only what a security module denies.
    Denied = 6,
}

impl Watcher {
    /// Every one, and the names of its programs, of which one is attached.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Outcome, "pm_outcome_rt"),
        (Self::Again, "pm_again_rt"),
        (Self::AgainEvent, "pm_again_tp"),
        (Self::Remote, "pm_remote_rt"),
        (Self::RemoteEvent, "pm_remote_tp"),
        (Self::Graft, "pm_graft_fe"),
        (Self::Graft, "pm_graft_mkp"),
        (Self::Denied, "pm_denied_fe"),
        (Self::Denied, "pm_denied_krp"),
    ];
    /// Bits of [`Extra::Proofs`] for each.
    const BITS: u32 = 9;

    /// What one proof adds to [`Extra::Proofs`].
    pub const fn proof(self) -> u64 {
        1 << (self as u32 * Self::BITS)
    }

    /// Whether it is among these [`Extra::Proofs`].
    pub const fn is_proved(self, proofs: u64) -> bool {
        proofs >> (self as u32 * Self::BITS) & ((1 << Self::BITS) - 1) != 0
    }
}

/// Slots of one CPU: more than there are counters, so that no two CPUs write to
/// neighbouring cache lines.
pub const ROW: usize = 32;

/// The index of one hook's counter.
#[inline(always)]
pub const fn slot(hook: Hook, counter: Counter) -> u32 {
    hook as u32 * 4 + counter as u32
}

const _: () = assert!(slot(Hook::Listen, Counter::Submitted) < Extra::AcceptPreattach as u32);
const _: () = assert!((Extra::Unseen as usize) < ROW);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_of_one_watcher_are_not_anothers() {
        for (watcher, _) in Watcher::ALL {
            // A few tries, each seen a few times.
            let proofs = 200 * watcher.proof();
            for (other, _) in Watcher::ALL {
                assert_eq!(other.is_proved(proofs), other == watcher);
            }
        }
    }
}
