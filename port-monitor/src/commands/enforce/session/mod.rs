//! The connections over which a policy is being applied, which it must not refuse.
//!
//! They are found from the tree of processes and the kernel's sockets, not from the
//! environment, which `sudo` clears: what a server of logins above this process holds,
//! and so on where the other end is on this host. A new connection like each of them is
//! judged as the kernel would: by the cgroup and the user of whoever listens.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::Path,
    process,
    time::Duration,
};

use anyhow::anyhow;
use port_monitor_common::{
    generation::{ASKS_LISTEN, INBOUND_OPEN, MODE_ENFORCE},
    policy::{Direction, Transport, Verdict},
};

use self::find::{Doubt, Found, Session};
use super::now_ns;
use crate::{
    base::exit_code::{ExitCode, Failure},
    kernel::{
        enforcer::{self, OpenConnection, Sockets},
        preflight,
    },
    policy::{Facts, Policy, Reason, tables::lower::Lowered},
};

mod find;
pub(in crate::commands) mod tree;

/// When a policy comes into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Occasion {
    /// Somebody applies it.
    Apply,
    /// Whoever follows it applies it anew. It may outlive the session that it was started
    /// from, whose traces tell nothing then.
    Reload,
}

/// How a policy is applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// It is undone after this time.
    pub(super) confirm: Option<Duration>,
    /// The cgroup that is held to it; `None` is the whole host.
    pub(super) held: Option<&'a Path>,
    pub(super) occasion: Occasion,
    /// A service applies it: it takes no flags.
    pub(super) is_service: bool,
}

impl Way<'_> {
    /// How it is applied all the same.
    const fn without_check(self) -> &'static str {
        if self.is_service {
            "have systemd start the service"
        } else {
            "apply with --force"
        }
    }
}

/// Refuses a policy that would refuse the session in which it is applied, or one of which
/// that cannot be told.
pub(super) fn check(policy: &Policy, lowered: &Lowered, way: Way<'_>) -> Result<(), Failure> {
    let header = &lowered.header;
    let may_refuse = header.asks & INBOUND_OPEN == 0 || header.asks & ASKS_LISTEN != 0;
    // Without privilege nothing is applied, and little is seen.
    if header.mode != MODE_ENFORCE || !may_refuse || preflight::check().is_err() {
        return Ok(());
    }
    let (sockets, error) = match enforcer::sockets() {
        Ok(sockets) => (sockets, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let found = Found::look(&tree::Proc("/proc".into()), process::id(), &sockets);
    let is_meant = |session: &&Session| session.is_open || way.occasion == Occasion::Apply;
    let mut sessions = found.sessions.iter().filter(is_meant);
    let refused = sessions.find_map(|session| Some((session, refusal(policy, session, way.held)?)));
    if let Some((session, reason)) = refused {
        return Err(invalid(
            policy,
            format_args!(
                "it would refuse {session}, by {}: allow it under [failsafe], or {}",
                Named(&reason),
                way.without_check()
            ),
        ));
    }
    let is_undone = way.confirm.is_some() || way.occasion == Occasion::Reload;
    match found.doubt {
        Some(doubt) if !is_undone && may_be_held(way.held, &sockets) => {
            Err(invalid(policy, doubtful(way, &doubt, error.as_ref())))
        }
        _ => Ok(()),
    }
}

fn invalid(policy: &Policy, text: impl fmt::Display) -> Failure {
    let error = anyhow!("{}: {text}", policy.source().name);
    Failure::new(ExitCode::PolicyInvalid, error)
}

fn doubtful(way: Way<'_>, doubt: &Doubt, error: Option<&impl fmt::Display>) -> String {
    let why = error.map_or_else(String::new, |error| format!(" ({error})"));
    let how = if way.is_service {
        "say `confirm = \"60s\"` under [apply], to be undone unless you confirm it, or have systemd \
         start the service"
    } else {
        "apply it with --confirm 60s, to be undone unless you confirm it, or with --force"
    };
    format!(
        "it cannot be told whether it would refuse the session this runs in: {doubt}{why}: {how}"
    )
}

/// What decides against a new connection like that of a session, or against whoever
/// listens for it.
fn refusal(policy: &Policy, session: &Session, held: Option<&Path>) -> Option<Reason> {
    let directions = [Direction::Inbound, Direction::Listen];
    let owners = session.owners.iter().filter(|owner| {
        // Who is not known may be held.
        let cgroup = owner.cgroup.as_deref().map(Path::new);
        held.is_none_or(|held| cgroup.is_none_or(|cgroup| cgroup.starts_with(held)))
    });
    let mut asked = owners.flat_map(|owner| directions.map(|direction| (owner, direction)));
    asked.find_map(|(owner, direction)| {
        let peer = match direction {
            Direction::Listen => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            Direction::Inbound | Direction::Outbound => session.peer.ip(),
        };
        let port = session.local.port();
        let explanation = policy.explain(&Facts {
            peer_is_self: peer == session.local.ip(),
            uid: owner.uid,
            cgroup: owner.cgroup.as_deref(),
            now_ns: i128::from(now_ns()),
            // The kernel does not know the executable of a listener.
            ..Facts::new(direction, Transport::Tcp, port, peer)
        });
        (explanation.verdict == Verdict::Deny).then_some(explanation.reason)
    })
}

/// Somebody who listens is held to the policy, or that cannot be told.
fn may_be_held(held: Option<&Path>, sockets: &[Sockets]) -> bool {
    let Some(held) = held.filter(|_| !sockets.is_empty()) else {
        return true;
    };
    let is_within = |listener: &OpenConnection| {
        let cgroup = listener.cgroup.as_deref();
        cgroup.is_some_and(|cgroup| Path::new(cgroup).starts_with(held))
    };
    sockets
        .iter()
        .any(|sockets| sockets.listeners.iter().any(is_within))
}

/// What decides, in words.
struct Named<'a>(&'a Reason);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::Rule(rule) => write!(f, "rule `{}` in line {}", rule.name, rule.line),
            Reason::Default(_) | Reason::Loopback | Reason::Kernel | Reason::Unjudged => {
                f.write_str("the default")
            }
        }
    }
}
