//! Policies drawn at random from a small world, and what a rule means by its words alone: nothing here is of the compiler, the index or the tables.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use port_monitor_common::policy::{Action, Direction, Transport};

use super::super::{Facts, NOW_NS};
use crate::{
    base::seeded::Random,
    policy::{
        analysis::{cells::Place, diff::Who},
        text::value,
    },
};

/// The cgroups that are there when a policy is compiled and applied; their ids count from 1.
pub(super) const CGROUPS: [&str; 21] = [
    "",
    "/system.slice",
    "/system.slice/app.service",
    "/system.slice/app.service/sub",
    "/system.slice/web.service",
    "/system.slice/ssh.service",
    "/system.slice/sshd-session.service",
    "/system.slice/_cpu.service",
    "/system.slice/system-worker.slice",
    "/system.slice/system-worker.slice/worker@1.service",
    "/system.slice/system-worker.slice/worker@22.service",
    "/user.slice",
    "/user.slice/user-1000.slice",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/run.scope",
    // The same unit elsewhere, and one in another.
    "/app.service",
    "/app.service/web.service",
    "/user.slice/app.service",
    "/system.slice/api.service",
    "/system.slice/app.service/api.service",
    "/user.slice/system-worker.slice",
    "/user.slice/system-worker.slice/worker@7.service",
];
/// Units as they are written, as they are told, and the directories of cgroups they mean.
const UNITS: [(&str, &str, &[&str]); 18] = [
    ("app.service", "app.service", &["app.service"]),
    ("web.service", "web.service", &["web.service"]),
    // An alias.
    ("sshd.service", "ssh.service", &["ssh.service"]),
    ("ssh.service", "ssh.service", &["ssh.service"]),
    // It matches the alias, and so means the unit that stands for.
    (
        "sshd*.service",
        "sshd*.service",
        &["ssh.service", "sshd-session.service"],
    ),
    (
        "cpu.service",
        "cpu.service",
        &["_cpu.service", "cpu.service"],
    ),
    (
        "worker@.service",
        "worker@*.service",
        &["worker@1.service", "worker@22.service", "worker@7.service"],
    ),
    (
        "worker@?.service",
        "worker@?.service",
        &["worker@1.service", "worker@7.service"],
    ),
    ("user-.slice", "user-*.slice", &["user-1000.slice"]),
    ("system.slice", "system.slice", &["system.slice"]),
    ("-.slice", "-.slice", &[""]),
    // Patterns of which none holds all that another matches.
    ("a*.service", "a*.service", &["app.service", "api.service"]),
    ("*p.service", "*p.service", &["app.service"]),
    (
        "?p?.service",
        "?p?.service",
        &["app.service", "api.service", "cpu.service", "_cpu.service"],
    ),
    (
        "w*.service",
        "w*.service",
        &[
            "web.service",
            "worker@1.service",
            "worker@22.service",
            "worker@7.service",
        ],
    ),
    ("*@?2*.service", "*@?2*.service", &["worker@22.service"]),
    (
        "*.slice",
        "*.slice",
        &[
            "system.slice",
            "system-worker.slice",
            "user.slice",
            "user-1000.slice",
            "app.slice",
        ],
    ),
    (
        "system-?*.slice",
        "system-?*.slice",
        &["system-worker.slice"],
    ),
];
/// Cgroups as they are written, and what they are.
const WRITTEN_CGROUPS: [(&str, &str); 9] = [
    ("/", ""),
    ("/system.slice", "/system.slice"),
    ("/sys/fs/cgroup/user.slice", "/user.slice"),
    (
        "/user.slice/../system.slice/app.service",
        "/system.slice/app.service",
    ),
    (
        "/system.slice/app.service/sub/",
        "/system.slice/app.service/sub",
    ),
    ("/not/there", "/not/there"),
    ("/app.service", "/app.service"),
    (
        "/system.slice/app.service/api.service",
        "/system.slice/app.service/api.service",
    ),
    ("/user.slice/app.service", "/user.slice/app.service"),
];
/// Executables as they are written, and the files at their paths.
pub(super) const EXES: [(&str, Option<u64>); 5] = [
    ("/bin/perl", Some(7)),
    ("/usr/bin/perl", Some(7)),
    ("/usr/bin/python", Some(8)),
    ("/opt/tool", Some(9)),
    ("/opt/gone", None),
];
const UIDS: [(&str, u32); 5] = [
    ("0", 0),
    ("\"app\"", 1000),
    ("1001", 1001),
    ("\"www-data\"", 33),
    ("65534", 65534),
];
const PROTOS: [&[Transport]; 3] = [
    &[Transport::Tcp],
    &[Transport::Udp],
    &[Transport::Tcp, Transport::Udp],
];

/// Peers as they are written: of which family, the network's bits, and how many count. `64:ff9b`
/// and mapped ones are the IPv4 network in them.
const PEERS: [(&str, Net); 20] = [
    ("self", Net::ThisHost),
    ("10.0.0.0/8", Net::V4(0x0a00_0000, 8)),
    ("10.0.0.0/24", Net::V4(0x0a00_0000, 24)),
    ("10.0.0.4/31", Net::V4(0x0a00_0004, 31)),
    ("10.0.0.5", Net::V4(0x0a00_0005, 32)),
    ("0.0.0.0/0", Net::V4(0, 0)),
    ("0.0.0.0/5", Net::V4(0, 5)),
    ("127.0.0.0/8", Net::V4(0x7f00_0000, 8)),
    ("0.0.0.0", Net::V4(0x7f00_0001, 32)),
    ("::ffff:10.0.0.0/125", Net::V4(0x0a00_0000, 29)),
    ("::ffff:0.0.0.0/96", Net::V4(0, 0)),
    ("64:ff9b::a00:0/104", Net::V4(0x0a00_0000, 8)),
    ("64:ff9b::10.0.0.5", Net::V4(0x0a00_0005, 32)),
    (
        "64:ff9b::7f00:0/104",
        Net::V6(0x0064_ff9b << 96 | 0x7f00_0000, 104),
    ),
    ("::/0", Net::V6(0, 0)),
    ("::1", Net::V6(1, 128)),
    ("::", Net::V6(1, 128)),
    ("2001:db8::/32", Net::V6(0x2001_0db8 << 96, 32)),
    ("2001:db8::4/126", Net::V6(0x2001_0db8 << 96 | 4, 126)),
    ("2002::/16", Net::V6(0x2002 << 112, 16)),
];
#[derive(Clone, Copy, Debug)]
enum Net {
    ThisHost,
    V4(u32, u32),
    V6(u128, u32),
}

impl Net {
    fn holds(self, peer: Peer) -> bool {
        match (self, peer.ip) {
            (Self::ThisHost, _) => peer.is_self,
            (Self::V4(bits, len), IpAddr::V4(ip)) => {
                (ip.to_bits() ^ bits).checked_shr(32 - len).unwrap_or(0) == 0
            }
            (Self::V6(bits, len), IpAddr::V6(ip)) => {
                (ip.to_bits() ^ bits).checked_shr(128 - len).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A peer by the address that a connection reaches.
#[derive(Clone, Copy)]
struct Peer {
    ip: IpAddr,
    is_self: bool,
}

impl Peer {
    fn of(facts: &Facts<'_>) -> Self {
        let mut ip = facts.peer.to_canonical();
        if let IpAddr::V6(v6) = ip
            && let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = v6.segments()
            && !matches!(high >> 8, 0 | 127)
        {
            ip = IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into());
        }
        ip = match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => [127, 0, 0, 1].into(),
            IpAddr::V6(v6) if v6.is_unspecified() => 1_u128.to_be_bytes().into(),
            ip => ip,
        };
        Self {
            ip,
            is_self: facts.peer_is_self || ip.is_loopback(),
        }
    }
}

/// A rule in words, and what they mean.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) direction: Direction,
    pub(super) action: Action,
    pub(super) is_failsafe: bool,
    protos: Option<&'static [Transport]>,
    ports: Option<Vec<(u16, u16)>>,
    peers: Option<Vec<usize>>,
    users: Option<Vec<usize>>,
    units: Option<Vec<usize>>,
    cgroups: Option<Vec<usize>>,
    exes: Option<Vec<usize>>,
    /// Seconds after the beginning.
    until: Option<i8>,
}

/// Up to three places of a list, once in so many times.
fn some<T>(random: &Random, times: u64, list: &[T]) -> Option<Vec<usize>> {
    random.once_in(times).then(|| {
        let count = 1 + random.below(3);
        (0..count).map(|_| random.index(list.len())).collect()
    })
}

/// The words of a list at these places.
fn words<T>(
    at: Option<&Vec<usize>>,
    list: &[T],
    word: impl Fn(&T) -> String,
) -> Option<Vec<String>> {
    at.map(|at| at.iter().map(|&at| word(&list[at])).collect())
}

pub(super) fn port(random: &Random) -> u16 {
    match random.below(8) {
        0 => random.one_of(&[1, 1023, 1024, 49151, 49152, 65534, 65535]),
        _ => u16::try_from(20 + random.below(30)).unwrap(),
    }
}

impl Rule {
    fn random(random: &Random, number: usize, with_udp: bool, with_inbound_exe: bool) -> Self {
        let direction = random.one_of(&Direction::ALL);
        let range = || {
            let (one, other) = (port(random), port(random));
            (one.min(other), one.max(other))
        };
        let ports = (!random.once_in(4)).then(|| (0..=random.below(2)).map(|_| range()).collect());
        let exes = some(random, 5, &EXES);
        Self {
            name: format!("r{number}"),
            direction,
            action: random.one_of(&[Action::Allow, Action::Deny]),
            is_failsafe: false,
            protos: (with_udp && direction == Direction::Outbound && random.once_in(3))
                .then(|| random.one_of(&PROTOS)),
            ports,
            peers: some(random, 2, &PEERS).filter(|_| direction != Direction::Listen),
            users: some(random, 4, &UIDS),
            units: some(random, 4, &UNITS),
            cgroups: some(random, 6, &WRITTEN_CGROUPS),
            exes: exes.filter(|_| with_inbound_exe || direction != Direction::Inbound),
            until: random
                .once_in(5)
                .then(|| i8::try_from(random.below(8)).unwrap() - 1),
        }
    }

    /// Asks for units and cgroups, and seldom for anything else.
    fn ask_of_owners(&mut self, random: &Random) {
        let is_kept = || random.once_in(4);
        self.ports = self.ports.take().filter(|_| is_kept());
        self.peers = self.peers.take().filter(|_| is_kept());
        self.users = self.users.take().filter(|_| is_kept());
        self.exes = self.exes.take().filter(|_| is_kept());
        let units = (0..=random.below(2)).map(|_| random.index(UNITS.len()));
        self.units = (!random.once_in(5)).then(|| units.collect());
        self.cgroups = some(random, 3, &WRITTEN_CGROUPS);
    }

    fn failsafe(random: &Random, direction: Direction, number: usize) -> Self {
        let key = if direction == Direction::Inbound {
            "inbound"
        } else {
            "outbound"
        };
        Self {
            name: format!("failsafe:{key}:{number}"),
            direction,
            action: Action::Allow,
            is_failsafe: true,
            users: None,
            units: None,
            cgroups: None,
            exes: None,
            until: None,
            ..Self::random(random, 0, false, false)
        }
        .with_peers_of(direction)
    }

    /// What was drawn for a listener has none, and UDP is not of a failsafe here.
    fn with_peers_of(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self.protos = None;
        self
    }

    fn conditions(&self) -> String {
        let quoted = |name: &str| format!("{name:?}");
        let mut conditions = Vec::new();
        let mut list = |key: &str, values: Option<Vec<String>>| {
            let values = values.map(|values| format!("{key} = [{}]", values.join(", ")));
            conditions.extend(values);
        };
        let protos = self
            .protos
            .map(|protos| protos.iter().map(|proto| quoted(proto.name())).collect());
        list("proto", protos);
        let ports = self.ports.as_ref();
        list(
            "port",
            ports.map(|ports| ports.iter().map(|(a, b)| format!("\"{a}-{b}\"")).collect()),
        );
        let side = if self.direction == Direction::Inbound {
            "from"
        } else {
            "to"
        };
        list(
            side,
            words(self.peers.as_ref(), &PEERS, |(name, _)| quoted(name)),
        );
        list(
            "user",
            words(self.users.as_ref(), &UIDS, |(name, _)| (*name).to_owned()),
        );
        list(
            "unit",
            words(self.units.as_ref(), &UNITS, |(name, ..)| quoted(name)),
        );
        list(
            "cgroup",
            words(self.cgroups.as_ref(), &WRITTEN_CGROUPS, |(name, _)| {
                quoted(name)
            }),
        );
        list(
            "exe",
            words(self.exes.as_ref(), &EXES, |(name, _)| quoted(name)),
        );
        let separator = if self.is_failsafe { ", " } else { "\n" };
        conditions.join(separator)
    }

    pub(super) fn text(&self) -> String {
        let conditions = self.conditions();
        if self.is_failsafe {
            return format!("{{ {conditions} }}");
        }
        let direction = match self.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
            Direction::Listen => "listen",
        };
        let action = match self.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let mut text = super::super::rule(&self.name, direction, action, &conditions);
        if let Some(until) = self.until {
            let until = until.max(0);
            writeln!(text, "until = 2026-11-22T00:00:{until:02}Z").unwrap();
        }
        text
    }

    pub(super) fn names_udp(&self) -> bool {
        self.protos
            .is_some_and(|protos| protos.contains(&Transport::Udp))
    }

    pub(super) fn asks_for_exe(&self) -> bool {
        self.exes.is_some()
    }

    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        let peer = Peer::of(facts);
        let any = |at: &Option<Vec<usize>>, test: &dyn Fn(usize) -> bool| {
            at.as_ref().is_none_or(|at| at.iter().any(|&at| test(at)))
        };
        let until = self
            .until
            .map(|until| NOW_NS + i128::from(until.max(0)) * 1_000_000_000);
        facts.direction == self.direction
            && until.is_none_or(|until| facts.now_ns < until)
            && self
                .protos
                .is_none_or(|protos| protos.contains(&facts.transport))
            && self.ports.as_ref().is_none_or(|ports| {
                ports
                    .iter()
                    .any(|&(a, b)| (a..=b).contains(&facts.service_port))
            })
            && any(&self.peers, &|at| PEERS[at].1.holds(peer))
            && any(&self.users, &|at| facts.uid == Some(UIDS[at].1))
            && any(&self.units, &|at| is_in_unit(facts, UNITS[at].2))
            && any(&self.cgroups, &|at| {
                is_in_cgroup(facts, WRITTEN_CGROUPS[at].1)
            })
            && any(&self.exes, &|at| is_exe(facts, EXES[at]))
    }
}

/// The owner is at least all of this.
pub(super) fn is_within(facts: &Facts<'_>, who: &Who) -> bool {
    let unit = |told: &str| {
        UNITS
            .iter()
            .find(|(_, name, _)| *name == told)
            .expect("a unit")
    };
    let exe = |told: &str| EXES.iter().find(|(path, _)| *path == told).expect("a file");
    who.units.iter().all(|told| is_in_unit(facts, unit(told).2))
        && who.cgroup.iter().all(|cgroup| is_in_cgroup(facts, cgroup))
        && who.singles.values().all(|told| is_exe(facts, *exe(told)))
}

/// The peer's address by which it is judged, and whether it is of this host.
pub(super) fn place(facts: &Facts<'_>) -> Place {
    let peer = Peer::of(facts);
    Place {
        addr: value::octets(peer.ip),
        is_self: peer.is_self,
    }
}

fn is_in_unit(facts: &Facts<'_>, directories: &[&str]) -> bool {
    if directories == [""] {
        return facts.cgroup.is_some() || facts.unit.is_some();
    }
    let path = facts.cgroup.unwrap_or_default();
    // A slice lies in others by its name, where no path tells.
    let slices = facts
        .unit
        .filter(|unit| facts.cgroup.is_none() && unit.strip_suffix(".slice").is_some());
    let slices = slices.into_iter().flat_map(|unit| {
        let dashes = unit.match_indices('-').map(|(at, _)| at);
        dashes.map(|at| format!("{}.slice", &unit[..at]))
    });
    let mut parts = path
        .split('/')
        .chain(facts.unit)
        .map(str::to_owned)
        .chain(slices);
    parts.any(|part| directories.contains(&&*part))
}

fn is_in_cgroup(facts: &Facts<'_>, cgroup: &str) -> bool {
    facts.cgroup.is_some_and(|path| {
        let path = path.trim_end_matches('/');
        path == cgroup || path.starts_with(&format!("{cgroup}/"))
    })
}

fn is_exe(facts: &Facts<'_>, (path, inode): (&str, Option<u64>)) -> bool {
    match facts.exe_id {
        Some(file) => inode == Some(file.inode) && file.device == 1,
        None => facts.exe == Some(Path::new(path)),
    }
}

/// A policy in words, and what they mean.
#[derive(Clone, Debug)]
pub(super) struct Words {
    /// Of inbound and outbound connections, and of listeners: denies, filters loopback.
    defaults: [(bool, bool); 3],
    enforces: bool,
    pub(super) is_closed_on_exit: bool,
    pub(super) rules: Vec<Rule>,
}

impl Words {
    /// `mostly_owners`: what rules ask is of owners for the most part, so that they overlap.
    pub(super) fn random(random: &Random, mostly_owners: bool) -> Self {
        let with_udp = random.once_in(2);
        let with_inbound_exe = random.once_in(8);
        let mut rules = Vec::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            let count = usize::try_from(random.below(4).saturating_sub(1)).unwrap();
            rules.extend((1..=count).map(|number| Rule::failsafe(random, direction, number)));
        }
        let count = random.one_of(&[0, 1, 2, 4, 8, 16, 24]);
        rules.extend(
            (0..count).map(|number| Rule::random(random, number, with_udp, with_inbound_exe)),
        );
        if mostly_owners {
            for rule in rules.iter_mut().filter(|rule| !rule.is_failsafe) {
                rule.ask_of_owners(random);
            }
        }
        let default = || (random.once_in(2), random.once_in(2));
        Self {
            defaults: [default(), default(), default()],
            enforces: random.once_in(2),
            is_closed_on_exit: random.once_in(4),
            rules,
        }
    }

    pub(super) fn text(&self) -> String {
        let mode = if self.enforces { "enforce" } else { "observe" };
        let mut text = format!("version = 1\nmode = \"{mode}\"\n[default]\n");
        for (key, (denies, filters)) in ["inbound", "outbound", "listen"].iter().zip(self.defaults)
        {
            let action = if denies { "deny" } else { "allow" };
            let loopback = if filters && *key != "listen" {
                ", loopback = \"filter\""
            } else {
                ""
            };
            writeln!(text, "{key} = {{ action = \"{action}\"{loopback} }}").unwrap();
        }
        if self.is_closed_on_exit {
            text.push_str("[apply]\non_daemon_exit = \"closed-after-60s\"\n");
        }
        text.push_str("[failsafe]\n");
        for (key, direction) in [
            ("inbound", Direction::Inbound),
            ("outbound", Direction::Outbound),
        ] {
            let rules = self
                .rules
                .iter()
                .filter(|rule| rule.is_failsafe && rule.direction == direction);
            let rules: Vec<String> = rules.map(Rule::text).collect();
            if !rules.is_empty() {
                writeln!(text, "{key} = [{}]", rules.join(", ")).unwrap();
            }
        }
        let rules = self.rules.iter().filter(|rule| !rule.is_failsafe);
        text.extend(rules.map(Rule::text));
        text
    }

    /// UDP of this host is judged.
    pub(super) fn judges(&self, facts: &Facts<'_>) -> bool {
        facts.transport == Transport::Tcp
            || facts.direction == Direction::Outbound && self.rules.iter().any(Rule::names_udp)
    }

    /// The rule that decides, if one does, and what is decided.
    pub(super) fn decide(&self, facts: &Facts<'_>, is_closed: bool) -> (Option<usize>, Action) {
        let is_there = |rule: &Rule| rule.is_failsafe || !is_closed;
        let mut rules = self.rules.iter();
        if let Some(at) = rules.position(|rule| is_there(rule) && rule.matches(facts)) {
            return (Some(at), self.rules[at].action);
        }
        let direction = facts.direction;
        let (denies, filters) = self.defaults[direction as usize];
        let denies = denies || is_closed && direction != Direction::Listen;
        let is_loopback = direction != Direction::Listen && Peer::of(facts).ip.is_loopback();
        let is_spared =
            is_loopback && !filters || facts.is_kernel && direction != Direction::Inbound;
        let action = if denies && !is_spared {
            Action::Deny
        } else {
            Action::Allow
        };
        (None, action)
    }
}
