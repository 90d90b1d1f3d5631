//! Random policies and random connections: what the kernel decides against the first
//! rule that matches, found one by one. Every fact is drawn that a rule can ask of what
//! this host connects to by TCP: port, network, user, unit, executable and end, and the
//! defaults with and without loopback.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{io::Errno, net::connect};

use super::{Enforced, enter, this_program};
use crate::{
    cgroup::UNIT,
    lab::Lab,
    process::become_user,
    report::Verdict,
    socket::{open, open_udp},
};

/// The users who connect.
const USERS: [u32; 2] = [0, 1236];
/// How many programs connect.
const EXES: usize = 2;
/// Ports at which nobody listens.
const FIRST_PORT: u16 = 20_000;
const PORTS: u32 = 40;

/// xorshift64*: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from(high % u64::from(limit)).unwrap_or(0)
    }

    fn port(&mut self) -> u16 {
        FIRST_PORT + u16::try_from(self.below(PORTS)).unwrap_or(0)
    }

    fn address(&mut self) -> IpAddr {
        if self.below(4) == 0 {
            return Ipv6Addr::LOCALHOST.into();
        }
        let [high, low] = [0, 1].map(|_| u8::try_from(self.below(3)).unwrap_or(0));
        let v4 = Ipv4Addr::new(127, high, low, 1);
        match self.below(3) {
            0 => v4.to_ipv6_mapped().into(),
            _ => v4.into(),
        }
    }
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    user: u32,
    /// Which of [`EXES`] copies of this program it executes.
    exe: usize,
    in_unit: bool,
}

impl Who {
    fn all() -> Vec<Self> {
        let of = |user| {
            (0..EXES).flat_map(move |exe| [false, true].map(|in_unit| Self { user, exe, in_unit }))
        };
        USERS.into_iter().flat_map(of).collect()
    }
}

/// A rule in the words of the policy, and what they mean.
struct Rule {
    denies: bool,
    ports: Option<(u16, u16)>,
    network: Option<(Ipv4Addr, u32)>,
    user: Option<u32>,
    exe: Option<usize>,
    asks_unit: bool,
    /// It has ended, or will in the far future.
    has_ended: Option<bool>,
}

impl Rule {
    fn random(numbers: &mut Numbers) -> Self {
        let ports = (numbers.below(4) != 0).then(|| {
            let (one, other) = (numbers.port(), numbers.port());
            (one.min(other), one.max(other))
        });
        let network = (numbers.below(3) == 0).then(|| {
            let prefix_len = [8, 16, 24, 32][numbers.below(4) as usize];
            let IpAddr::V4(addr) = numbers.address().to_canonical() else {
                return (Ipv4Addr::new(127, 0, 0, 0), 8);
            };
            let network = addr.to_bits() & (u32::MAX << (32 - prefix_len));
            (Ipv4Addr::from_bits(network), prefix_len)
        });
        let user = (numbers.below(3) == 0).then(|| USERS[numbers.below(2) as usize]);
        Self {
            denies: numbers.below(4) != 0,
            ports,
            network,
            user,
            exe: (numbers.below(4) == 0).then(|| numbers.below(2) as usize),
            asks_unit: numbers.below(5) == 0,
            has_ended: (numbers.below(4) == 0).then(|| numbers.below(3) == 0),
        }
    }

    fn text(&self, number: usize, copies: &[String]) -> Result<String> {
        let action = if self.denies { "deny" } else { "allow" };
        let mut text =
            format!("[[rule]]\nname = \"r{number}\"\ndirection = \"out\"\naction = \"{action}\"\n");
        if let Some((first, last)) = self.ports {
            writeln!(text, "port = \"{first}-{last}\"")?;
        }
        if let Some((network, prefix_len)) = self.network {
            writeln!(text, "to = \"{network}/{prefix_len}\"")?;
        }
        if let Some(user) = self.user {
            writeln!(text, "user = {user}")?;
        }
        if let Some(exe) = self.exe {
            writeln!(text, "exe = {:?}", copies[exe])?;
        }
        if self.asks_unit {
            writeln!(text, "unit = \"{UNIT}\"")?;
        }
        if let Some(has_ended) = self.has_ended {
            let year = if has_ended { 2001 } else { 2199 };
            writeln!(text, "until = {year}-01-01T00:00:00Z")?;
        }
        Ok(text)
    }

    /// It matches, but for its end.
    fn is_about(&self, to: SocketAddr, who: Who) -> bool {
        let in_network = |(network, prefix_len): (Ipv4Addr, u32)| match to.ip().to_canonical() {
            IpAddr::V4(addr) => (addr.to_bits() ^ network.to_bits()) >> (32 - prefix_len) == 0,
            IpAddr::V6(_) => false,
        };
        self.ports
            .is_none_or(|(first, last)| first <= to.port() && to.port() <= last)
            && self.network.is_none_or(in_network)
            && self.user.is_none_or(|wanted| wanted == who.user)
            && self.exe.is_none_or(|wanted| wanted == who.exe)
            && (!self.asks_unit || who.in_unit)
    }

    fn matches(&self, to: SocketAddr, who: Who) -> bool {
        self.has_ended != Some(true) && self.is_about(to, who)
    }
}

/// What decides.
struct Policy {
    rules: Vec<Rule>,
    /// The default denies, on loopback too.
    denies: bool,
}

impl Policy {
    fn denies(&self, to: SocketAddr, who: Who) -> bool {
        let first = self.rules.iter().find(|rule| rule.matches(to, who));
        first.map_or(self.denies, |rule| rule.denies)
    }
}

/// A policy of rules of which each decides something: those that others hide are an
/// error.
fn random_policy(
    numbers: &mut Numbers,
    enforced: &Enforced<'_>,
    copies: &[String],
) -> Result<Policy> {
    let wanted = numbers.below(200);
    let mut rules: Vec<Rule> = Vec::new();
    for _ in 0..wanted {
        let rule = Rule::random(numbers);
        let is_new = (0..200).any(|_| {
            let (to, who) = random_connection(numbers);
            rule.is_about(to, who) && !rules.iter().any(|rule| rule.is_about(to, who))
        });
        if is_new {
            rules.push(rule);
        }
    }
    let text: String = rules
        .iter()
        .enumerate()
        .map(|(number, rule)| rule.text(number, copies))
        .collect::<Result<_>>()?;
    // Without `filter` it spares all of loopback, where all of them lead.
    let (default, denies) = [
        ("{ action = \"allow\" }", false),
        ("{ action = \"deny\" }", false),
        ("{ action = \"deny\", loopback = \"filter\" }", true),
    ][numbers.below(3) as usize];
    let policy =
        format!("version = 1\nmode = \"enforce\"\n[default]\noutbound = {default}\n{text}");
    enforced.apply(&policy, &[]).with_context(|| policy)?;
    Ok(Policy { rules, denies })
}

fn random_connection(numbers: &mut Numbers) -> (SocketAddr, Who) {
    let to = SocketAddr::new(numbers.address(), numbers.port());
    let who = Who {
        user: USERS[numbers.below(2) as usize],
        exe: numbers.below(2) as usize,
        in_unit: numbers.below(2) == 0,
    };
    (to, who)
}

/// Somebody who connects where he is told.
pub(super) struct Walker {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Walker {
    fn start(enforced: &Enforced<'_>, who: Who, copies: &[String]) -> Result<Self> {
        let unit = enforced.lab.cgroups.held_unit(&enforced.cgroup);
        let cgroup = if who.in_unit { &unit } else { &enforced.cgroup };
        Self::start_with(Command::new(&copies[who.exe]), cgroup, who.user, &[])
    }

    /// One whose sockets are of UDP: they can be connected to any address, and send
    /// nothing.
    pub(super) fn of_udp(enforced: &Enforced<'_>, user: u32) -> Result<Self> {
        Self::start_with(this_program()?, &enforced.cgroup, user, &["--udp"])
    }

    fn start_with(mut program: Command, cgroup: &str, user: u32, more: &[&str]) -> Result<Self> {
        let mut child = program
            .args(["walk", "--cgroup", cgroup])
            .args(["--user", &user.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a walker")?;
        Ok(Self {
            to: child.stdin.take().context("no stdin")?,
            from: BufReader::new(child.stdout.take().context("no stdout")?),
        })
    }

    /// For each address, whether it was refused.
    pub(super) fn walk(&mut self, addresses: &[SocketAddr]) -> Result<Vec<bool>> {
        let words: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        writeln!(self.to, "{}", words.join(" "))?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        let refused: Vec<_> = answer.trim().chars().map(|word| word == 'x').collect();
        ensure!(
            refused.len() == addresses.len(),
            "the walker said {answer:?}"
        );
        Ok(refused)
    }
}

/// Whom a walker is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The cgroup that is held to the policy
    #[arg(long)]
    cgroup: String,
    /// The user
    #[arg(long)]
    user: u32,
    /// By UDP, whatever else than a refusal may come of it
    #[arg(long)]
    udp: bool,
}

/// Connects to the addresses of each line, and says what came of each.
pub(crate) fn walk(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    become_user(args.user)?;
    // A socket that was refused can try again, in the same form of address.
    let any = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    ];
    let [v4, v6, mapped] = any.map(if args.udp { open_udp } else { open });
    let (v4, v6, mapped) = (v4?, v6?, mapped?);
    for line in BufReader::new(std::io::stdin().by_ref()).lines() {
        let mut answer = String::new();
        for word in line?.split(' ') {
            let to: SocketAddr = word.parse()?;
            let socket = match to.ip() {
                IpAddr::V4(_) => &v4,
                IpAddr::V6(addr) if addr.to_ipv4_mapped().is_some() => &mapped,
                IpAddr::V6(_) => &v6,
            };
            answer.push(match connect(socket, &to) {
                Err(Errno::PERM) => 'x',
                Err(Errno::CONNREFUSED) => 'o',
                _ if args.udp => 'o',
                other => anyhow::bail!("connect to {to}: {other:?}"),
            });
        }
        crate::process::say(&answer)?;
    }
    Ok(())
}

/// Copies of this program, each another file.
fn copies(lab: &Lab) -> Result<Vec<String>> {
    let copy = |_| {
        let path = lab.new_path("copy");
        fs::copy(std::env::current_exe()?, &path).context("copy this program")?;
        Ok(path.to_str().context("the path is not UTF-8")?.to_owned())
    };
    (0..EXES).map(copy).collect()
}

/// A hundred thousand connections, and every verdict as it must be.
pub(crate) fn compare(lab: &Lab) -> Result<Verdict> {
    const POLICIES: usize = 20;
    const EACH: usize = 625;
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    let enforced = Enforced::new(lab, "version = 1\nmode = \"enforce\"\n")?;
    let copies = copies(lab)?;
    let everybody = Who::all();
    let mut walkers = everybody
        .iter()
        .map(|&who| Walker::start(&enforced, who, &copies))
        .collect::<Result<Vec<_>>>()?;
    let mut numbers = Numbers(SEED);
    let (mut made, mut denied, mut count) = (0, 0, 0);
    for _ in 0..POLICIES {
        let policy = random_policy(&mut numbers, &enforced, &copies)?;
        count += policy.rules.len();
        for (walker, &who) in walkers.iter_mut().zip(&everybody) {
            let to: Vec<_> = (0..EACH)
                .map(|_| random_connection(&mut numbers).0)
                .collect();
            for (to, refused) in to.iter().zip(walker.walk(&to)?) {
                ensure!(
                    refused == policy.denies(*to, who),
                    "{to} by {who:?}: refused {refused}, seed {SEED:#x}"
                );
                made += 1;
                denied += u32::from(refused);
            }
        }
    }
    Ok(Verdict::Pass(format!(
        "{made} connects, {denied} denied, {POLICIES} policies of {count} rules, seed {SEED:#x}"
    )))
}
