//! The masks of a policy in the form of the kernel's maps: names of this host become
//! what the kernel knows them by, and times what its clock shows.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use port_monitor_common::{
    generation::{
        ASKS_EXE, ASKS_LISTEN, ASKS_OWNER, ASKS_SELF, ASKS_UDP, ASKS_USER, DENIES,
        FILTERS_LOOPBACK, Header, INBOUND_OPEN, MODE_ENFORCE, MODE_OBSERVE, NAME_BYTES,
        ON_EXIT_CLOSED, ON_EXIT_ENFORCE, ON_EXIT_OPEN, RuleEntry, STYLE_DROP, STYLE_RESET,
    },
    mask::Mask,
    pages::Ends,
    policy::{Action, Direction, Mode, OwnerCondition, Rule},
};
use thiserror::Error;

use super::{index::Table, stretches::Networks};
use crate::policy::{
    compiled::Policy,
    conditions::about,
    limits::{self, TooMany},
    rules::info::RuleInfo,
    rules::{
        compile::FAILSAFE_NAME,
        intent::{OnDaemonExit, Refusal},
    },
};

mod owners;

/// What this host knows of the names a policy uses.
pub trait Places {
    /// Every cgroup: its path with a leading slash, the root's is empty, and its id.
    fn cgroups(&self) -> Vec<(String, u64)>;
    /// The device and inode of an executable, as the kernel numbers them.
    fn executable(&self, path: &Path) -> Result<(u32, u64), std::io::Error>;
    /// `CLOCK_BOOTTIME`, ns, at a wall-clock time in ns since the Unix epoch.
    fn boot_ns(&self, wall_ns: i64) -> u64;
    /// Wall-clock time, ns since the Unix epoch.
    fn now_ns(&self) -> i64;
}

/// A policy for the kernel's maps; every number of a mask is its place in `masks`.
#[derive(Debug, PartialEq, Eq)]
pub struct Lowered {
    /// All but the tables; without source, digest and time.
    pub header: Header,
    /// What comes when nobody follows the policy, if that uses its tables.
    pub closed: Option<Closed>,
    /// When rules end.
    pub ends: Box<Ends>,
    /// In order.
    pub rules: Vec<RuleEntry>,
    /// The sets of rules.
    pub masks: Vec<Mask>,
    /// The mask of every port, four in a word.
    pub ports: Arc<[u64]>,
    /// The masks of networks.
    pub networks: Arc<Networks>,
    /// Uid, mask.
    pub users: Vec<(u32, u32)>,
    /// Cgroup id, mask.
    pub groups: Vec<(u64, u32)>,
    /// Device, inode, mask.
    pub exes: Vec<(u32, u64, u32)>,
    /// The cgroups and executables that rules name and that are not there now, in words.
    pub missing: Vec<String>,
}

/// A policy but for all its rules that are not its failsafe.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    ends: Box<Ends>,
    defaults: [u8; 4],
}

impl Lowered {
    /// The header of what comes when nobody follows the policy, if that uses its tables:
    /// nothing but the failsafe is allowed.
    pub fn closed_header(&self) -> Option<Header> {
        let defaults = self.closed.as_ref()?.defaults;
        Some(Header {
            defaults,
            on_exit: ON_EXIT_ENFORCE,
            asks: self.header.asks & !INBOUND_OPEN,
            ..self.header
        })
    }

    /// The header of the policy, and when its rules end.
    pub const fn when_open(&self) -> (&Header, &Ends) {
        (&self.header, &self.ends)
    }

    /// The header of what comes when nobody follows the policy, and when its rules end, if
    /// that uses its tables.
    pub fn when_closed(&self) -> Option<(Header, &Ends)> {
        let header = self.closed_header()?;
        Some((header, &self.closed.as_ref()?.ends))
    }

    /// Takes the ends of another, lowered from the same policy before, unless a clock was
    /// set since: no two looks read both clocks at one moment.
    pub fn keep_ends(&mut self, before: &Self, within_ns: u64) {
        let keep = |now: &mut Box<Ends>, before: &Ends| {
            if now.is_about(before, within_ns) {
                **now = *before;
            }
        };
        keep(&mut self.ends, &before.ends);
        if let (Some(now), Some(before)) = (&mut self.closed, &before.closed) {
            keep(&mut now.ends, &before.ends);
        }
    }
}

/// Why a policy cannot be applied on this host.
#[derive(Debug, Error)]
pub enum LowerError {
    /// A rule asks for what the kernel cannot compare where it judges.
    #[error("{file}:{line}: rule `{rule}`: {why}")]
    BeyondHook {
        /// The policy.
        file: String,
        /// Where the rule is.
        line: usize,
        /// Its name.
        rule: String,
        /// Why it cannot, and what to do.
        why: &'static str,
    },
    /// More of something than the kernel's tables hold.
    #[error("{file}: {too_many}")]
    TooMany {
        /// The policy.
        file: String,
        /// Of what.
        too_many: TooMany,
    },
}

impl Policy {
    /// The policy for the kernel of this host.
    pub fn lower(&self, places: &dyn Places) -> Result<Lowered, LowerError> {
        self.check_hooks()?;
        let mut table = Table::of(&self.index.masks);
        let mut header = self.header();
        let times = self.times(places.now_ns(), |end| places.boot_ns(end), &mut table);
        let mut missing = Vec::new();
        let groups = self.lower_groups(places, &mut table, &mut header, &mut missing);
        let exes = self.lower_exes(places, &mut table, &mut header, &mut missing);
        let mut every = Mask::NONE;
        (0..self.rules.len()).for_each(|rule| every.insert(rule));
        header.every = table.number(every);
        let closed = match self.intent.on_daemon_exit {
            OnDaemonExit::Closed(_) => Some(self.closed(&header, &times, &mut table)),
            OnDaemonExit::Enforce | OnDaemonExit::Open(_) => None,
        };
        let lowered = Lowered {
            closed,
            groups,
            exes,
            missing,
            ..self.lowered(header, &times, table)
        };
        self.check_sizes(&lowered)?;
        Ok(lowered)
    }

    /// The policy for the monitor's programs, which know of an owner only the user, and no
    /// time: a rule that asks for more has `ASKS_OWNER`, and whatever it is the first to
    /// match is left to [`Policy::judge`].
    pub fn lower_for_monitor(&self) -> Result<Lowered, LowerError> {
        let mut table = Table::of(&self.index.masks);
        let mut every = Mask::NONE;
        (0..self.rules.len()).for_each(|rule| every.insert(rule));
        let [inbound, outbound, listen] = self.index.directions;
        let header = self.header();
        let header = Header {
            mode: MODE_OBSERVE,
            // What else is of this host is told with the question, or not asked.
            asks: header.asks & ASKS_USER,
            every: table.number(every),
            ..header
        };
        let times = Times {
            first: [inbound, outbound, listen],
            ends: Vec::new(),
        };
        let mut lowered = self.lowered(header, &times, table);
        for (entry, rule) in lowered.rules.iter_mut().zip(&self.tables.rules) {
            let is_certain = !rule.asks(OwnerCondition::scopes()) && rule.until_ns == i64::MAX;
            entry.flags &= !ASKS_OWNER;
            if !is_certain {
                entry.flags |= ASKS_OWNER;
            }
        }
        self.check_sizes(&lowered)?;
        Ok(lowered)
    }

    /// With what needs nothing of this host.
    fn lowered(&self, mut header: Header, times: &Times, mut table: Table) -> Lowered {
        header.this_host = table.number(self.index.this_host);
        header.other_user = self.index.other_user;
        header.other_network = self.index.networks.other;
        Lowered {
            header,
            closed: None,
            ends: times.lowered(),
            rules: self.lower_rules(),
            ports: self.index.port_words(),
            networks: self.index.network_pages(),
            users: self
                .index
                .users
                .iter()
                .map(|(&uid, &mask)| (uid, mask))
                .collect(),
            groups: Vec::new(),
            exes: Vec::new(),
            missing: Vec::new(),
            masks: table.masks,
        }
    }

    /// Of all rules only the failsafe, and no connection beyond it.
    fn closed(&self, header: &Header, times: &Times, table: &mut Table) -> Closed {
        let mut failsafe = Mask::NONE;
        let is_failsafe = |name: &str| name.starts_with(FAILSAFE_NAME);
        for (rule, info) in self.rules.iter().enumerate() {
            if is_failsafe(&info.name) {
                failsafe.insert(rule);
            }
        }
        let mut of_failsafe = |number| {
            let mut mask = *table.get(number);
            mask.intersect(&failsafe);
            table.number(mask)
        };
        let mut times = times.clone();
        times.first = times.first.map(&mut of_failsafe);
        for (_, directions) in &mut times.ends {
            *directions = directions.map(&mut of_failsafe);
        }
        let mut defaults = header.defaults;
        for direction in [Direction::Inbound, Direction::Outbound] {
            defaults[direction as usize] |= DENIES;
        }
        Closed {
            ends: times.lowered(),
            defaults,
        }
    }

    fn file(&self) -> String {
        self.source.name.clone()
    }

    /// No rule may ask for what its hook does not know: it would never match.
    fn check_hooks(&self) -> Result<(), LowerError> {
        let why = |rule: &Rule| {
            let asked = OwnerCondition::ALL.into_iter();
            let mut asked = asked.filter(|&condition| rule.asks([condition]));
            asked.find_map(|condition| (about(condition).beyond_hook)(rule.direction))
        };
        let mut rules = self.tables.rules.iter().zip(&self.rules);
        let wrong = rules.find_map(|(rule, info)| Some((info, why(rule)?)));
        wrong.map_or(Ok(()), |(info, why)| {
            Err(LowerError::BeyondHook {
                file: self.file(),
                line: info.line,
                rule: info.name.to_string(),
                why,
            })
        })
    }

    /// The sets of rules that it tells apart on whatever host: those of its cgroups, and of
    /// what is in two units, are told where it is applied.
    pub(crate) fn check_rule_sets(&self, now_ns: i64) -> Result<(), TooMany> {
        let mut table = Table::of(&self.index.masks);
        self.times(now_ns, i64::unsigned_abs, &mut table);
        for (_, exe) in self.scopes.exes() {
            table.number(self.index.scoped(OwnerCondition::Exe, &[exe]));
        }
        limits::check(&[(table.masks.len(), limits::RULE_SETS)])
    }

    fn check_sizes(&self, lowered: &Lowered) -> Result<(), LowerError> {
        limits::check(&[
            (lowered.masks.len(), limits::RULE_SETS),
            (lowered.users.len(), limits::USERS),
            (lowered.groups.len(), limits::CGROUPS),
        ])
        .map_err(|too_many| LowerError::TooMany {
            file: self.file(),
            too_many,
        })
    }

    /// `ASKS_*` bits.
    fn asks(&self) -> u8 {
        let (rules, defaults) = (&self.tables.rules, &self.tables.defaults);
        let any = |is: fn(&Rule) -> bool| rules.iter().any(is);
        let may_deny_listeners = defaults.listen.action == Action::Deny
            || any(|rule| rule.direction == Direction::Listen && rule.action == Action::Deny);
        let is_inbound_open = defaults.inbound.action == Action::Allow
            && !any(|rule| rule.direction == Direction::Inbound);
        [
            (any(|rule| rule.asks([OwnerCondition::User])), ASKS_USER),
            (any(|rule| rule.asks([OwnerCondition::Exe])), ASKS_EXE),
            (may_deny_listeners, ASKS_LISTEN),
            (self.index.this_host != Mask::NONE, ASKS_SELF),
            (self.tables.judges_udp, ASKS_UDP),
            (is_inbound_open, INBOUND_OPEN),
        ]
        .into_iter()
        .filter(|(is_asked, _)| *is_asked)
        .fold(0, |bits, (_, bit)| bits | bit)
    }

    fn header(&self) -> Header {
        let mut defaults = [0; 4];
        for direction in Direction::ALL {
            let default = self.tables.defaults.of(direction);
            let loopback = if default.filters_loopback {
                FILTERS_LOOPBACK
            } else {
                0
            };
            defaults[direction as usize] = denies(default.action) | loopback;
        }
        let (on_exit, exit_after) = match self.intent.on_daemon_exit {
            OnDaemonExit::Enforce => (ON_EXIT_ENFORCE, Duration::ZERO),
            OnDaemonExit::Open(after) => (ON_EXIT_OPEN, after),
            OnDaemonExit::Closed(after) => (ON_EXIT_CLOSED, after),
        };
        Header {
            on_exit,
            exit_after_s: u32::try_from(exit_after.as_secs()).unwrap_or(u32::MAX),
            rule_count: u32::try_from(self.rules.len()).unwrap_or(u32::MAX),
            defaults,
            mode: match self.intent.mode {
                Mode::Observe => MODE_OBSERVE,
                Mode::Enforce => MODE_ENFORCE,
            },
            asks: self.asks(),
            style: match self.intent.inbound {
                Refusal::Reset => STYLE_RESET,
                Refusal::Drop => STYLE_DROP,
            },
            ..Header::NONE
        }
    }

    fn lower_rules(&self) -> Vec<RuleEntry> {
        let rules = self.tables.rules.iter().zip(&self.rules);
        let entry = |(rule, info): (&Rule, &RuleInfo)| {
            let asks = rule.asks(OwnerCondition::ALL);
            let mut name = [0; NAME_BYTES];
            for (to, from) in name.iter_mut().zip(info.name.as_bytes()) {
                *to = *from;
            }
            RuleEntry {
                flags: denies(rule.action) | if asks { ASKS_OWNER } else { 0 },
                name,
                meaning: self.meaning(rule),
            }
        };
        rules.map(entry).collect()
    }

    /// The masks of the directions, now and from each time on at which rules end. What has
    /// ended by now is left out.
    fn times(&self, now_ns: i64, boot_ns: impl Fn(i64) -> u64, table: &mut Table) -> Times {
        let mut ends: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for &(end, rule) in &self.index.ends {
            ends.entry(end).or_default().push(rule);
        }
        let mut masks = self.index.directions.map(|number| *table.get(number));
        let mut without = |rules: &[usize]| {
            for mask in &mut masks {
                for &rule in rules {
                    mask.remove(rule);
                }
            }
            masks.map(|mask| table.number(mask))
        };
        let lasting = ends.split_off(&now_ns.saturating_add(1));
        let ended: Vec<usize> = ends.into_values().flatten().collect();
        Times {
            first: without(&ended),
            ends: lasting
                .into_iter()
                .map(|(end, rules)| (boot_ns(end), without(&rules)))
                .collect(),
        }
    }
}

/// The masks of the rules for each direction, by time.
#[derive(Clone)]
struct Times {
    /// Until the first end.
    first: [u32; 3],
    /// From each end on, `CLOCK_BOOTTIME` ns; earliest first.
    ends: Vec<(u64, [u32; 3])>,
}

impl Times {
    fn lowered(&self) -> Box<Ends> {
        // A number of more than 16 bits is cut: of so many masks none gets into the kernel.
        let packed = |directions: [u32; 3]| {
            let places = (0_u32..).zip(directions);
            places.fold(0, |word, (place, number)| {
                word | (u64::from(number) & 0xffff) << (16 * place)
            })
        };
        let ends = self.ends.iter();
        let ends: Vec<_> = ends
            .map(|&(end_ns, directions)| (end_ns, packed(directions)))
            .collect();
        Box::new(Ends::of(packed(self.first), &ends))
    }
}

const fn denies(action: Action) -> u8 {
    match action {
        Action::Allow => 0,
        Action::Deny => DENIES,
    }
}
