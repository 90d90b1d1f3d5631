//! The masks of a policy in the form of the kernel's maps: names of this host become
//! what the kernel knows them by, and times what its clock shows.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use port_monitor_common::{
    addr,
    generation::{
        ASKS_EXE, ASKS_LISTEN, ASKS_OWNER, ASKS_SELF, ASKS_UDP, ASKS_USER, DENIES, ENDS,
        FILTERS_LOOPBACK, Header, INBOUND_OPEN, MASKS, MODE_ENFORCE, MODE_OBSERVE, NAME_BYTES,
        NETWORKS, ON_EXIT_CLOSED, ON_EXIT_ENFORCE, ON_EXIT_OPEN, OWNERS, RuleEntry, STYLE_DROP,
        STYLE_RESET,
    },
    mask::Mask,
    policy::{Accepts, Action, Direction, Mode, Rule},
};
use thiserror::Error;

use super::{
    Policy,
    compile::FAILSAFE_NAME,
    index::{Index, Table},
    intent::{OnDaemonExit, Refusal},
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
}

/// A policy for the kernel's maps; every number of a mask is its place in `masks`.
#[derive(Debug, PartialEq, Eq)]
pub struct Lowered {
    /// All but the tables; without source, digest and time.
    pub header: Header,
    /// What comes when nobody follows the policy, if that uses its tables.
    pub closed: Option<Closed>,
    /// In order.
    pub rules: Vec<RuleEntry>,
    /// The sets of rules.
    pub masks: Vec<Mask>,
    /// The mask of every port, four in a word.
    pub ports: Arc<[u64]>,
    /// Prefix length of 128, first address, mask.
    pub networks: Vec<(u32, addr::Words, u32)>,
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
    directions: [[u32; 4]; ENDS + 1],
    defaults: [u8; 4],
}

impl Lowered {
    /// The header of what comes when nobody follows the policy, if that uses its tables:
    /// nothing but the failsafe is allowed.
    pub fn closed_header(&self) -> Option<Header> {
        let Closed {
            directions,
            defaults,
        } = *self.closed.as_ref()?;
        Some(Header {
            directions,
            defaults,
            on_exit: ON_EXIT_ENFORCE,
            asks: self.header.asks & !INBOUND_OPEN,
            ..self.header
        })
    }
}

/// Why a policy cannot be applied on this host.
#[derive(Debug, Error)]
pub enum LowerError {
    /// A rule for inbound connections asks for an executable.
    #[error(
        "{file}:{line}: rule `{rule}`: the kernel does not know the executable of a listening \
         socket; use `user`, `unit` or `cgroup`"
    )]
    InboundExe {
        /// The policy.
        file: String,
        /// Where the rule is.
        line: usize,
        /// Its name.
        rule: String,
    },
    /// More of something than the maps hold.
    #[error("{file}: {count} {what}, the kernel's tables hold {limit}")]
    TooMany {
        /// The policy.
        file: String,
        /// How many.
        count: usize,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

impl Policy {
    /// The policy for the kernel of this host.
    pub fn lower(&self, places: &dyn Places) -> Result<Lowered, LowerError> {
        self.check_executables()?;
        let mut table = Table::of(&self.index.masks);
        let mut header = self.header();
        self.lower_times(places, &mut table, &mut header)?;
        let mut missing = Vec::new();
        let groups = self.lower_groups(places, &mut table, &mut header, &mut missing);
        let exes = self.lower_exes(places, &mut table, &mut header, &mut missing);
        let mut every = Mask::NONE;
        (0..self.rules.len()).for_each(|rule| every.insert(rule));
        header.every = table.number(every);
        let closed = match self.intent.on_daemon_exit {
            OnDaemonExit::Closed(_) => Some(self.closed(&header, &mut table)),
            OnDaemonExit::Enforce | OnDaemonExit::Open(_) => None,
        };
        let lowered = Lowered {
            closed,
            groups,
            exes,
            missing,
            ..self.lowered(header, table)
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
        let mut header = Header {
            mode: MODE_OBSERVE,
            // What else is of this host is told with the question, or not asked.
            asks: header.asks & ASKS_USER,
            directions: [[inbound, outbound, listen, 0]; ENDS + 1],
            every: table.number(every),
            ..header
        };
        // They have no peer: the monitor's programs ask all the same.
        header.defaults[Direction::Listen as usize] |= FILTERS_LOOPBACK;
        let mut lowered = self.lowered(header, table);
        for (entry, rule) in lowered.rules.iter_mut().zip(&self.tables.rules) {
            let is_certain = [rule.units, rule.cgroups, rule.exes] == [Accepts::Any; 3]
                && rule.until_ns == i64::MAX;
            entry.flags &= !ASKS_OWNER;
            if !is_certain {
                entry.flags |= ASKS_OWNER;
            }
        }
        self.check_sizes(&lowered)?;
        Ok(lowered)
    }

    /// With what needs nothing of this host.
    fn lowered(&self, mut header: Header, mut table: Table) -> Lowered {
        header.this_host = table.number(self.index.this_host);
        header.other_user = self.index.other_user;
        header.other_network = self.index.networks.other;
        Lowered {
            header,
            closed: None,
            rules: self.lower_rules(),
            ports: self.index.port_words(),
            networks: networks(&self.index),
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
    fn closed(&self, header: &Header, table: &mut Table) -> Closed {
        let mut failsafe = Mask::NONE;
        let is_failsafe = |name: &str| name.starts_with(FAILSAFE_NAME);
        for (rule, info) in self.rules.iter().enumerate() {
            if is_failsafe(&info.name) {
                failsafe.insert(rule);
            }
        }
        let mut closed = Closed {
            directions: header.directions,
            defaults: header.defaults,
        };
        for number in closed.directions.iter_mut().flatten() {
            let mut mask = *table.get(*number);
            mask.intersect(&failsafe);
            *number = table.number(mask);
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            closed.defaults[direction as usize] |= DENIES;
        }
        closed
    }

    fn file(&self) -> String {
        self.source.name.clone()
    }

    /// No rule may ask for what its hook does not know: it would never match.
    fn check_executables(&self) -> Result<(), LowerError> {
        let rules = self.tables.rules.iter().zip(&self.rules);
        let wrong = rules
            .filter(|(rule, _)| rule.direction == Direction::Inbound)
            .find(|(rule, _)| rule.exes != Accepts::Any);
        wrong.map_or(Ok(()), |(_, info)| {
            Err(LowerError::InboundExe {
                file: self.file(),
                line: info.line,
                rule: info.name.to_string(),
            })
        })
    }

    fn check_sizes(&self, lowered: &Lowered) -> Result<(), LowerError> {
        let sizes = [
            (lowered.masks.len(), "different sets of rules", MASKS),
            (lowered.networks.len(), "networks", NETWORKS),
            (lowered.users.len(), "users", OWNERS),
            (lowered.groups.len(), "cgroups", OWNERS),
            (lowered.exes.len(), "executables", OWNERS),
        ];
        let too_many = sizes
            .into_iter()
            .find(|&(count, _, limit)| count > limit as usize);
        too_many.map_or(Ok(()), |(count, what, limit)| {
            Err(LowerError::TooMany {
                file: self.file(),
                count,
                what,
                limit: limit as usize,
            })
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
            (any(|rule| rule.uids != Accepts::Any), ASKS_USER),
            (any(|rule| rule.exes != Accepts::Any), ASKS_EXE),
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
        let entry = |(rule, info): (&Rule, &super::RuleInfo)| {
            let owners = [rule.uids, rule.units, rule.cgroups, rule.exes];
            let asks = owners.iter().any(|accepts| *accepts != Accepts::Any);
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

    /// The masks of the directions, for every stretch of time between two ends.
    fn lower_times(
        &self,
        places: &dyn Places,
        table: &mut Table,
        header: &mut Header,
    ) -> Result<(), LowerError> {
        let mut ends: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for &(end, rule) in &self.index.ends {
            ends.entry(end).or_default().push(rule);
        }
        if ends.len() > ENDS {
            return Err(LowerError::TooMany {
                file: self.file(),
                count: ends.len(),
                what: "different times in `until`",
                limit: ENDS,
            });
        }
        let mut masks = self.index.directions.map(|number| *table.get(number));
        let mut ends = ends.into_iter();
        for passed in 0..=ENDS {
            for (to, mask) in header.directions[passed].iter_mut().zip(&masks) {
                *to = table.number(*mask);
            }
            let Some((end, rules)) = ends.next() else {
                continue;
            };
            header.ends_ns[passed] = places.boot_ns(end);
            for mask in &mut masks {
                for &rule in &rules {
                    mask.remove(rule);
                }
            }
        }
        Ok(())
    }
}

const fn denies(action: Action) -> u8 {
    match action {
        Action::Allow => 0,
        Action::Deny => DENIES,
    }
}

fn networks(index: &Index) -> Vec<(u32, addr::Words, u32)> {
    let prefixes = index.networks.prefixes.iter();
    let entries = prefixes.flat_map(|(&prefix_len, masks)| {
        masks.iter().map(move |(first, &mask)| {
            let first = addr::to_words(first.to_be_bytes());
            (prefix_len, first, mask)
        })
    });
    entries.collect()
}

/// A policy's text in short: SHA-256.
pub fn digest(text: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).into()
}
