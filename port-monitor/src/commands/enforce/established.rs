//! `established = "kill"`: the connections that are open and that the policy denies.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::anyhow;
use port_monitor_common::policy::{Direction, Mode, Verdict};

use super::now_ns;
use crate::{
    exit_code::{ExitCode, Failure},
    kernel::enforcer::{Enforcer, EnforcerError, OpenConnection},
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

/// A connection that was ended, and by which rule; `None` is the default.
pub(super) struct Ended {
    connection: OpenConnection,
    rule: Option<String>,
}

/// Ends what the policy denies, if it is one that ends something; within a cgroup, if
/// only that is held to it.
pub(super) fn end(
    enforcer: &Enforcer,
    policy: &Policy,
    cgroup: Option<&Path>,
) -> Result<Vec<Ended>, EnforcerError> {
    let intent = policy.intent();
    if intent.established == Established::Keep || intent.mode == Mode::Observe {
        return Ok(Vec::new());
    }
    let is_held = |connection: &OpenConnection| match (cgroup, &connection.cgroup) {
        (None, _) => true,
        (Some(held), Some(cgroup)) => Path::new(cgroup).starts_with(held),
        (Some(_), None) => false,
    };
    let ended = enforcer.end_connections(|connection| {
        is_held(connection) && is_denied(connection, &judge(policy, connection))
    })?;
    let named = ended.into_iter().map(|connection| Ended {
        rule: judge(policy, &connection).rule.map(|rule| rule.to_string()),
        connection,
    });
    Ok(named.collect())
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
        service_port,
        peer: remote.ip(),
        peer_is_self: remote.ip() == local.ip(),
        uid: Some(connection.uid),
        unit: None,
        cgroup: connection.cgroup.as_deref(),
        exe: None,
        now_ns: i128::from(now_ns()),
    })
}

/// The defaults spare the kernel's own connections.
fn is_denied(connection: &OpenConnection, judgement: &Judgement) -> bool {
    let is_spared = judgement.rule.is_none() && connection.is_unheld && !connection.is_inbound;
    judgement.verdict != Verdict::Allow && !is_spared
}

/// Names each of them.
pub(super) fn write(ended: &[Ended], out: &mut impl Write) -> io::Result<()> {
    for Ended { connection, rule } in ended {
        let OpenConnection {
            local, remote, uid, ..
        } = connection;
        let (direction, preposition) = if connection.is_inbound {
            ("in", "from")
        } else {
            ("out", "to")
        };
        let rule = rule.as_deref().unwrap_or("the default");
        let rule = Escaped(rule.as_bytes());
        writeln!(
            out,
            "ended {direction} tcp {local} {preposition} {remote}, user {uid}: {rule}"
        )?;
    }
    if !ended.is_empty() {
        let noun = if ended.len() == 1 {
            "connection"
        } else {
            "connections"
        };
        writeln!(out, "{} open {noun} ended", ended.len())?;
    }
    Ok(())
}
