//! Somebody who tries what he is told.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    io::Errno,
    net::{SendFlags, SocketFlags, acceptfrom, bind, connect, listen, sendto, sockopt},
};

use super::{
    super::{Enforced, enter, this_program},
    words::{Named, Try, Who},
};
use crate::{
    process::become_user,
    socket::{keep_on_loopback, open, open_udp, open_with},
};

/// Somebody in a cgroup.
pub(crate) struct Walker {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Walker {
    pub(super) fn start(named: &Named, who: Who) -> Result<Self> {
        let cgroup = if who.in_unit {
            &named.unit
        } else {
            &named.cgroup
        };
        Self::start_with(Command::new(&named.copies[who.exe]), cgroup, who.user)
    }

    /// One of this program.
    pub(in super::super) fn of_udp(enforced: &Enforced<'_>, user: u32) -> Result<Self> {
        Self::start_with(this_program()?, &enforced.cgroup, user)
    }

    fn start_with(mut program: Command, cgroup: &str, user: u32) -> Result<Self> {
        let mut child = program
            .args(["walk", "--cgroup", cgroup])
            .args(["--user", &user.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a walker")?;
        Ok(Self {
            to: child.stdin.take().context("no stdin")?,
            from: BufReader::new(child.stdout.take().context("no stdout")?),
        })
    }

    /// For each UDP address, whether it was refused: they are connected to, and nothing is
    /// sent.
    pub(in super::super) fn walk(&mut self, addresses: &[SocketAddr]) -> Result<Vec<bool>> {
        let words = addresses.iter().map(|address| format!("d{address}"));
        self.tell(&words.collect::<Vec<_>>())
    }

    /// For each try, whether it was refused.
    pub(super) fn try_all(&mut self, tries: &[Try]) -> Result<Vec<bool>> {
        self.tell(&tries.iter().map(Try::to_string).collect::<Vec<_>>())
    }

    /// Listens at a port from now on.
    pub(super) fn listen(&mut self, port: u16) -> Result<()> {
        self.tell(&[format!("l[::]:{port}")]).map(drop)
    }

    /// Takes what has come, and ends it.
    pub(super) fn take(&mut self) -> Result<()> {
        self.tell(&["a[::]:0".to_owned()]).map(drop)
    }

    fn tell(&mut self, words: &[String]) -> Result<Vec<bool>> {
        writeln!(self.to, "{}", words.join(" "))?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        let refused: Vec<_> = answer.trim().chars().map(|word| word == 'x').collect();
        ensure!(refused.len() == words.len(), "the walker said {answer:?}");
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
}

/// Tries what each line names, and says what came of each.
pub(crate) fn walk(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    let mut hands = Hands::new(args.user)?;
    for line in BufReader::new(std::io::stdin().by_ref()).lines() {
        let mut answer = String::new();
        for word in line?.split(' ') {
            let (kind, at) = word.split_at_checked(1).context("an empty word")?;
            answer.push(hands.act(kind, at.parse()?)?);
        }
        crate::process::say(&answer)?;
    }
    Ok(())
}

/// By what form of an address.
const FORMS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
];

/// The place of its form among [`FORMS`].
fn form(at: SocketAddr) -> usize {
    match at.ip() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(addr) if addr.to_ipv4_mapped().is_some() => 2,
        IpAddr::V6(_) => 1,
    }
}

/// What a walker has.
struct Hands {
    /// A socket that was refused can try again, in the same form of address.
    tcp: Vec<OwnedFd>,
    udp: Vec<OwnedFd>,
    listeners: Vec<OwnedFd>,
}

impl Hands {
    /// Those of a user.
    fn new(user: u32) -> Result<Self> {
        let tcp = FORMS.map(open).into_iter().collect::<Result<Vec<_>>>()?;
        for socket in &tcp {
            // Who is not root may not: no packet leaves by another device.
            keep_on_loopback(socket)?;
        }
        become_user(user)?;
        Ok(Self {
            tcp,
            udp: FORMS.map(open_udp).into_iter().collect::<Result<_>>()?,
            listeners: Vec::new(),
        })
    }

    fn act(&mut self, kind: &str, at: SocketAddr) -> Result<char> {
        let refused = |result: Result<(), Errno>| result == Err(Errno::PERM);
        let is_refused = match kind {
            "c" => match connect(&self.tcp[form(at)], &at) {
                Err(Errno::PERM) => true,
                Err(
                    Errno::CONNREFUSED
                    | Errno::NETUNREACH
                    | Errno::HOSTUNREACH
                    | Errno::ADDRNOTAVAIL,
                ) => false,
                other => bail!("connect to {at}: {other:?}"),
            },
            "d" => refused(connect(&self.udp[form(at)], &at)),
            "m" => {
                let socket = open_udp(FORMS[form(at)])?;
                refused(sendto(&socket, b"?", SendFlags::empty(), &at).map(drop))
            }
            "b" => refused(bind(&open(at.ip())?, &at)),
            "s" => {
                let socket = open(at.ip())?;
                // What is closed leaves nothing behind.
                sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
                sockopt::set_socket_reuseaddr(&socket, true)?;
                match bind(&socket, &at).and_then(|()| connect(&socket, &at)) {
                    Ok(()) => false,
                    Err(Errno::PERM) => true,
                    other => bail!("connect {at} to itself: {other:?}"),
                }
            }
            "l" => {
                let listener = open_with(at.ip(), SocketFlags::NONBLOCK)?;
                bind(&listener, &at).with_context(|| format!("bind {at}"))?;
                listen(&listener, 1_024)?;
                self.listeners.push(listener);
                false
            }
            "a" => {
                for listener in &self.listeners {
                    while acceptfrom(listener).is_ok() {}
                }
                false
            }
            other => bail!("unknown: {other}"),
        };
        Ok(if is_refused { 'x' } else { 'o' })
    }
}
