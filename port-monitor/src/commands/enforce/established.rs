//! The connections that are open and that a policy denies, which `established = "kill"`
//! ends.

use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
};

use anyhow::anyhow;
use port_monitor_common::policy::{Direction, Mode, Transport};

use super::now_ns;
use crate::{
    exit_code::{ExitCode, Failure, OrExit as _},
    kernel::enforcer::{self, EnforcerError, OpenConnection},
    policy::{Facts, Policy, intent::Established},
    record::Judgement,
    sanitize::Escaped,
};

/// Refuses a policy by which it cannot be told whether an open connection is denied.
pub(super) fn check(policy: &Policy) -> Result<(), Failure> {
    if policy.intent().established == Established::Keep || !policy.asks_for_executables() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::PolicyInvalid,
        anyhow!(
            "{}: [apply] established = \"kill\" with rules that ask for an executable: the \
             kernel does not know it of an open connection; write \"keep\"",
            policy.source().name
        ),
    ))
}

/// A connection that is denied, and by which rule; `None` is the default.
pub(in crate::commands) struct Denied {
    connection: OpenConnection,
    rule: Option<String>,
}

impl Denied {
    fn of(policy: &Policy, connection: OpenConnection) -> Self {
        Self {
            rule: judge(policy, &connection).rule.map(|rule| rule.to_string()),
            connection,
        }
    }

    /// `in` or `out`.
    pub(in crate::commands) const fn direction(&self) -> &'static str {
        if self.connection.is_inbound {
            "in"
        } else {
            "out"
        }
    }

    /// This end.
    pub(in crate::commands) const fn local(&self) -> SocketAddr {
        self.connection.local
    }

    /// The other end.
    pub(in crate::commands) const fn remote(&self) -> SocketAddr {
        self.connection.remote
    }

    /// The uid of who made the socket.
    pub(in crate::commands) const fn uid(&self) -> u32 {
        self.connection.uid
    }

    /// The rule that denies it; `None` is the default.
    pub(in crate::commands) fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preposition = if self.connection.is_inbound {
            "from"
        } else {
            "to"
        };
        write!(
            f,
            "{} tcp {} {preposition} {}, user {}: {}",
            self.direction(),
            self.local(),
            self.remote(),
            self.uid(),
            Escaped(self.rule().unwrap_or("the default").as_bytes())
        )
    }
}

/// What is open on this host and the policy denies.
pub(in crate::commands) fn open(policy: &Policy) -> Result<Vec<Denied>, Failure> {
    if policy.asks_for_executables() {
        return Err(Failure::usage(format!(
            "{}: some rules ask for an executable: the kernel does not know it of an open \
             connection",
            policy.source().name
        )));
    }
    let is_denied = |connection: &OpenConnection| judge(policy, connection).is_violation();
    let denied = enforcer::open_connections(is_denied).or_exit(ExitCode::CannotAttach)?;
    let denied = denied.into_iter();
    Ok(denied
        .map(|connection| Denied::of(policy, connection))
        .collect())
}

/// Ends what the policy denies, if it is one that ends something, for as long as it is in
/// force; within a cgroup, if only that is held to it.
pub(super) fn end(
    policy: &Policy,
    cgroup: Option<&Path>,
    is_in_force: impl Fn() -> bool + Sync,
) -> Result<Vec<Denied>, EnforcerError> {
    let intent = policy.intent();
    if intent.established == Established::Keep || intent.mode == Mode::Observe {
        return Ok(Vec::new());
    }
    let is_held = |connection: &OpenConnection| match (cgroup, &connection.cgroup) {
        (None, _) => true,
        (Some(held), Some(cgroup)) => Path::new(cgroup).starts_with(held),
        (Some(_), None) => false,
    };
    let ended = enforcer::end_connections(|connection| {
        is_held(connection) && judge(policy, connection).is_violation() && is_in_force()
    })?;
    let ended = ended.into_iter();
    Ok(ended
        .map(|connection| Denied::of(policy, connection))
        .collect())
}

fn judge(policy: &Policy, connection: &OpenConnection) -> Judgement {
    let OpenConnection { local, remote, .. } = connection;
    let (direction, service_port) = if connection.is_inbound {
        (Direction::Inbound, local.port())
    } else {
        (Direction::Outbound, remote.port())
    };
    policy.judge(&Facts {
        direction,
        transport: Transport::Tcp,
        service_port,
        peer: remote.ip(),
        peer_is_self: remote.ip() == local.ip(),
        uid: Some(connection.uid),
        unit: None,
        cgroup: connection.cgroup.as_deref(),
        exe: None,
        exe_id: None,
        // The kernel's own, and what nobody has open any more: the kernel does not tell which.
        is_kernel: connection.is_unheld,
        now_ns: i128::from(now_ns()),
    })
}

/// Names those that were ended.
pub(super) fn write(ended: &[Denied], out: &mut impl Write) -> io::Result<()> {
    for denied in ended {
        writeln!(out, "ended {denied}")?;
    }
    if !ended.is_empty() {
        writeln!(out, "{} ended", counted(ended.len()))?;
    }
    Ok(())
}

/// So many open connections, in words.
pub(in crate::commands) fn counted(count: usize) -> String {
    let noun = if count == 1 {
        "connection"
    } else {
        "connections"
    };
    format!("{count} open {noun}")
}
