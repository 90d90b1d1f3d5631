//! A policy made of what was seen: it allows every connection and listener it was
//! shown and, but for what else the same owners do with the same peers, no other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    net::IpAddr,
};

use ipnet::IpNet;
use jiff::Timestamp;
use port_monitor_common::{
    event::FileId,
    policy::{Direction, MAX_RULES, canonical, is_loopback},
};
use thiserror::Error;

use super::{Environment, Facts, rules::compile::condition::spelled, text::value};
use crate::ports::services;

/// More was seen than a policy can tell apart.
#[derive(Debug, Error)]
#[error("it would make {0} rules, and a policy may have {MAX_RULES}: record less of it")]
pub struct TooManyRules(usize);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Learner {
    groups: BTreeMap<Group, Evidence>,
    /// A path of every executable that has one on this host.
    paths: HashMap<FileId, String>,
    connections: usize,
    listeners: usize,
    on_loopback: usize,
    /// Without a known port, which no rule could name.
    without_port: usize,
}

/// What one rule is about. In the order of the rules: those about fewer owners
/// come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    direction: u8,
    owner: Owner,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Unit(String),
    Exe(String),
    User(u32),
    Unknown,
}

#[derive(Debug)]
struct Evidence {
    count: usize,
    peers: BTreeSet<IpAddr>,
    first_ns: i128,
    last_ns: i128,
}

impl Learner {
    /// Takes one connection or listener.
    pub fn take(&mut self, facts: &Facts<'_>, env: &dyn Environment) {
        let is_listener = facts.direction == Direction::Listen;
        if is_listener {
            self.listeners += 1;
        } else {
            self.connections += 1;
        }
        let peer = canonical(value::octets(facts.peer));
        if !is_listener && is_loopback(&peer) {
            self.on_loopback += 1;
            return;
        }
        if facts.service_port == 0 {
            self.without_port += 1;
            return;
        }
        let group = Group {
            direction: facts.direction as u8,
            owner: Owner::of(facts, self.path(facts, env)),
            port: facts.service_port,
        };
        let evidence = self.groups.entry(group).or_insert_with(|| Evidence {
            count: 0,
            peers: BTreeSet::new(),
            first_ns: facts.now_ns,
            last_ns: facts.now_ns,
        });
        evidence.count += 1;
        evidence.first_ns = evidence.first_ns.min(facts.now_ns);
        evidence.last_ns = evidence.last_ns.max(facts.now_ns);
        if !is_listener {
            evidence.peers.insert(value::address(peer));
        }
    }

    /// A path that names the executable on this host; the path a process sees in a mount
    /// namespace of its own may name another file here.
    fn path(&mut self, facts: &Facts<'_>, env: &dyn Environment) -> Option<String> {
        let path = facts.exe.filter(|path| path.is_absolute());
        let text = path.and_then(|path| path.to_str());
        let text = text.filter(|text| !text.ends_with('/')).map(str::to_owned);
        let Some(file) = facts.exe_id else {
            return text;
        };
        if let Some(known) = self.paths.get(&file) {
            return Some(known.clone());
        }
        let is_here =
            path.is_some_and(|path| env.executable(path).is_ok_and(|found| found == file));
        let text = text.filter(|_| is_here)?;
        self.paths.insert(file, text.clone());
        Some(text)
    }

    /// Nothing was seen.
    pub const fn is_empty(&self) -> bool {
        self.connections + self.listeners == 0
    }

    /// The text of the policy. `lost` events are missing from what was seen; `None`
    /// is not known.
    pub fn policy(&self, lost: Option<u64>, env: &dyn Environment) -> Result<String, TooManyRules> {
        if self.groups.len() > MAX_RULES {
            return Err(TooManyRules(self.groups.len()));
        }
        let mut text = self.head(lost);
        let mut names = HashSet::new();
        for (group, evidence) in &self.groups {
            text.push('\n');
            text.push_str(&rule(group, evidence, &mut names, env));
        }
        Ok(text)
    }

    fn head(&self, lost: Option<u64>) -> String {
        let mut text = format!(
            "# Made by port-monitor of {} and {}{}.\n\
             # It allows what was seen, which need not be what should be: read it, then use it.\n",
            counted(self.connections, "connection"),
            counted(self.listeners, "listener"),
            self.period()
        );
        let notes = [
            match lost {
                None => Some(
                    "The recording has no summary: whether events were lost is not known."
                        .to_owned(),
                ),
                Some(0) => None,
                Some(lost) => Some(format!(
                    "{lost} events were lost while recording: what they told is missing here."
                )),
            },
            (self.on_loopback > 0).then(|| {
                format!(
                    "On loopback, {}: no rules, for the defaults spare loopback.",
                    counted(self.on_loopback, "connection")
                )
            }),
            (self.without_port > 0).then(|| {
                format!(
                    "Without a known port, so without a rule: {}.",
                    self.without_port
                )
            }),
        ];
        for note in notes.into_iter().flatten() {
            // Writing to a string does not fail.
            _ = writeln!(text, "# {note}");
        }
        text.push_str(
            "version = 1\nmode = \"observe\"\n\n[default]\ninbound = { action = \"deny\" }\n\
             outbound = { action = \"deny\" }\nlisten = { action = \"deny\" }\n",
        );
        text
    }

    fn period(&self) -> String {
        let evidence = || self.groups.values();
        let first = evidence().map(|evidence| evidence.first_ns).min();
        let last = evidence().map(|evidence| evidence.last_ns).max();
        first
            .zip(last)
            .map(|(first, last)| period(first, last))
            .unwrap_or_default()
    }
}

impl Owner {
    /// What of the owner is likeliest to be the same next time.
    fn of(facts: &Facts<'_>, exe: Option<String>) -> Self {
        let unit = facts.unit.filter(|unit| value::is_unit(unit));
        // A user's manager holds all the programs of a session, and a scope has
        // another name in the next one.
        let lasting = unit
            .filter(|unit| unit.ends_with(".service") && !unit.starts_with("user@"))
            .map(|unit| Self::Unit(unit.to_owned()));
        lasting
            .or_else(|| exe.map(Self::Exe))
            .or_else(|| unit.map(|unit| Self::Unit(unit.to_owned())))
            .or_else(|| facts.uid.filter(|&uid| uid != u32::MAX).map(Self::User))
            .unwrap_or(Self::Unknown)
    }

    /// The condition; none where the owner is not known.
    fn condition(&self) -> Option<String> {
        match self {
            Self::Unit(unit) => Some(format!("unit = {}", quoted(unit))),
            Self::Exe(exe) => Some(format!("exe = {}", quoted(exe))),
            Self::User(uid) => Some(format!("user = {uid}")),
            Self::Unknown => None,
        }
    }

    /// The owner's part of the rule's name.
    fn stem(&self) -> String {
        match self {
            Self::Unit(unit) => unit.trim_end_matches(".service").to_owned(),
            Self::Exe(exe) => exe.rsplit('/').next().unwrap_or_default().to_owned(),
            Self::User(uid) => format!("user-{uid}"),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

fn rule(
    group: &Group,
    evidence: &Evidence,
    names: &mut HashSet<String>,
    env: &dyn Environment,
) -> String {
    let mut directions = Direction::ALL.into_iter();
    let direction = directions
        .find(|&direction| direction as u8 == group.direction)
        .unwrap_or(Direction::Inbound);
    let service = services::lookup(group.port).0.map(|(service, _)| service);
    // A service of further ports would allow more than was seen.
    let service = service.filter(|service| env.service_ports(service) == [group.port]);
    let port = service.map_or_else(|| group.port.to_string(), str::to_owned);
    let name = name(direction, &group.owner, &port, names);
    let mut lines = vec![evidence.comment(direction)];
    if group.owner == Owner::Unknown {
        lines.push("# Whose is not known: this rule is about every owner.".to_owned());
    }
    lines.extend([
        "[[rule]]".to_owned(),
        format!("name = {}", quoted(&name)),
        format!("direction = \"{}\"", spelled(direction)),
        match service {
            Some(service) => format!("service = {}", quoted(service)),
            None => format!("port = {port}"),
        },
    ]);
    lines.extend(group.owner.condition());
    let peers = evidence.networks();
    match direction {
        Direction::Inbound => lines.push(format!("from = {peers}")),
        Direction::Outbound => lines.push(format!("to = {peers}")),
        Direction::Listen => {}
    }
    lines.push("action = \"allow\"\n".to_owned());
    lines.join("\n")
}

/// A name that no rule has yet, fit for a rule.
fn name(direction: Direction, owner: &Owner, port: &str, names: &mut HashSet<String>) -> String {
    let stem: String = owner.stem().chars().take(32).collect();
    let fit = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
        _ => '_',
    };
    let name = format!("{}-{stem}-{port}", spelled(direction));
    let name: String = name.chars().map(fit).take(56).collect();
    let mut free = name.clone();
    let mut number = 2_u32;
    while !names.insert(free.clone()) {
        free = format!("{name}-{number}");
        number += 1;
    }
    free
}

impl Evidence {
    fn comment(&self, direction: Direction) -> String {
        let period = period(self.first_ns, self.last_ns);
        match direction {
            Direction::Listen => format!("# {}{period}", counted(self.count, "listener")),
            Direction::Inbound | Direction::Outbound => {
                let peers = counted(self.peers.len(), "peer");
                format!("# {}, {peers}{period}", counted(self.count, "connection"))
            }
        }
    }

    /// The peers, joined to networks only where every address of one was seen.
    fn networks(&self) -> String {
        let peers: Vec<IpNet> = self.peers.iter().map(|&peer| peer.into()).collect();
        let networks = IpNet::aggregate(&peers);
        let networks: Vec<String> = networks
            .iter()
            .map(|network| {
                if network.prefix_len() == network.max_prefix_len() {
                    quoted(&network.addr().to_string())
                } else {
                    quoted(&network.to_string())
                }
            })
            .collect();
        match &networks[..] {
            [network] => network.clone(),
            networks => format!("[{}]", networks.join(", ")),
        }
    }
}

fn period(first_ns: i128, last_ns: i128) -> String {
    let time = |ns: i128| {
        let second = i64::try_from(ns.div_euclid(1_000_000_000)).ok()?;
        Timestamp::from_second(second).ok()
    };
    match time(first_ns).zip(time(last_ns)) {
        Some((first, last)) => format!(", first {first}, last {last}"),
        None => String::new(),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// As TOML writes text.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
