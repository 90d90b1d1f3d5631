//! The kernel's own accounting: which counters there are, and the law they obey.
//!
//! Each hook has a row of four; userspace sums them over the CPUs. At rest
//! `hit = filtered + reserve_failed + submitted` holds in every row, and over all of them
//! `entered = not ours + gave up + self-test + hits`, where `gave up` is what failed at the
//! [`Site`](crate::site::Site)s that end a look.

use crate::numbered::numbered;

numbered! {
    /// A place in the kernel that reports events; one row of counters each.
    pub enum Hook: u32 {
        /// A connection attempt: `tcp_connect`, or CLOSE→`SYN_SENT` on the
        /// tracepoint backend.
        Connect = 0,
        /// An accepted connection: `inet_csk_accept`, `security_sock_graft`, or
        /// `SYN_RECV`→ESTABLISHED on the tracepoint backend.
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
}

impl Hook {
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

numbered! {
    /// What a hook did with an event; a column of the counters.
    pub enum Counter: u32 {
        /// The hook ran for an event of a kind that was asked for.
        Hit = 0,
        /// A filter kept the event back.
        Filtered = 1,
        /// The ring was full: the event is lost.
        ReserveFailed = 2,
        /// The event went into the ring.
        Submitted = 3,
    }
}

numbered! {
    /// Counters outside the rows.
    pub enum Extra: u32 {
        /// Accepts that only `security_sock_graft` saw: the accepting thread was
        /// asleep in `accept` when the return probe was attached, or the kernel
        /// skipped that program.
        AcceptPreattach = 0,
        /// Looks of programs, at a change of a socket, a call, or a file, that ended with an
        /// event or gave up.
        Ours = 1,
        /// All other looks: there was nothing to report: another protocol, a change
        /// that is no event, an event that nobody asked for or that another program reports.
        NotOurs = 2,
        /// Events of the start-up self-test; they are in no other counter.
        SelfTest = 3,
        /// How often each [`Watcher`] saw that a connection of the start-up self-test was there.
        Proofs = 4,
        /// Outcomes and ends for which the kernel skipped every program that sees them, found
        /// out later: of what is still remembered as an attempt when its connection ends, and
        /// of what is still remembered when another socket has its address, or at the stop. An
        /// attempt of which neither the outcome nor the end was seen is one of them.
        Unseen = 5,
        /// [`Extra::Proofs`] of further watchers.
        FurtherProofs = 6,
        /// Attempts that only the second of two programs saw: the kernel skipped the first.
        AttemptsSecond = 7,
        /// Sockets that begin to listen, likewise.
        ListensSecond = 8,
        /// Attempts that the third of three programs found told by neither of the others
        /// (tracepoint backend).
        AttemptsUnseen = 9,
        /// Sockets that begin to listen, likewise.
        ListensUnseen = 10,
    }
}

numbered! {
    /// A program that is not proved by a record: others beside it see the same, or it has
    /// nothing to report of a connection that comes to its end. Each is proved by itself.
    pub enum Watcher: u32 {
        /// `pm_outcome_bt`, or `pm_outcome_rt`
        Outcome = 0,
        /// `pm_again_bt`, or `pm_again_rt`
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
        /// `pm_before_rt`
        Before = 7,
        /// `pm_connect_kp` or `pm_local_tp`, where another program sees attempts after it.
        AttemptFirst = 8,
        /// `pm_connect_fe` or `pm_local_rt`, where another program has seen attempts before it.
        AttemptSecond = 9,
    }
}

impl Watcher {
    /// Its programs, of which one is attached.
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Outcome => &["pm_outcome_rt", "pm_outcome_bt"],
            Self::Again => &["pm_again_rt", "pm_again_bt"],
            Self::AgainEvent => &["pm_again_tp"],
            Self::Remote => &["pm_remote_rt"],
            Self::RemoteEvent => &["pm_remote_tp"],
            Self::Before => &["pm_before_rt"],
            Self::Graft => &["pm_graft_fe", "pm_graft_mkp"],
            Self::Denied => &["pm_denied_fe", "pm_denied_krp"],
            Self::AttemptFirst => &["pm_connect_kp", "pm_local_tp"],
            Self::AttemptSecond => &["pm_connect_fe", "pm_local_rt"],
        }
    }

    /// Bits for the proofs of each.
    const BITS: u32 = 8;

    /// What one proof adds to [`Extra::Proofs`], or to [`Extra::FurtherProofs`] for those that
    /// the first has no room for.
    pub const fn proof(self) -> u64 {
        1 << (self as u32 * Self::BITS % u64::BITS)
    }

    /// Whether it is among these [`Extra::Proofs`], with the further ones in the upper half.
    pub const fn is_proved(self, proofs: u128) -> bool {
        proofs >> (self as u32 * Self::BITS) & ((1 << Self::BITS) - 1) != 0
    }

    /// It is one of two that see attempts, where there are two.
    pub const fn is_of_attempts(self) -> bool {
        matches!(self, Self::AttemptFirst | Self::AttemptSecond)
    }
}

/// Counters of one CPU.
const SLOTS: usize = Hook::COUNT * Counter::COUNT + Extra::COUNT;

/// The slot behind the counters: the programs' own, for the change of a socket's state that the
/// first of two has seen to its end, and the second need not look at. It counts nothing.
pub const SEEN: u32 = Hook::COUNT_32 * Counter::COUNT_32 + Extra::COUNT_32;

/// Slots of one CPU: more than there are in use, so that no two CPUs write to
/// neighbouring cache lines.
pub const ROW: usize = (SLOTS + 1 + 2).next_multiple_of(8);

/// The index of one hook's counter.
#[inline(always)]
pub const fn slot(hook: Hook, counter: Counter) -> u32 {
    hook as u32 * Counter::COUNT_32 + counter as u32
}

/// The index of a counter outside the rows: behind those of all hooks.
#[inline(always)]
pub const fn extra_slot(extra: Extra) -> u32 {
    Hook::COUNT_32 * Counter::COUNT_32 + extra as u32
}

/// Every counter has a slot of its own, and all of them lie in the row of a CPU.
const _: () = {
    let mut is_taken = [false; ROW];
    let mut hook = 0;
    while hook < Hook::COUNT {
        let mut counter = 0;
        while counter < Counter::COUNT {
            let slot = slot(Hook::ALL[hook], Counter::ALL[counter]) as usize;
            assert!(!is_taken[slot], "two counters share a slot");
            is_taken[slot] = true;
            counter += 1;
        }
        hook += 1;
    }
    let mut extra = 0;
    while extra < Extra::COUNT {
        let slot = extra_slot(Extra::ALL[extra]) as usize;
        assert!(!is_taken[slot], "two counters share a slot");
        is_taken[slot] = true;
        extra += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_of_one_watcher_are_not_anothers() {
        for watcher in Watcher::ALL {
            // A few tries, each seen a few times.
            let proofs = 200 << (watcher as u32 * Watcher::BITS);
            let words = u128::from(u64::MAX) + 1;
            assert_eq!(
                proofs / words + proofs % words,
                u128::from(200 * watcher.proof())
            );
            for other in Watcher::ALL {
                assert_eq!(other.is_proved(proofs), other == watcher);
            }
        }
    }
}
