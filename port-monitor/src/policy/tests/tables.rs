//! The tables of the kernel's programs, asked in userspace as those ask them: what
//! `port-monitor-ebpf/src/enforce.rs` does, with the same functions of the common crate.

use port_monitor_common::{
    addr::{beyond_loopback, canonical, is_mapped, to_words},
    generation::{
        ASKS_EXE, ASKS_OWNER, ASKS_USER, DENIES, FILTERS_LOOPBACK, Header, INBOUND_OPEN, LEVELS,
        RULES, Tally,
    },
    mask::{Accepting, Mask},
    pages::{self, Ends},
    policy::{Action, Decider, Decision, DefaultAction, Direction},
};

use super::super::tables::lower::Lowered;

/// What a program asks.
pub(super) struct Asked {
    pub(super) direction: Direction,
    /// As `Transport::port` names it.
    pub(super) port: u32,
    /// As the program saw it.
    pub(super) peer: [u8; 16],
    pub(super) is_self: bool,
    /// `CLOCK_BOOTTIME`; `None` for the monitor, by whose tables no rule ends.
    pub(super) now_ns: Option<u64>,
    pub(super) party: Party,
    pub(super) is_kernel: bool,
}

/// Whose it is.
pub(super) enum Party {
    /// Who is known.
    Known {
        /// `u32::MAX` where it is not known.
        uid: u32,
        /// The ids of the cgroups it is in, the root's first.
        groups: Vec<u64>,
        exe: Option<(u32, u64)>,
    },
    /// Only the user is.
    User(u32),
    /// Nobody is.
    Nobody,
}

/// The counter of what decides, and whether it denies; `None` where the tables leave it to
/// others.
pub(super) fn answer(
    lowered: &Lowered,
    (header, ends): (&Header, &Ends),
    asked: &Asked,
) -> Option<(u32, bool)> {
    let mask = |number: u32| lowered.masks.get(number as usize).expect("a mask");
    let number = asked.direction as u32;
    if asked.direction == Direction::Inbound && header.asks & INBOUND_OPEN != 0 {
        return Some((RULES + number, false));
    }
    let directions = asked
        .now_ns
        .map_or_else(|| ends.endless(), |now_ns| ends.find(now_ns));
    let direction = u32::try_from(directions >> (number * 16) & 0xffff).unwrap();
    let word = lowered.ports[asked.port as usize / 4];
    let port = u32::try_from(word >> (asked.port % 4 * 16) & 0xffff).unwrap();
    let peer = Peer::of(lowered, header, asked);
    let (user, group, exe) = owner(lowered, header, &asked.party);
    let accepting = Accepting {
        direction: mask(direction),
        port: mask(port),
        network: mask(peer.network),
        this_host: peer.this_host.map_or(&Mask::NONE, mask),
        user: mask(user),
        group: mask(group),
        exe: mask(exe),
    };
    let Some(rule) = accepting.first() else {
        return Some(by_default(header, asked, peer.is_loopback));
    };
    let flags = lowered.rules[rule].flags;
    let is_known = matches!(asked.party, Party::Known { .. });
    (is_known || flags & ASKS_OWNER == 0)
        .then(|| (u32::try_from(rule).unwrap(), flags & DENIES != 0))
}

/// What is known of a peer: the masks of its network and of this host.
struct Peer {
    network: u32,
    this_host: Option<u32>,
    is_loopback: bool,
}

impl Peer {
    fn of(lowered: &Lowered, header: &Header, asked: &Asked) -> Self {
        if asked.direction == Direction::Listen {
            return Self {
                network: header.other_network,
                this_host: None,
                is_loopback: false,
            };
        }
        let peer = canonical(to_words(asked.peer));
        let [a, b, c, d] = peer.map(|word| u64::from(u32::from_be(word)));
        let (v4, v6) = (&lowered.networks.v4, &lowered.networks.v6);
        let network = if is_mapped(&peer) {
            pages::find(|n| v4.get(n as usize), u32::try_from(d).unwrap())
        } else {
            pages::find(|n| v6.get(n as usize), [a << 32 | b, c << 32 | d])
        };
        let is_loopback = beyond_loopback(&peer).contains(&0);
        Self {
            network: network.unwrap_or(header.other_network),
            this_host: (asked.is_self || is_loopback).then_some(header.this_host),
            is_loopback,
        }
    }
}

/// The masks of user, cgroup and executable.
fn owner(lowered: &Lowered, header: &Header, party: &Party) -> (u32, u32, u32) {
    let user = |uid: u32| {
        let named = lowered.users.iter().find(|(named, _)| *named == uid);
        let named = named.filter(|_| header.asks & ASKS_USER != 0);
        named.map_or(header.other_user, |(_, mask)| *mask)
    };
    match party {
        Party::Nobody => (header.every, header.every, header.every),
        Party::User(uid) => (user(*uid), header.every, header.every),
        Party::Known { uid, groups, exe } => {
            let named = |file: (u32, u64)| {
                let mut exes = lowered.exes.iter();
                exes.find(|(device, inode, _)| (*device, *inode) == file)
            };
            let exe = exe.filter(|_| header.asks & ASKS_EXE != 0).and_then(named);
            let exe = exe.map_or(header.other_exe, |(.., mask)| *mask);
            (user(*uid), group(lowered, header, groups), exe)
        }
    }
}

/// The mask of the deepest cgroup that has one.
fn group(lowered: &Lowered, header: &Header, groups: &[u64]) -> u32 {
    for up in 0..LEVELS {
        if header.deepest <= up {
            break;
        }
        let level = usize::try_from(header.deepest - up).unwrap();
        let id = groups.get(level).copied().unwrap_or(0);
        if let Some((_, mask)) = lowered.groups.iter().find(|(named, _)| *named == id) {
            return *mask;
        }
    }
    header.other_group
}

fn by_default(header: &Header, asked: &Asked, is_loopback: bool) -> (u32, bool) {
    let number = asked.direction as u32;
    let flags = header.defaults[number as usize];
    let default = DefaultAction {
        action: if flags & DENIES == 0 {
            Action::Allow
        } else {
            Action::Deny
        },
        filters_loopback: flags & FILTERS_LOOPBACK != 0,
    };
    let is_kernel = || asked.is_kernel;
    let decision = Decision::of(None, asked.direction, default, is_loopback, is_kernel);
    let tally = match decision.by {
        Decider::Loopback => Tally::Loopback as u32,
        Decider::Kernel => Tally::KernelThread as u32,
        Decider::Default | Decider::Rule(_) => number,
    };
    (RULES + tally, decision.action == Action::Deny)
}
