//! A compiled policy as it lies in the kernel's maps, and which one is in force.
//!
//! There is room for six generations: the one in force, what comes in its
//! place when nobody follows it any more, the one before, the one before that while the
//! one in force waits to be confirmed, and two being written. A verdict reads [`State`]
//! once and looks at one generation only, so it is wholly of one policy. What a policy may have
//! many or few of, networks, users, cgroups and executables, lies in tables of its own,
//! which are made as large as it needs and hang in the generation.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    numbered::{bits, numbered},
    pages,
    policy::{Direction, MAX_RULES, Transport},
};

/// Version of everything in this module: maps of another one are not touched.
pub const GENERATION_ABI: u32 = 5;

/// Generations there is room for: the four of a [`State`], and two more to write the next
/// one into, and what comes when nobody follows it.
pub const GENERATIONS: u32 = 6;
/// Rules of one policy: [`MAX_RULES`].
pub const RULES: u32 = 1_024;
/// Masks of one policy.
pub const MASKS: u32 = 8_192;
/// Networks of one policy: each makes two stretches at most, beside the first of each
/// family, and [`crate::pages`] have room for as many.
pub const NETWORKS: u32 = 1 << 19;
/// Users, cgroups or executables of one policy.
pub const OWNERS: u32 = 65_536;
/// Addresses of this host.
pub const ADDRESSES: u32 = 65_536;
/// Ports of one transport.
const PORTS: u32 = 1 << 16;
/// Words that hold the masks of all ports, four in each: bits 0–15 the lowest port's.
/// Ports are those that [`Transport::port`] names.
pub const PORT_WORDS: u32 = Transport::COUNT_32 * PORTS / 4;
/// Counters of one policy: one for each rule, and the [`Tally`]s.
pub const TALLIES: u32 = RULES + 8;
/// Levels of the cgroup tree that are looked at, below the root.
pub const LEVELS: i32 = 16;

/// Which policy is in force, in one word, so that one write changes all of it.
///
/// | bits | |
/// |---|---|
/// | 0–3 | the generation in force |
/// | 4–7 | the generation to fall back to at the deadline |
/// | 8–11 | under a lease the generation of the policy before; else the generation that a lease would fall back to, the generation in force where there is to be none |
/// | 12–15 | the generation of the policy before the one to fall back to |
/// | 16 | a lease: one falls back because nobody follows the policy; else because nobody confirms it |
/// | 17– | when to fall back, `CLOCK_BOOTTIME` in milliseconds; zero is never |
///
/// A verdict needs the first two and the last. No generation named here is ever written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u64);

impl State {
    const LEASE: u64 = 1 << 16;
    const DEADLINE: u32 = 17;

    const fn new(generations: [u32; 4], deadline_ms: u64) -> Self {
        let [generation, fallback, third, fourth] = generations;
        let generations =
            (generation & 0xf) | (fallback & 0xf) << 4 | (third & 0xf) << 8 | (fourth & 0xf) << 12;
        Self(generations as u64 | deadline_ms << Self::DEADLINE)
    }

    /// This generation, for good.
    pub const fn confirmed(generation: u32) -> Self {
        Self::confirmed_after(generation, generation)
    }

    /// This generation, for good; `before` is remembered as what was in force before.
    pub const fn confirmed_after(generation: u32, before: u32) -> Self {
        Self::new([generation, before, generation, before], 0)
    }

    /// This generation until `deadline_ms`, `fallback` from then on, before which `before` was
    /// in force.
    pub const fn until(generation: u32, fallback: u32, before: u32, deadline_ms: u64) -> Self {
        Self::new([generation, fallback, generation, before], deadline_ms)
    }

    /// Adds what comes in the place of the generation in force when nobody follows it.
    #[must_use]
    pub const fn with_exit(self, exit: u32) -> Self {
        let generations = [self.generation(), self.fallback(), exit, self.fourth()];
        Self::new(generations, self.deadline_ms())
    }

    /// This generation until `deadline_ms`, and then what comes when nobody follows it; for good
    /// where nothing does.
    #[must_use]
    pub const fn leased_until(self, deadline_ms: u64) -> Self {
        let (generation, before) = (self.generation(), self.before());
        match self.exit() {
            None => Self::confirmed_after(generation, before),
            Some(exit) => {
                let Self(word) = Self::new([generation, exit, before, before], deadline_ms);
                Self(word | Self::LEASE)
            }
        }
    }

    /// What holds at `now_ms`: once an unconfirmed policy has given way, the one it gave
    /// way to, for good. A lease can be renewed at any time, so it stays one.
    #[must_use]
    pub const fn settled(self, now_ms: u64) -> Self {
        if self.is_leased() || self.generation_at(now_ms) == self.generation() {
            self
        } else {
            Self::confirmed_after(self.fallback(), self.fourth())
        }
    }

    /// It ends when nobody follows it.
    pub const fn is_leased(self) -> bool {
        self.0 & Self::LEASE != 0
    }

    /// It ends at the deadline unless somebody confirms it.
    pub const fn is_unconfirmed(self) -> bool {
        !self.is_leased() && self.deadline_ms() != 0
    }

    const fn third(self) -> u32 {
        (self.0 >> 8 & 0xf) as u32
    }

    const fn fourth(self) -> u32 {
        (self.0 >> 12 & 0xf) as u32
    }

    /// Every generation that is in force, may come into force, or can be gone back to.
    pub const fn used(self) -> [u32; 4] {
        [
            self.generation(),
            self.fallback(),
            self.third(),
            self.fourth(),
        ]
    }

    /// The generation of the policy before; the generation in force where there was none.
    pub const fn before(self) -> u32 {
        if self.is_leased() {
            self.third()
        } else {
            self.fallback()
        }
    }

    /// The generation of the policy before the one to fall back to; that one's where there was
    /// none.
    pub const fn before_fallback(self) -> u32 {
        self.fourth()
    }

    /// The generation of what comes when nobody follows the policy.
    pub const fn exit(self) -> Option<u32> {
        let exit = if self.is_leased() {
            self.fallback()
        } else {
            self.third()
        };
        if exit == self.generation() {
            None
        } else {
            Some(exit)
        }
    }

    /// The generation that decides at `now_ms`.
    #[inline(always)]
    pub const fn generation_at(self, now_ms: u64) -> u32 {
        match self.deadline_ms() {
            0 => self.generation(),
            deadline if now_ms < deadline => self.generation(),
            _ => self.fallback(),
        }
    }

    /// The generation in force before the deadline.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 & 0xf) as u32
    }

    /// The generation to fall back to.
    #[inline(always)]
    pub const fn fallback(self) -> u32 {
        (self.0 >> 4 & 0xf) as u32
    }

    /// When to fall back, `CLOCK_BOOTTIME` in milliseconds; zero is never.
    #[inline(always)]
    pub const fn deadline_ms(self) -> u64 {
        self.0 >> Self::DEADLINE
    }
}

/// [`Header::mode`]: no policy, everything goes on.
pub const MODE_NONE: u8 = 0;
/// [`Header::mode`]: verdicts are counted and reported, everything goes on.
pub const MODE_OBSERVE: u8 = 1;
/// [`Header::mode`]: what is denied does not happen.
pub const MODE_ENFORCE: u8 = 2;

/// [`Header::on_exit`]: the policy stays in force when nobody follows it.
pub const ON_EXIT_ENFORCE: u8 = 0;
/// [`Header::on_exit`]: it ends.
pub const ON_EXIT_OPEN: u8 = 1;
/// [`Header::on_exit`]: nothing but its failsafe is allowed.
pub const ON_EXIT_CLOSED: u8 = 2;

bits! {
    u8 {
        /// [`Header::asks`]: some rule asks for a user.
        ASKS_USER = 0,
        /// [`Header::asks`]: some rule asks for an executable.
        ASKS_EXE = 1,
        /// [`Header::asks`]: listeners may be denied.
        ASKS_LISTEN = 2,
        /// [`Header::asks`]: some rule asks for a peer on this host.
        ASKS_SELF = 3,
        /// [`Header::asks`]: UDP that this host sends is judged.
        ASKS_UDP = 4,
        /// [`Header::asks`]: nothing asks about inbound connections. No rule is about one, and
        /// what they are allowed by is their default.
        INBOUND_OPEN = 5,
    }
}

/// [`Header::style`]: a denied SYN is answered by RST.
pub const STYLE_RESET: u8 = 0;
/// [`Header::style`]: a denied SYN is not answered.
pub const STYLE_DROP: u8 = 1;

bits! {
    u8 {
        /// [`Header::defaults`], [`RuleEntry::flags`]: deny.
        DENIES = 0,
        /// [`Header::defaults`]: loopback peers are not spared.
        FILTERS_LOOPBACK = 1,
    }
}
bits! {
    u8 {
        /// [`RuleEntry::flags`]: the rule asks who owns the connection; of a policy of the
        /// monitor, for what only userspace can tell.
        ASKS_OWNER = 1,
    }
}
const _: () = assert!(DENIES & ASKS_OWNER == 0);

/// A policy but for its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// When it was applied, ns since the Unix epoch.
    pub applied_ns: i64,
    /// The mask of peers in no network of the policy.
    pub other_network: u32,
    /// The rules that name peers on this host.
    pub this_host: u32,
    /// The mask of users no rule names.
    pub other_user: u32,
    /// The mask of cgroups no rule names, neither as one nor as a unit.
    pub other_group: u32,
    /// The mask of executables no rule names.
    pub other_exe: u32,
    /// The mask of all rules.
    pub every: u32,
    /// The depth of the deepest cgroup that has a mask of its own; the root's is 0.
    pub deepest: i32,
    /// Rules.
    pub rule_count: u32,
    /// What decides where no rule matches, by direction.
    pub defaults: [u8; 4],
    /// `MODE_*`.
    pub mode: u8,
    /// `ASKS_*` bits.
    pub asks: u8,
    /// `STYLE_*` for inbound connections.
    pub style: u8,
    /// `ON_EXIT_*`: what comes when nobody follows the policy.
    pub on_exit: u8,
    /// How long after the last sign of whoever follows it, s.
    pub exit_after_s: u32,
    /// SHA-256 of the policy's text.
    pub digest: [u8; 32],
    /// The path the policy was read from, NUL-padded, its end where it is longer.
    pub source: [u8; 244],
}

impl Header {
    /// No policy.
    pub const NONE: Self = Self {
        applied_ns: 0,
        other_network: 0,
        this_host: 0,
        other_user: 0,
        other_group: 0,
        other_exe: 0,
        every: 0,
        deepest: 0,
        rule_count: 0,
        defaults: [0; 4],
        mode: MODE_NONE,
        asks: 0,
        style: STYLE_RESET,
        on_exit: ON_EXIT_ENFORCE,
        exit_after_s: 0,
        digest: [0; 32],
        source: [0; 244],
    };
}

/// Longest name a rule's entry holds.
pub const NAME_BYTES: usize = 55;

/// One rule but for its conditions, by generation × [`MAX_RULES`] + rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RuleEntry {
    /// [`DENIES`] and [`ASKS_OWNER`] bits.
    pub flags: u8,
    /// Its name, NUL-padded.
    pub name: [u8; NAME_BYTES],
    /// A number of what it asks and does: two rules of equal name and meaning are one.
    pub meaning: u64,
}

/// A user: the uid in the initial user namespace.
pub type UserKey = u32;

/// A cgroup: its cgroup v2 id, the inode number of its directory.
pub type GroupKey = u64;

/// An executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ExeKey {
    /// Inode number.
    pub inode: u64,
    /// The file system: `s_dev`, the kernel's form of a device number.
    pub device: u32,
    /// Explicit padding.
    pub reserved: u32,
}

numbered! {
    /// What decided where no rule did: counters behind those of the rules.
    pub enum Tally: u32 {
        /// The default for inbound connections.
        DefaultInbound = 0,
        /// The default for outbound connections.
        DefaultOutbound = 1,
        /// The default for listeners.
        DefaultListen = 2,
        /// A default that spares loopback peers.
        Loopback = 3,
        /// A default that spares the kernel's own connections.
        KernelThread = 4,
        /// Tables that contradict each other: never, or a bug.
        Broken = 5,
    }
}

/// How often something decided.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Hits {
    /// How often.
    pub count: u64,
    /// The last time, `CLOCK_BOOTTIME` ns.
    pub last_ns: u64,
}

const _: () = {
    assert!(RULES as usize == MAX_RULES);
    // The programs count a default by the number of its direction.
    assert!(Tally::DefaultInbound as u32 == Direction::Inbound as u32);
    assert!(Tally::DefaultOutbound as u32 == Direction::Outbound as u32);
    assert!(Tally::DefaultListen as u32 == Direction::Listen as u32);
    assert!(Tally::Loopback as usize == Direction::COUNT);
    // Every tally has a counter, and `Owner::rule` holds its number.
    assert!(RULES as usize + Tally::COUNT <= TALLIES as usize);
    assert!(TALLIES <= u16::MAX as u32);
    // A generation is four bits of a `State`.
    assert!(GENERATIONS <= 1 << 4);
    // `Header::defaults` has room for each.
    assert!(Direction::COUNT <= Header::NONE.defaults.len());
    assert!(size_of::<Header>() == 328);
    assert!(offset_of!(Header, other_network) == 8);
    assert!(offset_of!(Header, mode) == 44);
    assert!(offset_of!(Header, exit_after_s) == 48);
    assert!(offset_of!(Header, digest) == 52);
    assert!(size_of::<RuleEntry>() == 64);
    assert!(NETWORKS as usize * 2 < pages::LEAVES * pages::LEAF);
    assert!(RULES as usize <= pages::KEYS);
    assert!(size_of::<ExeKey>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unconfirmed_policy_gives_way_at_its_deadline_and_not_before() {
        let state = State::until(2, 1, 3, 60_000);
        assert_eq!(state.generation_at(59_999), 2);
        assert_eq!(state.generation_at(60_000), 1);
        assert_eq!((state.generation(), state.fallback()), (2, 1));
        assert!(state.is_unconfirmed());
    }

    #[test]
    fn what_an_unconfirmed_policy_gives_way_to_is_as_it_was() {
        let state = State::until(2, 1, 3, 60_000).with_exit(4);
        assert_eq!(state.settled(59_999), state);
        assert_eq!(state.settled(60_000), State::confirmed_after(1, 3));
        assert_eq!(state.before_fallback(), 3);
        let mut used = state.used();
        used.sort_unstable();
        assert_eq!(used, [1, 2, 3, 4]);
    }

    #[test]
    fn confirmed_policy_stays() {
        assert_eq!(State::confirmed(1).generation_at(u64::MAX), 1);
        assert_eq!(State::confirmed(1).settled(u64::MAX), State::confirmed(1));
    }

    #[test]
    fn unfollowed_policy_gives_way_and_the_one_before_is_not_forgotten() {
        let unconfirmed = State::until(2, 1, 0, 60_000).with_exit(3);
        assert_eq!(unconfirmed.generation_at(60_000), 1);
        assert_eq!((unconfirmed.before(), unconfirmed.exit()), (1, Some(3)));
        assert!(!unconfirmed.is_leased());

        let leased = unconfirmed.leased_until(90_000);
        assert_eq!(leased.generation_at(89_999), 2);
        assert_eq!(leased.generation_at(90_000), 3);
        assert_eq!((leased.before(), leased.exit()), (1, Some(3)));
        assert!(leased.is_leased() && !leased.is_unconfirmed());
        assert_eq!(leased.leased_until(99_000).deadline_ms(), 99_000);
        assert_eq!(leased.settled(90_000), leased);
    }

    #[test]
    fn policy_that_needs_nobody_to_follow_it_has_no_lease() {
        let state = State::confirmed_after(2, 1);
        assert_eq!(state.leased_until(90_000), state);
        assert_eq!(state.exit(), None);
    }

    #[test]
    fn deadline_survives_a_century() {
        let century_ms = 100 * 366 * 24 * 3_600 * 1_000;
        assert_eq!(State::until(0, 0, 0, century_ms).deadline_ms(), century_ms);
    }
}
