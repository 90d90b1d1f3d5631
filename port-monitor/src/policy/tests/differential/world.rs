//! Policies and connections drawn at random from a small world, and what a rule means by
//! its words alone: nothing here is of the compiler, the index or the tables.

use std::{fmt::Write as _, io, net::IpAddr, path::Path};

use port_monitor_common::{
    event::FileId,
    policy::{Action, Direction, Transport},
};

use super::super::{Facts, NOW_NS, TestHost, facts};
use crate::{
    policy::{Environment, cells::Place, diff::Who, lower::Places, value},
    seeded::Random,
    units::Units,
};

/// The cgroups that are there when a policy is compiled and applied; their ids count from 1.
pub(super) const CGROUPS: [&str; 13] = [
    "",
    "/system.slice",
    "/system.slice/app.service",
    "/system.slice/app.service/sub",
    "/system.slice/web.service",
    "/system.slice/ssh.service",
    "/system.slice/_cpu.service",
    "/system.slice/system-worker.slice",
    "/system.slice/system-worker.slice/worker@1.service",
    "/system.slice/system-worker.slice/worker@22.service",
    "/user.slice",
    "/user.slice/user-1000.slice",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/run.scope",
];
/// Cgroups made later, which no rule names.
const NEWER: [&str; 3] = [
    "/system.slice/app.service/newer",
    "/user.slice/user-1000.slice/session-3.scope",
    "/newer",
];

/// Units as they are written, as they are told, and the directories of cgroups they mean.
const UNITS: [(&str, &str, &[&str]); 9] = [
    ("app.service", "app.service", &["app.service"]),
    ("web.service", "web.service", &["web.service"]),
    // An alias.
    ("sshd.service", "ssh.service", &["ssh.service"]),
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
];
/// Cgroups as they are written, and what they are.
const WRITTEN_CGROUPS: [(&str, &str); 6] = [
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
];
/// Executables as they are written, and the files at their paths.
const EXES: [(&str, Option<u64>); 5] = [
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
/// Peers as a hook sees them.
const ADDRESSES: [&str; 24] = [
    "10.0.0.1",
    "10.0.0.4",
    "10.0.0.5",
    "10.0.0.8",
    "10.128.0.1",
    "11.0.0.1",
    "1.2.3.4",
    "::ffff:10.0.0.5",
    "::ffff:11.0.0.1",
    "64:ff9b::10.0.0.5",
    "64:ff9b::11.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::0.0.0.9",
    "64:ff9b:1::10.0.0.5",
    "2002:a00:5::1",
    "::10.0.0.5",
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "::ffff:0.0.0.0",
    "::",
    "::1",
    "2001:db8::5",
    "2001:db8::9",
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

/// This world: a host with those units, cgroups and files, whose clock stands still.
pub(super) struct World;

impl Environment for World {
    fn service_ports(&self, service: &str) -> Vec<u16> {
        TestHost.service_ports(service)
    }

    fn nearest_service(&self, service: &str) -> Option<String> {
        TestHost.nearest_service(service)
    }

    fn uid(&self, user: &str) -> Option<u32> {
        TestHost.uid(user)
    }

    fn users(&self) -> Vec<String> {
        TestHost.users()
    }

    fn units(&self) -> Units {
        let cgroups = CGROUPS.iter().map(|&path| path.to_owned());
        Units::default()
            .with_alias("sshd.service", "ssh.service")
            .with_cgroups(cgroups.collect(), "/sys/fs/cgroup")
    }

    fn executable(&self, path: &Path) -> io::Result<FileId> {
        let named = EXES.iter().find(|(name, _)| Path::new(name) == path);
        let inode = named.and_then(|(_, inode)| *inode);
        inode
            .map(file)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now_ns(&self) -> i128 {
        NOW_NS
    }
}

/// How far the clock that the kernel reads is behind that of the wall.
const BEHIND_NS: i64 = 1_700_000_000_000_000_000;

impl Places for World {
    fn cgroups(&self) -> Vec<(String, u64)> {
        let ids = CGROUPS.iter().zip(1..);
        ids.map(|(&path, id)| (path.to_owned(), id)).collect()
    }

    fn executable(&self, path: &Path) -> Result<(u32, u64), io::Error> {
        let FileId { device, inode } = Environment::executable(self, path)?;
        Ok((device, inode))
    }

    fn boot_ns(&self, wall_ns: i64) -> u64 {
        u64::try_from((wall_ns - BEHIND_NS).max(1)).unwrap()
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(NOW_NS).unwrap()
    }
}

const fn file(inode: u64) -> FileId {
    FileId { device: 1, inode }
}

/// The ids of the cgroups on the way to one, the root's first, as a hook knows them.
pub(super) fn ids(path: &str) -> Vec<u64> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    let mut ids = Vec::new();
    for end in ends.filter(|&end| end > 0 || path.is_empty()) {
        if ids.is_empty() {
            ids.push(1);
        }
        let known = CGROUPS.iter().position(|known| *known == &path[..end]);
        if end > 0 {
            ids.push(known.map_or(99, |at| u64::try_from(at).unwrap() + 1));
        }
    }
    ids
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

fn port(random: &Random) -> u16 {
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
        fn words<T>(
            at: Option<&Vec<usize>>,
            list: &[T],
            word: impl Fn(&T) -> String,
        ) -> Option<Vec<String>> {
            at.map(|at| at.iter().map(|&at| word(&list[at])).collect())
        }
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
        && who.exe.iter().all(|told| is_exe(facts, *exe(told)))
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
        return facts.cgroup.is_some();
    }
    let path = facts.cgroup.unwrap_or_default();
    let parts = path.split('/').chain(facts.unit);
    parts.into_iter().any(|part| directories.contains(&part))
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
    pub(super) fn random(random: &Random) -> Self {
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

/// The unit that the monitor tells of a process in that cgroup.
fn innermost_unit(path: &str) -> Option<&str> {
    let mut parts = path.rsplit('/');
    let unit = parts.find(|part| part.ends_with(".service") || part.ends_with(".scope"));
    unit.map(|unit| unit.trim_start_matches('_'))
}

/// Everything that a rule can ask of a connection.
pub(super) fn connection(random: &Random) -> Facts<'static> {
    let direction = random.one_of(&Direction::ALL);
    let peer = random.one_of(&ADDRESSES);
    let drawn = facts(
        direction,
        peer,
        if random.once_in(12) { 0 } else { port(random) },
    );
    let is_udp = direction == Direction::Outbound && random.once_in(3);
    let drawn = Facts {
        transport: if is_udp {
            Transport::Udp
        } else {
            Transport::Tcp
        },
        peer: if direction == Direction::Listen {
            random
                .one_of(&["::", "0.0.0.0", "10.0.0.5"])
                .parse()
                .unwrap()
        } else {
            drawn.peer
        },
        peer_is_self: direction != Direction::Listen && random.once_in(3),
        now_ns: NOW_NS + i128::from(random.below(8)) * 1_000_000_000 - i128::from(random.below(2)),
        ..drawn
    };
    let drawn = Facts {
        now_ns: drawn.now_ns.max(NOW_NS),
        ..drawn
    };
    if random.once_in(8) {
        return Facts {
            uid: Some(0),
            cgroup: Some("/"),
            exe: None,
            is_kernel: true,
            ..drawn
        };
    }
    let (cgroup, unit) = match random.below(8) {
        0 => (None, None),
        1 => (
            None,
            Some(random.one_of(&["app.service", "worker@7.service", "cpu.service"])),
        ),
        2 => (Some(random.one_of(&NEWER)), None),
        _ => (Some(random.one_of(&CGROUPS)), None),
    };
    let unit = unit.or_else(|| cgroup.and_then(innermost_unit));
    // As `/proc` writes the root.
    let cgroup = cgroup.map(|path| if path.is_empty() { "/" } else { path });
    let (exe, exe_id) = match random.below(8) {
        // Known by neither; by its path only, as where a recording is of another host.
        0 => (None, None),
        1 => (Some(random.one_of(&["/opt/gone", "/srv/other"])), None),
        // Its path is another file's by now, or is gone.
        2 => (Some("/usr/bin/python"), Some(file(7))),
        3 => (None, Some(file(8))),
        4 => (
            Some("/bin/perl"),
            Some(FileId {
                device: 2,
                inode: 7,
            }),
        ),
        _ => {
            let (path, inode) = random.one_of(&EXES);
            (Some(path), Some(file(inode.unwrap_or(10))))
        }
    };
    Facts {
        uid: (!random.once_in(8)).then(|| random.one_of(&[0, 33, 1000, 1001, 65534, 7])),
        unit,
        cgroup,
        exe: exe.map(Path::new),
        exe_id,
        ..drawn
    }
}
