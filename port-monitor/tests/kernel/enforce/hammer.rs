//! A process under a policy that connects again and again: to a port that is denied
//! and to one that is not, at neither of which anybody listens.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{io::Errno, net::connect};
use serde::{Deserialize, Serialize};

use super::{Enforced, enter, this_program};
use crate::socket::{Refusing, V4, open};

/// Connects to the denied port for each one to the other: a refusal costs next to
/// nothing.
const DENIED_EACH: u64 = 9;

/// What to connect to.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The cgroup that is held to the policy
    #[arg(long)]
    cgroup: String,
    /// Where it is denied
    #[arg(long)]
    denied: SocketAddr,
    /// Where it is not
    #[arg(long)]
    allowed: SocketAddr,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Connects to the denied port that were refused.
    pub(crate) refused: u64,
    /// Those that were not.
    pub(crate) leaked: u64,
    /// Connects to the other port that went their way.
    pub(crate) passed: u64,
    /// Those that were refused.
    pub(crate) blocked: u64,
}

impl Tally {
    fn add(&mut self, args: &Args) -> Result<()> {
        let socket = open(args.denied.ip())?;
        for _ in 0..DENIED_EACH {
            match connect(&socket, &args.denied) {
                Err(Errno::PERM) => self.refused += 1,
                _ => self.leaked += 1,
            }
        }
        match connect(&socket, &args.allowed) {
            Err(Errno::CONNREFUSED) => self.passed += 1,
            _ => self.blocked += 1,
        }
        Ok(())
    }

    /// How many connects there were.
    pub(crate) const fn connects(&self) -> u64 {
        self.refused + self.leaked + self.passed + self.blocked
    }
}

/// As many rounds as each line that comes in says.
pub(crate) fn run(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    let mut stdin = BufReader::new(std::io::stdin());
    let mut line = String::new();
    while stdin.read_line(&mut line)? > 0 {
        let mut rounds = Tally::default();
        let count: u32 = line.trim().parse()?;
        for _ in 0..count {
            rounds.add(args)?;
        }
        crate::process::say(&serde_json::to_string(&rounds)?)?;
        line.clear();
    }
    Ok(())
}

/// The process, and the ports it knows.
#[derive(Debug)]
pub(crate) struct Hammer {
    child: Child,
    words: BufReader<ChildStdout>,
}

/// The two ports.
#[derive(Debug)]
pub(crate) struct Ports {
    denied: Refusing,
    allowed: Refusing,
}

impl Ports {
    pub(crate) fn new() -> Result<Self> {
        Self::of(V4)
    }

    /// Of this address.
    pub(crate) fn of(ip: IpAddr) -> Result<Self> {
        Ok(Self {
            denied: Refusing::new(ip)?,
            allowed: Refusing::new(ip)?,
        })
    }

    /// The one to deny.
    pub(crate) const fn denied(&self) -> u16 {
        self.denied.at.port()
    }

    /// The other.
    pub(crate) const fn allowed(&self) -> u16 {
        self.allowed.at.port()
    }
}

impl Hammer {
    /// Starts it; it waits to be told how often to connect.
    pub(crate) fn start(enforced: &Enforced<'_>, ports: &Ports) -> Result<Self> {
        let mut child = this_program()?
            .args(["hammer", "--cgroup", &enforced.cgroup])
            .args(["--denied", &ports.denied.at.to_string()])
            .args(["--allowed", &ports.allowed.at.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the hammer")?;
        let words = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, words })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it make this many rounds.
    pub(crate) fn begin(&mut self, rounds: u32) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        Ok(writeln!(stdin, "{rounds}")?)
    }

    /// What came of them.
    pub(crate) fn end(&mut self) -> Result<Tally> {
        let mut line = String::new();
        self.words.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the hammer said {line:?}"))
    }

    /// One round.
    pub(crate) fn once(&mut self) -> Result<Tally> {
        self.begin(1)?;
        self.end()
    }

    /// The denied port is refused, the other is not.
    pub(crate) fn expect_held(&mut self) -> Result<()> {
        let tally = self.once()?;
        ensure!(
            tally.refused == DENIED_EACH && tally.passed == 1,
            "not held to the policy: {tally:?}"
        );
        Ok(())
    }

    /// Neither is.
    pub(crate) fn expect_free(&mut self) -> Result<()> {
        let tally = self.once()?;
        ensure!(
            tally.leaked == DENIED_EACH && tally.passed == 1,
            "still held to the policy: {tally:?}"
        );
        Ok(())
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Its status says nothing that its words did not.
        let _ = self.child.wait();
    }
}
