//! The policy's word on one connection: fetches the masks of what the connection
//! is, and asks `port_monitor_common` for the first rule in all of them.

use port_monitor_common::{
    addr,
    denial::Denial,
    generation::{
        self, ASKS_EXE, ASKS_OWNER, ASKS_SELF, ASKS_USER, DENIES, ExeKey, FILTERS_LOOPBACK,
        GENERATIONS, Header, LEVELS, MODE_ENFORCE, MODE_NONE, State, TALLIES, Tally,
    },
    mask::{Accepting, Mask, Part},
    pages::Page as _,
    policy::{self, Action, Decider, DefaultAction, Direction},
};

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_get_current_uid_gid};

use crate::{
    account,
    maps::{
        ENDS, EVENTS, EXES, GROUPS, HITS, MASKS, NETWORKS_V4, NETWORKS_V6, POLICIES, PORTS, RULES,
        SELF, STATE, USERS,
    },
    read::{
        mem,
        sock::{self, Addr},
        task,
    },
};

/// Rules of each policy.
const RULES_EACH: u32 = generation::RULES;
/// The empty set of rules, in every generation.
const NO_RULE: u32 = 0;

/// Whose connection it is.
pub(crate) trait Party {
    /// Its user can be told.
    const USER_IS_KNOWN: bool = Self::IS_KNOWN;
    /// All of it can be told; else nothing is said where a rule asks for it.
    const IS_KNOWN: bool;
    /// Uid in the initial user namespace; nobody's where it is not known.
    #[inline(always)]
    fn uid(&self) -> u32 {
        u32::MAX
    }
    /// The id of the cgroup it is in at this level; zero for none.
    #[inline(always)]
    fn cgroup(&self, _level: i32) -> u64 {
        0
    }
    /// Its executable: device and inode.
    #[inline(always)]
    fn exe(&self) -> Option<(u32, u64)> {
        None
    }
    /// It is a thread of the kernel.
    #[inline(always)]
    fn is_kernel(&self) -> bool {
        false
    }
}

/// What is asked.
pub(crate) struct Question {
    /// A [`Direction`] by number.
    pub(crate) direction: u32,
    /// Of the service, as [`Transport::port`] names it.
    pub(crate) port: u32,
    /// As it was given; all zeroes for a listener.
    pub(crate) peer: Addr,
    /// The peer's address is also ours.
    pub(crate) is_self: u32,
}

/// What was decided, and by what.
#[derive(Clone, Copy)]
pub(crate) struct Decision {
    generation: u32,
    /// A rule, or [`RULES_EACH`] and a [`Tally`].
    tally: u32,
    denies: bool,
    enforces: bool,
    now_ns: u64,
}

impl Decision {
    /// The connection must not be.
    #[inline(always)]
    pub(crate) fn stops(&self) -> bool {
        self.denies && self.enforces
    }

    /// Policy and rules do not want it, whether or not it is stopped.
    #[inline(always)]
    pub(crate) fn denies(&self) -> bool {
        self.denies
    }

    /// What decided: a rule, or [`RULES_EACH`] and a [`Tally`].
    #[inline(always)]
    pub(crate) fn tally(&self) -> u32 {
        self.tally
    }

    /// Tells of a denial of the running process, if there is room, and counts whatever it
    /// is.
    #[inline(always)]
    pub(crate) fn note_process(&self, question: &Question) {
        // First: of what is counted nothing more is to come.
        if self.denies {
            let task = task::current();
            tell(&Denial {
                comm: task::comm(task),
                tgid: task::tgid(task).unwrap_or(0),
                uid: bpf_get_current_uid_gid() as u32,
                ..self.denial(question)
            });
        }
        self.count();
    }

    /// Notes and counts what was decided of a packet.
    #[inline(always)]
    pub(crate) fn note_packet(&self, question: &Question) {
        let [high, low] = halves(&question.peer);
        let denies = u64::from(self.denies) << PACKET_DENIED;
        let what = u64::from(self.tally) | u64::from(question.port as u16) << 32 | denies;
        let place = u64::from(self.generation) | u64::from(question.direction as u8) << 8;
        pm_note(self.now_ns, high, low, what, place);
    }

    #[inline(always)]
    fn denial(&self, question: &Question) -> Denial {
        Denial {
            ts_ns: self.now_ns,
            comm: [0; 2],
            peer: question.peer,
            tgid: 0,
            uid: 0,
            tally: self.tally,
            port: question.port as u16,
            // Transport and port share a number.
            direction: question.direction as u8 | ((question.port >> 16) as u8) << 7,
            generation: self.generation as u8,
        }
    }

    #[inline(always)]
    fn count(&self) {
        count(self.generation, self.tally, self.now_ns);
    }
}

/// Counts a decision.
#[inline(always)]
fn count(generation: u32, tally: u32, now_ns: u64) {
    if let Some(hits) =
        HITS.get_ptr_mut((account::cpu() * GENERATIONS + generation) * TALLIES + tally)
    {
        // SAFETY: a map value is valid for as long as the program runs.
        let (count, last) = unsafe { (&raw mut (*hits).count, &raw mut (*hits).last_ns) };
        account::add_one(count);
        // SAFETY: as above.
        unsafe { last.write_volatile(now_ns) };
    }
}

/// The policy in force, and its generation.
#[inline(always)]
pub(crate) fn policy(now_ns: u64) -> Option<(u32, &'static Header)> {
    let word = STATE.get_ptr(0)?;
    // SAFETY: a map value is valid for as long as the program runs.
    let state = State(unsafe { word.read_volatile() });
    let generation = state.generation_at(now_ns / 1_000_000);
    let header = POLICIES.get(generation)?;
    (header.mode != MODE_NONE).then_some((generation, header))
}

/// Decides; `None` where there is no policy, or it asks for what is not known.
#[inline(always)]
pub(crate) fn judge<P: Party>(
    policy: (u32, &'static Header),
    now_ns: u64,
    question: &Question,
    party: &P,
) -> Option<Decision> {
    let peer = if question.direction == Direction::Listen as u32 {
        Peer::NONE
    } else {
        Peer::of(policy.0, question)
    };
    let directions = ENDS.get(policy.0)?.find(now_ns);
    judge_peer(policy, (now_ns, directions), question, peer, party)
}

/// Judges where it is known what the policy knows of the peer, and the masks of the rules
/// for each direction that have not ended.
#[inline(always)]
pub(crate) fn judge_peer<P: Party>(
    (generation, header): (u32, &'static Header),
    (now_ns, directions): (u64, u64),
    question: &Question,
    peer: Peer,
    party: &P,
) -> Option<Decision> {
    let decided = |(tally, denies)| Decision {
        generation,
        tally,
        denies,
        enforces: header.mode == MODE_ENFORCE,
        now_ns,
    };
    let Some(first) = first::<P>(generation, header, directions, question, peer, party) else {
        // Tables that do not hold together decide for the policy's author.
        return Some(decided((RULES_EACH + Tally::Broken as u32, true)));
    };
    let Some(rule) = first else {
        return Some(decided(by_default(header, question, peer, party)));
    };
    let flags = RULES.get(generation * RULES_EACH + rule)?.flags;
    if !P::IS_KNOWN && flags & ASKS_OWNER != 0 {
        return None;
    }
    Some(decided((rule, flags & DENIES != 0)))
}

/// What decides where no rule matches.
#[inline(always)]
fn by_default<P: Party>(
    header: &Header,
    question: &Question,
    peer: Peer,
    party: &P,
) -> (u32, bool) {
    let number = question.direction & 3;
    let flags = header.defaults[number as usize];
    let direction = match number {
        0 => Direction::Inbound,
        1 => Direction::Outbound,
        _ => Direction::Listen,
    };
    let default = DefaultAction {
        action: if flags & DENIES == 0 {
            Action::Allow
        } else {
            Action::Deny
        },
        filters_loopback: flags & FILTERS_LOOPBACK != 0,
    };
    let is_kernel = || party.is_kernel();
    let decision = policy::Decision::of(None, direction, default, peer.is_loopback(), is_kernel);
    let tally = match decision.by {
        Decider::Loopback => Tally::Loopback as u32,
        Decider::Kernel => Tally::KernelThread as u32,
        Decider::Default | Decider::Rule(_) => number,
    };
    (RULES_EACH + tally, matches!(decision.action, Action::Deny))
}

/// The first rule that matches; `None` where a table misses an entry.
#[inline(always)]
fn first<P: Party>(
    generation: u32,
    header: &'static Header,
    directions: u64,
    question: &Question,
    peer: Peer,
    party: &P,
) -> Option<Option<u32>> {
    let direction = directions >> ((question.direction & 3) * 16) & 0xffff;
    let port = question.port;
    let ports = PORTS.get(generation * generation::PORT_WORDS + port / 4)?;
    let port = *ports >> (port % 4 * 16) & 0xffff;
    let (user, group, exe) = owner::<P>(generation, header, party);
    let flow = packed([
        direction as u32,
        port as u32,
        peer.network(header),
        peer.this_host(),
    ]);
    let owner = packed([user, group, exe, generation]);
    match pm_first(flow, owner) {
        BROKEN => None,
        NONE => Some(None),
        rule => Some(Some(rule as u32)),
    }
}

/// What [`pm_peer`] tells of a peer: in bits 0–15 the mask of its network, in bits
/// 16–31 that of peers on this host, in bit 32 that it has a loopback address.
#[derive(Clone, Copy)]
pub(crate) struct Peer(u64);

impl Peer {
    /// No peer.
    const NONE: Self = Self(1 << 33);

    #[inline(always)]
    pub(crate) fn of(generation: u32, question: &Question) -> Self {
        let [high, low] = halves(&question.peer);
        Self(pm_peer(
            generation.into(),
            high,
            low,
            question.is_self.into(),
        ))
    }

    #[inline(always)]
    fn network(self, header: &Header) -> u32 {
        if self.0 == Self::NONE.0 {
            header.other_network
        } else {
            self.0 as u32 & 0xffff
        }
    }

    #[inline(always)]
    fn this_host(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 >> 32 & 1 != 0
    }
}

/// Both halves of an address, as they lie in memory.
#[inline(always)]
pub(crate) fn halves(addr: &Addr) -> [u64; 2] {
    let [a, b, c, d] = addr.map(u64::from);
    [a | b << 32, c | d << 32]
}

/// What a policy knows of a peer: a [`Peer`]. A function of its own for the same
/// reason as [`pm_first`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_peer(generation: u64, high: u64, low: u64, is_self: u64) -> u64 {
    let Some(header) = POLICIES.get(generation as u32) else {
        return 0;
    };
    let peer = [
        high as u32,
        (high >> 32) as u32,
        low as u32,
        (low >> 32) as u32,
    ];
    let peer = addr::canonical(peer).map(|word| mem::forget(word.into(), generation) as u32);
    let network = match network(generation, &peer) {
        NO_PAGE => header.other_network.into(),
        network => network,
    };
    let [v4, v6] = addr::beyond_loopback(&peer);
    let is_loopback = sock::is_zero(v4) | sock::is_zero(v6);
    let is_self = is_self != 0
        || is_loopback != 0
        || header.asks & ASKS_SELF != 0 && SELF.get_ptr(peer).is_some();
    let this_host = if is_self { header.this_host } else { NO_RULE };
    network | u64::from(this_host) << 16 | is_loopback << 32
}

/// The mask of the networks an address is in; [`NO_PAGE`] where the policy names none.
#[inline(always)]
fn network(generation: u64, peer: &Addr) -> u64 {
    if addr::is_mapped(peer) {
        let addr = u32::from_be(peer[3]).into();
        pm_page_v4(generation, pm_page_v4(generation, 0, addr), addr)
    } else {
        let [high, low] = halves(peer).map(u64::from_be);
        pm_page_v6(generation, pm_page_v6(generation, 0, high, low), high, low)
    }
}

/// What [`pm_page_v4`] and [`pm_page_v6`] answer where there is no such page; there is no
/// page of this number.
const NO_PAGE: u64 = u64::MAX;

/// What a page of a generation's table of IPv4 addresses has for one. A function of its own for
/// the same reason as [`pm_first`]: two pages are searched.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_page_v4(generation: u64, page: u64, addr: u64) -> u64 {
    let table = NETWORKS_V4.get(generation as u32);
    let page = table.and_then(|pages| pages.get(page as u32));
    page.map_or(NO_PAGE, |page| page.find(addr as u32).into())
}

/// What a page of IPv6 networks has for an address, as [`pm_page_v4`] of IPv4.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_page_v6(generation: u64, page: u64, high: u64, low: u64) -> u64 {
    let table = NETWORKS_V6.get(generation as u32);
    let page = table.and_then(|pages| pages.get(page as u32));
    page.map_or(NO_PAGE, |page| page.find([high, low]).into())
}

/// Hands a denial to whoever reads them, who looks every second: nobody is to be woken by
/// a flood. One that the ring has no room for is counted all the same: [`count`] counts
/// every decision, told or not.
#[inline(always)]
fn tell(denial: &Denial) {
    account::counted_elsewhere(EVENTS.output::<Denial>(denial, BPF_RB_NO_WAKEUP.into()));
}

/// In [`pm_note`]'s `what` the bit that says that it is a denial.
const PACKET_DENIED: u32 = 48;

/// Counts what was decided of a packet, of which nobody is known, and tells of a denial: in
/// `what` the counter, and the port from bit 32 on; in `place` the generation, and the direction
/// from bit 8 on. A function of its own for the same reason as [`pm_first`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_note(ts_ns: u64, high: u64, low: u64, what: u64, place: u64) -> u64 {
    let (generation, tally) = (place as u8, what as u32);
    if what >> PACKET_DENIED & 1 != 0 {
        // First: of what is counted nothing more is to come.
        tell(&packet_denial(ts_ns, [high, low], what, place));
    }
    count(generation.into(), tally, ts_ns);
    0
}

#[inline(always)]
fn packet_denial(ts_ns: u64, [high, low]: [u64; 2], what: u64, place: u64) -> Denial {
    Denial {
        ts_ns,
        comm: [0; 2],
        peer: [
            high as u32,
            (high >> 32) as u32,
            low as u32,
            (low >> 32) as u32,
        ],
        tgid: 0,
        uid: 0,
        tally: what as u32,
        port: (what >> 32) as u16,
        direction: (place >> 8) as u8,
        generation: place as u8,
    }
}

/// What [`pm_first`] answers where no rule matches.
const NONE: u64 = u64::MAX;
/// What it answers where there is no such mask.
const BROKEN: u64 = u64::MAX - 1;

/// The numbers of four masks, 16 bits each.
#[inline(always)]
fn packed([first, second, third, fourth]: [u32; 4]) -> u64 {
    const { assert!(generation::MASKS <= 1 << 16) };
    u64::from(first) | u64::from(second) << 16 | u64::from(third) << 32 | u64::from(fourth) << 48
}

/// The mask of the owner's generation whose number is at this place.
#[inline(always)]
fn mask(numbers: u64, place: u32, owner: u64) -> Option<&'static Mask> {
    let generation = (owner >> 48) as u32;
    let number = (numbers >> (16 * place)) as u32 & 0xffff;
    MASKS.get(generation * generation::MASKS + number)
}

/// The first rule in the masks with these numbers: in `flow` of direction, port, network and
/// this host, in `owner` of user, cgroup and executable, and the generation. A function that the
/// verifier looks at by itself, once, whoever calls it: so its arguments are plain
/// numbers, and its name is known to the linker.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_first(flow: u64, owner: u64) -> u64 {
    let (Some(direction), Some(port), Some(network), Some(this_host)) = (
        mask(flow, 0, owner),
        mask(flow, 1, owner),
        mask(flow, 2, owner),
        mask(flow, 3, owner),
    ) else {
        return BROKEN;
    };
    let (Some(user), Some(group), Some(exe)) = (
        mask(owner, 0, owner),
        mask(owner, 1, owner),
        mask(owner, 2, owner),
    ) else {
        return BROKEN;
    };
    let accepting = Accepting {
        direction,
        port,
        network,
        this_host,
        user,
        group,
        exe,
    };
    let first = accepting.first_or(|part| match pm_part(flow, owner, part as u64) {
        NONE => None,
        rule => Some(rule as usize),
    });
    first.map_or(NONE, |rule| rule as u64)
}

/// The first rule in a part of the masks. One mask after the other: a chain of calls has
/// not the room for where all of them are.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pm_part(flow: u64, owner: u64, part: u64) -> u64 {
    first_in(flow, owner, part as usize).unwrap_or(BROKEN)
}

#[inline(always)]
fn first_in(flow: u64, owner: u64, part: usize) -> Option<u64> {
    let mut rules = Part::of(part, mask(flow, 2, owner)?);
    rules = rules.held(mem::held).or(mask(flow, 3, owner)?);
    for (numbers, place) in [(flow, 0), (flow, 1), (owner, 0), (owner, 1), (owner, 2)] {
        rules = rules.held(mem::held).and(mask(numbers, place, owner)?);
    }
    let first = rules.held(mem::held).first();
    Some(first.map_or(NONE, |rule| rule as u64))
}

/// The masks of user, cgroup and executable.
#[inline(always)]
fn owner<P: Party>(generation: u32, header: &Header, party: &P) -> (u32, u32, u32) {
    if !P::USER_IS_KNOWN {
        return (header.every, header.every, header.every);
    }
    let mut user = header.other_user;
    if header.asks & ASKS_USER != 0 {
        if let Some(number) = USERS.get_value_ptr_mut(generation, &party.uid()) {
            // SAFETY: a map value is valid for as long as the program runs.
            user = unsafe { number.read_volatile() };
        }
    }
    if !P::IS_KNOWN {
        return (user, header.every, header.every);
    }
    let mut exe = header.other_exe;
    if header.asks & ASKS_EXE != 0
        && let Some((device, inode)) = party.exe()
    {
        let key = ExeKey {
            inode,
            device,
            reserved: 0,
        };
        if let Some(number) = EXES.get_value_ptr_mut(generation, &key) {
            // SAFETY: as above.
            exe = unsafe { number.read_volatile() };
        }
    }
    (user, group(generation, header, party), exe)
}

/// The mask of the deepest cgroup that has one: it holds those of all it lies in.
#[inline(always)]
fn group<P: Party>(generation: u32, header: &Header, party: &P) -> u32 {
    let Some(groups) = GROUPS.get(generation) else {
        return header.other_group;
    };
    for up in 0..LEVELS {
        // Not every time: each branch costs the verifier, and above the root there is no id.
        if matches!(up, 0..=4 | 6 | 8 | 12) && header.deepest <= up {
            break;
        }
        let id = party.cgroup(header.deepest - up);
        if let Some(number) = groups.get_ptr(&id) {
            // SAFETY: a map value is valid for as long as the program runs.
            return unsafe { number.read_volatile() };
        }
    }
    header.other_group
}
