//! Ways to reach a port, each tried twice: where the policy denies it, and where
//! everything else is the same and it does not. The second shows that the way is one.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;

use super::{datagram, enter, inbound, outbound, owner};
use crate::scenarios::Place;

/// Which of the two tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    Denied,
    Allowed,
}

/// What a try aims at.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Aim {
    /// Which try
    #[arg(long)]
    pub(crate) side: Side,
    /// The first of the ports the policy speaks of
    #[arg(long)]
    pub(crate) base: u16,
    /// The cgroup that is held to the policy
    #[arg(long)]
    pub(crate) cgroup: String,
    /// The unit's cgroup
    #[arg(long)]
    pub(crate) unit: String,
    /// A copy of this program
    #[arg(long)]
    pub(crate) copy: PathBuf,
}

/// What a rule of the policy is about: each has a port that is denied, and the next
/// one is not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About {
    /// Outbound, by port alone.
    Port = 0,
    /// Outbound to loopback addresses.
    Loopback = 2,
    /// Inbound, by port alone.
    Inbound = 4,
    /// Listening.
    Listen = 6,
    /// Outbound, by who connects.
    Owner = 8,
    /// Inbound from one loopback address.
    Source = 10,
    /// Inbound, by who listens.
    Listener = 12,
    /// Outbound by UDP.
    Datagram = 14,
}

/// How many ports there are.
pub(crate) const PORTS: u16 = 16;

impl Aim {
    /// The port to try.
    pub(crate) const fn port(&self, about: About) -> u16 {
        let next = match self.side {
            Side::Denied => 0,
            Side::Allowed => 1,
        };
        self.base + about as u16 + next
    }

    /// The port that is denied to whom the policy means.
    pub(crate) const fn denied_port(&self, about: About) -> u16 {
        self.base + about as u16
    }

    /// The port to try, at an address.
    pub(crate) fn at(&self, ip: IpAddr, about: About) -> SocketAddr {
        SocketAddr::new(ip, self.port(about))
    }

    /// From here on this process is held to the policy.
    pub(crate) fn enter(&self) -> Result<()> {
        enter(&self.cgroup)
    }
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It got through.
    Through,
    /// The call failed.
    Failed(Errno),
}

impl Outcome {
    /// Of a call.
    pub(crate) const fn of<T>(result: &Result<T, Errno>) -> Self {
        match result {
            Ok(_) => Self::Through,
            Err(errno) => Self::Failed(*errno),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Through => "through".to_owned(),
            Self::Failed(errno) => format!("errno {}", errno.raw_os_error()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text.trim().split_once(' ') {
            None if text.trim() == "through" => Ok(Self::Through),
            Some(("errno", number)) => Ok(Self::Failed(Errno::from_raw_os_error(number.parse()?))),
            _ => bail!("the try said {text:?}"),
        }
    }
}

/// What the policy makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The call fails with `EPERM`.
    NotPermitted,
    /// The peer is refused as by a closed port; where only a cgroup is held to the
    /// policy, it gets no answer.
    Refused,
    /// The peer gets no answer.
    Silence,
}

impl Refusal {
    fn errno(self, native: bool) -> Errno {
        match self {
            Self::NotPermitted => Errno::PERM,
            Self::Refused if !native => Errno::CONNREFUSED,
            Self::Refused | Self::Silence => Errno::TIMEDOUT,
        }
    }
}

/// One way.
#[derive(Debug)]
pub(crate) struct Vector {
    /// The case's name in the matrix.
    pub(crate) name: &'static str,
    /// Tries it, in a process of its own.
    pub(crate) run: fn(&Aim) -> Result<Outcome>,
    /// What the policy makes of it.
    pub(crate) refusal: Refusal,
    /// Where it may run.
    pub(crate) place: Place,
}

/// A way out: refused at the call.
pub(super) const fn out(name: &'static str, run: fn(&Aim) -> Result<Outcome>) -> Vector {
    Vector {
        name,
        run,
        refusal: Refusal::NotPermitted,
        place: Place::Anywhere,
    }
}

/// A way in: refused as by a closed port.
pub(super) const fn into(name: &'static str, run: fn(&Aim) -> Result<Outcome>) -> Vector {
    Vector {
        refusal: Refusal::Refused,
        ..out(name, run)
    }
}

impl Vector {
    /// No answer comes.
    pub(super) const fn silent(self) -> Self {
        Self {
            refusal: Refusal::Silence,
            ..self
        }
    }

    /// Needs the machine to itself.
    pub(super) const fn guest_only(self) -> Self {
        Self {
            place: Place::GuestOnly,
            ..self
        }
    }

    /// Makes both tries in processes of `command`'s kind.
    pub(crate) fn check(
        &self,
        native: bool,
        base: u16,
        command: impl Fn(&str) -> Result<Command>,
    ) -> Result<()> {
        for (side, expected) in [
            (Side::Allowed, Outcome::Through),
            (Side::Denied, Outcome::Failed(self.refusal.errno(native))),
        ] {
            let side_word = match side {
                Side::Allowed => "allowed",
                Side::Denied => "denied",
            };
            let output = command(self.name)?
                .args(["--side", side_word, "--base", &base.to_string()])
                .output()
                .context("start a try")?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{side_word}: {}", stderr.trim());
            let outcome = Outcome::parse(&String::from_utf8(output.stdout)?)?;
            ensure!(
                outcome == expected,
                "{side_word}: {outcome:?}, not {expected:?}"
            );
        }
        Ok(())
    }
}

/// Every vector.
pub(crate) fn all() -> impl Iterator<Item = &'static Vector> {
    let outbound = outbound::ALL.iter().chain(datagram::ALL);
    outbound.chain(inbound::ALL).chain(owner::ALL)
}

/// Makes one try and prints what became of it.
pub(crate) fn run(name: &str, aim: &Aim) -> Result<()> {
    let vector = all()
        .find(|vector| vector.name == name)
        .with_context(|| format!("no vector {name}"))?;
    crate::process::say(&(vector.run)(aim)?.text())
}
