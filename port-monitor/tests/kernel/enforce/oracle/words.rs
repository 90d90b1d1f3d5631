//! Random policies and tries, and what a rule means by its words alone.

use std::{
    fmt,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;

use crate::cgroup::UNIT;

/// The users who connect and listen.
pub(super) const USERS: [u32; 2] = [0, 1236];
/// How many programs do.
pub(super) const EXES: usize = 2;
/// Ports at which nobody listens but whom the test tells to.
pub(super) const FIRST_PORT: u16 = 20_000;
pub(super) const PORTS: u32 = 40;

/// xorshift64*: the same numbers every time.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from(high % u64::from(limit)).unwrap_or(0)
    }

    fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        let length = u32::try_from(values.len()).unwrap_or(1);
        values[self.below(length) as usize]
    }

    fn port(&mut self) -> u16 {
        FIRST_PORT + u16::try_from(self.below(PORTS)).unwrap_or(0)
    }

    /// 127.0.0.1 to 127.2.2.1.
    fn loopback(&mut self) -> Ipv4Addr {
        let [high, low] = [0, 1].map(|_| u8::try_from(self.below(3)).unwrap_or(0));
        Ipv4Addr::new(127, high, low, 1)
    }

    /// Of this host, in any of its spellings.
    fn own(&mut self) -> IpAddr {
        let v4 = self.loopback();
        match self.below(12) {
            0..=2 => Ipv6Addr::LOCALHOST.into(),
            3..=5 => v4.to_ipv6_mapped().into(),
            6 => Ipv4Addr::UNSPECIFIED.into(),
            7 => Ipv6Addr::UNSPECIFIED.into(),
            8 => Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
            _ => v4.into(),
        }
    }

    /// Elsewhere, in addresses that nobody has (RFC 5737, RFC 3849).
    fn elsewhere(&mut self) -> IpAddr {
        let v4 = Ipv4Addr::new(203, 0, 113, u8::try_from(self.below(8)).unwrap_or(0));
        match self.below(4) {
            0 => v4.into(),
            1 => v4.to_ipv6_mapped().into(),
            2 => through_nat64(v4),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, v4.octets()[3].into()).into(),
        }
    }
}

fn through_nat64(v4: Ipv4Addr) -> IpAddr {
    Ipv6Addr::from_bits(0x0064_ff9b << 96 | u128::from(v4.to_bits())).into()
}

/// Who connects or listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) user: u32,
    /// Which of [`EXES`] copies of this program it executes.
    pub(super) exe: usize,
    pub(super) in_unit: bool,
}

impl Who {
    pub(super) fn all() -> Vec<Self> {
        let of = |user| {
            (0..EXES).flat_map(move |exe| [false, true].map(|in_unit| Self { user, exe, in_unit }))
        };
        USERS.into_iter().flat_map(of).collect()
    }
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection by TCP.
    Connect,
    /// A UDP socket is connected.
    Datagram,
    /// A datagram is sent to an address that comes with it.
    Message,
    /// A TCP socket takes a port.
    Bind,
    /// A TCP socket takes a port and connects to itself.
    Itself,
    /// A peer, whose address it is, connects to a port that somebody listens at.
    Inbound,
}

/// One try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    pub(super) kind: Kind,
    pub(super) at: SocketAddr,
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            Kind::Connect => 'c',
            Kind::Datagram => 'd',
            Kind::Message => 'm',
            Kind::Bind => 'b',
            Kind::Itself => 's',
            Kind::Inbound => 'i',
        };
        write!(f, "{letter}{}", self.at)
    }
}

impl Try {
    /// What a process tries itself; the cheap kinds bear most.
    pub(super) fn outgoing(numbers: &mut Numbers) -> Self {
        let kind = match numbers.below(50) {
            0..25 => Kind::Connect,
            25..44 => Kind::Datagram,
            44..47 => Kind::Message,
            47..49 => Kind::Bind,
            _ => Kind::Itself,
        };
        let ip = match kind {
            // No packet leaves this host.
            Kind::Connect if numbers.once_in(12) => through_nat64(Ipv4Addr::new(203, 0, 113, 1)),
            Kind::Datagram if numbers.once_in(2) => numbers.elsewhere(),
            Kind::Itself => numbers.loopback().into(),
            _ => numbers.own(),
        };
        let at = SocketAddr::new(ip, numbers.port());
        Self { kind, at }
    }

    /// A peer connects to a port.
    pub(super) fn inbound(numbers: &mut Numbers, port: u16) -> Self {
        let ip = if numbers.once_in(4) {
            Ipv6Addr::LOCALHOST.into()
        } else {
            numbers.loopback().into()
        };
        Self {
            kind: Kind::Inbound,
            at: SocketAddr::new(ip, port),
        }
    }

    /// The address that it reaches.
    fn peer(&self) -> IpAddr {
        let mut ip = self.at.ip().to_canonical();
        if let IpAddr::V6(v6) = ip
            && v6.to_bits() >> 32 == 0x0064_ff9b << 64
        {
            let low = u32::try_from(v6.to_bits() & 0xffff_ffff).unwrap_or(0);
            ip = Ipv4Addr::from_bits(low).into();
        }
        match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        }
    }
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Inbound,
    Outbound { is_udp: bool },
    Listener,
}

/// Whether an address is in a network.
type Holds = fn(IpAddr) -> bool;

/// Networks as they are written, and what they hold.
const NETWORKS: [(&str, Holds); 8] = [
    ("self", |ip| ip.is_loopback()),
    ("0.0.0.0/0", |ip| ip.is_ipv4()),
    ("::/0", |ip| ip.is_ipv6()),
    ("::1", |ip| ip == IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ("127.0.0.1", |ip| ip == IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (
        "203.0.113.0/30",
        |ip| matches!(ip, IpAddr::V4(v4) if v4.octets()[..3] == [203, 0, 113] && v4.octets()[3] < 4),
    ),
    (
        "64:ff9b::cb00:7100/126",
        |ip| matches!(ip, IpAddr::V4(v4) if v4.octets()[..3] == [203, 0, 113] && v4.octets()[3] < 4),
    ),
    (
        "2001:db8::/125",
        |ip| matches!(ip, IpAddr::V6(v6) if v6.segments()[0] == 0x2001),
    ),
];

/// The peers of a rule.
#[derive(Clone, Copy)]
enum Peers {
    Named(usize),
    Prefix(Ipv4Addr, u32),
}

impl Peers {
    fn holds(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::Named(at), ip) => NETWORKS[at].1(ip),
            (Self::Prefix(network, len), IpAddr::V4(v4)) => {
                (v4.to_bits() ^ network.to_bits()) >> (32 - len) == 0
            }
            (Self::Prefix(..), IpAddr::V6(_)) => false,
        }
    }
}

/// A rule in the words of the policy, and what they mean.
pub(super) struct Rule {
    direction: &'static str,
    denies: bool,
    /// TCP, UDP.
    transports: Option<[bool; 2]>,
    ports: Option<(u16, u16)>,
    peers: Option<Peers>,
    user: Option<u32>,
    exe: Option<usize>,
    asks_unit: bool,
    /// The unit's cgroup, or the one around all of them.
    cgroup: Option<bool>,
    /// It has ended, or will in the far future.
    has_ended: Option<bool>,
}

/// What rules name of this host.
pub(super) struct Named {
    /// Copies of this program.
    pub(super) copies: Vec<String>,
    /// The unit's cgroup.
    pub(super) unit: String,
    /// The one around all of them.
    pub(super) cgroup: String,
}

impl Rule {
    fn random(numbers: &mut Numbers, is_inbound: bool, with_udp: bool) -> Self {
        let direction = match (numbers.once_in(5), is_inbound) {
            (true, _) => "listen",
            (false, true) => "in",
            (false, false) => "out",
        };
        let ports = (!numbers.once_in(4)).then(|| {
            let (one, other) = (numbers.port(), numbers.port());
            (one.min(other), one.max(other))
        });
        let peers = (direction != "listen" && numbers.once_in(2)).then(|| {
            if numbers.once_in(2) {
                let len = numbers.one_of(&[8, 16, 24, 32]);
                let network = numbers.loopback().to_bits() & (u32::MAX << (32 - len));
                return Peers::Prefix(Ipv4Addr::from_bits(network), len);
            }
            let length = u32::try_from(NETWORKS.len()).unwrap_or(1);
            Peers::Named(numbers.below(length) as usize)
        });
        let transports = (with_udp && direction == "out" && numbers.once_in(3))
            .then(|| numbers.one_of(&[[true, false], [false, true], [true, true]]));
        Self {
            direction,
            denies: !numbers.once_in(4),
            transports,
            ports,
            peers,
            user: numbers.once_in(3).then(|| numbers.one_of(&USERS)),
            // The kernel does not know it of who listens when a peer comes.
            exe: (direction == "out" && numbers.once_in(4)).then(|| numbers.below(2) as usize),
            asks_unit: numbers.once_in(5),
            cgroup: numbers.once_in(6).then(|| !numbers.once_in(3)),
            has_ended: numbers.once_in(4).then(|| numbers.once_in(3)),
        }
    }

    fn text(&self, number: usize, named: &Named) -> Result<String> {
        let action = if self.denies { "deny" } else { "allow" };
        let direction = self.direction;
        let mut text = format!(
            "[[rule]]\nname = \"r{number}\"\ndirection = \"{direction}\"\naction = \"{action}\"\n"
        );
        match self.transports {
            None => {}
            Some([true, true]) => text.push_str("proto = [\"tcp\", \"udp\"]\n"),
            Some([true, false]) => text.push_str("proto = \"tcp\"\n"),
            Some(_) => text.push_str("proto = \"udp\"\n"),
        }
        if let Some((first, last)) = self.ports {
            writeln!(text, "port = \"{first}-{last}\"")?;
        }
        let side = if direction == "in" { "from" } else { "to" };
        match self.peers {
            None => {}
            Some(Peers::Named(at)) => writeln!(text, "{side} = \"{}\"", NETWORKS[at].0)?,
            Some(Peers::Prefix(network, len)) => writeln!(text, "{side} = \"{network}/{len}\"")?,
        }
        if let Some(user) = self.user {
            writeln!(text, "user = {user}")?;
        }
        if let Some(exe) = self.exe {
            writeln!(text, "exe = {:?}", named.copies[exe])?;
        }
        if self.asks_unit {
            writeln!(text, "unit = \"{UNIT}\"")?;
        }
        if let Some(of_unit) = self.cgroup {
            let path = if of_unit { &named.unit } else { &named.cgroup };
            writeln!(text, "cgroup = {path:?}")?;
        }
        if let Some(has_ended) = self.has_ended {
            let year = if has_ended { 2001 } else { 2199 };
            writeln!(text, "until = {year}-01-01T00:00:00Z")?;
        }
        Ok(text)
    }

    /// It matches, but for its end.
    fn is_about(&self, about: About, tried: &Try, who: Who) -> bool {
        let (direction, transport) = match about {
            About::Inbound => ("in", 0),
            About::Listener => ("listen", 0),
            About::Outbound { is_udp } => ("out", usize::from(is_udp)),
        };
        let port = tried.at.port();
        self.direction == direction
            && self
                .transports
                .is_none_or(|transports| transports[transport])
            && self
                .ports
                .is_none_or(|(first, last)| first <= port && port <= last)
            && self.peers.is_none_or(|peers| peers.holds(tried.peer()))
            && self.user.is_none_or(|wanted| wanted == who.user)
            && self.exe.is_none_or(|wanted| wanted == who.exe)
            && (!self.asks_unit || who.in_unit)
            && self.cgroup.is_none_or(|of_unit| !of_unit || who.in_unit)
    }

    fn matches(&self, about: About, tried: &Try, who: Who) -> bool {
        self.has_ended != Some(true) && self.is_about(about, tried, who)
    }
}

/// What is denied where no rule matches.
#[derive(Clone, Copy)]
struct Default {
    denies: bool,
    filters_loopback: bool,
}

impl Default {
    fn random(numbers: &mut Numbers) -> Self {
        Self {
            denies: !numbers.once_in(3),
            filters_loopback: numbers.once_in(2),
        }
    }

    fn text(self) -> &'static str {
        match (self.denies, self.filters_loopback) {
            (false, _) => "{ action = \"allow\" }",
            (true, false) => "{ action = \"deny\" }",
            (true, true) => "{ action = \"deny\", loopback = \"filter\" }",
        }
    }
}

/// What decides.
pub(super) struct Policy {
    pub(super) rules: Vec<Rule>,
    /// Of what peers begin, or of what this host does.
    default: Default,
    is_inbound: bool,
    listeners_are_denied: bool,
}

impl Policy {
    /// Of rules of which each decides something: those that others hide are an error.
    pub(super) fn random(numbers: &mut Numbers, is_inbound: bool) -> Self {
        let wanted = numbers.below(200);
        let with_udp = numbers.once_in(2);
        let mut rules: Vec<Rule> = Vec::new();
        for _ in 0..wanted {
            let rule = Rule::random(numbers, is_inbound, with_udp);
            let is_new = (0..200).any(|_| {
                let who = Who::random(numbers);
                let tried = if is_inbound {
                    let port = numbers.port();
                    Try::inbound(numbers, port)
                } else {
                    Try::outgoing(numbers)
                };
                let mut about = asked(&tried);
                about.any(|about| {
                    let is_about = |rule: &Rule| rule.is_about(about, &tried, who);
                    is_about(&rule) && !rules.iter().any(is_about)
                })
            });
            if is_new {
                rules.push(rule);
            }
        }
        Self {
            rules,
            default: Default::random(numbers),
            is_inbound,
            listeners_are_denied: numbers.once_in(4),
        }
    }

    /// `always` is a port that is open to every peer.
    pub(super) fn text(&self, named: &Named, always: u16) -> Result<String> {
        let rules = self.rules.iter().enumerate();
        let rules: String = rules
            .map(|(number, rule)| rule.text(number, named))
            .collect::<Result<_>>()?;
        let side = if self.is_inbound {
            "inbound"
        } else {
            "outbound"
        };
        let listen = if self.listeners_are_denied {
            "deny"
        } else {
            "allow"
        };
        Ok(format!(
            "version = 1\nmode = \"enforce\"\n[default]\n{side} = {}\nlisten = {{ action = \
             \"{listen}\" }}\n[failsafe]\ninbound = [{{ port = {always} }}]\n[[rule]]\nname = \
             \"always\"\ndirection = \"listen\"\nport = {always}\naction = \"allow\"\n{rules}",
            self.default.text()
        ))
    }

    /// It is refused by what is asked of it.
    pub(super) fn refuses(&self, tried: &Try, who: Who) -> bool {
        asked(tried).any(|about| self.denies(about, tried, who))
    }

    /// The rules that match it, by number, by what is asked.
    pub(super) fn deciders(&self, tried: &Try, who: Who) -> Vec<(About, Option<usize>)> {
        let first = |about| {
            let mut rules = self.rules.iter();
            (
                about,
                rules.position(|rule| rule.matches(about, tried, who)),
            )
        };
        asked(tried).map(first).collect()
    }

    fn denies(&self, about: About, tried: &Try, who: Who) -> bool {
        let judges_udp = || {
            let mut rules = self.rules.iter();
            rules.any(|rule| matches!(rule.transports, Some([_, true])))
        };
        if about == (About::Outbound { is_udp: true }) && !judges_udp() {
            return false;
        }
        let mut rules = self.rules.iter();
        if let Some(rule) = rules.find(|rule| rule.matches(about, tried, who)) {
            return rule.denies;
        }
        match about {
            About::Listener => self.listeners_are_denied,
            About::Inbound | About::Outbound { .. } => {
                let is_meant = self.is_inbound == (about == About::Inbound);
                let is_spared = tried.peer().is_loopback() && !self.default.filters_loopback;
                is_meant && self.default.denies && !is_spared
            }
        }
    }
}

impl Who {
    fn random(numbers: &mut Numbers) -> Self {
        Self {
            user: numbers.one_of(&USERS),
            exe: numbers.below(2) as usize,
            in_unit: numbers.once_in(2),
        }
    }
}

/// What is asked of a try.
fn asked(tried: &Try) -> impl Iterator<Item = About> {
    let tcp = About::Outbound { is_udp: false };
    let udp = About::Outbound { is_udp: true };
    let asked = match tried.kind {
        Kind::Connect => [Some(tcp), None],
        Kind::Datagram | Kind::Message => [Some(udp), None],
        Kind::Bind => [Some(About::Listener), None],
        Kind::Itself => [Some(About::Listener), Some(tcp)],
        Kind::Inbound => [Some(About::Inbound), Some(About::Listener)],
    };
    asked.into_iter().flatten()
}
