//! The connections that are open and that a policy denies, which `established = "kill"`
//! ends.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::anyhow;
use port_monitor_common::policy::{Direction, Mode, Transport};

use super::now_ns;
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        sanitize::Escaped,
    },
    events::record::Judgement,
    host::threads,
    kernel::enforcer::{self, EnforcerError, OpenConnection},
    policy::{Facts, Policy, Unknown, rules::intent::Established},
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
    fn of(judge: &Judge<'_>, connection: OpenConnection) -> Self {
        let judgement = judge.judgement(&connection).ok();
        let rule = judgement.and_then(|judgement| judgement.rule);
        Self {
            rule: rule.map(|rule| rule.to_string()),
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

/// What of the open connections the policy denies, and what it may deny.
#[derive(Default)]
pub(in crate::commands) struct Found {
    pub(in crate::commands) denied: Vec<Denied>,
    /// How many it depends on what cannot be known of them, by what that is.
    left: HashMap<Missing, usize>,
}

impl Found {
    fn new(judge: &Judge<'_>, denied: Vec<OpenConnection>) -> Self {
        let denied = denied.into_iter();
        let mut left = HashMap::new();
        let not_known = judge.not_known.lock();
        for missing in not_known.unwrap_or_else(PoisonError::into_inner).values() {
            *left.entry(*missing).or_default() += 1;
        }
        Self {
            denied: denied
                .map(|connection| Denied::of(judge, connection))
                .collect(),
            left,
        }
    }

    /// Those that are left alone, each kind in words.
    pub(in crate::commands) fn left(&self) -> Vec<String> {
        let left = Missing::ALL.into_iter().filter_map(|missing| {
            let count = *self.left.get(&missing)?;
            Some(format!("{} left: {missing}", counted(count)))
        });
        left.collect()
    }
}

/// What is not known of a connection and decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Missing {
    Owner,
    Kernel,
}

impl Missing {
    const ALL: [Self; 2] = [Self::Owner, Self::Kernel];
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => {
                "no process holds them any more or yet, and the policy asks for their user or \
                 cgroup, which the kernel does not tell then"
            }
            Self::Kernel => {
                "no process is seen to hold them, so they may be the kernel's own, which the \
                 default spares"
            }
        })
    }
}

/// What is open on this host and the policy denies.
pub(in crate::commands) fn open(policy: &Policy) -> Result<Found, Failure> {
    if policy.asks_for_executables() {
        return Err(Failure::usage(format!(
            "{}: some rules ask for an executable: the kernel does not know it of an open \
             connection",
            policy.source().name
        )));
    }
    let judge = Judge::new(policy);
    let is_denied = |connection: &OpenConnection| judge.denies(connection);
    let denied = enforcer::open_connections(is_denied).or_exit(ExitCode::CannotAttach)?;
    Ok(Found::new(&judge, denied))
}

/// Ends what the policy denies, if it is one that ends something, for as long as it is in
/// force; within a cgroup, if only that is held to it.
pub(super) fn end(
    policy: &Policy,
    cgroup: Option<&Path>,
    is_in_force: impl Fn() -> bool + Sync,
) -> Result<Found, EnforcerError> {
    let intent = policy.intent();
    if intent.established == Established::Keep || intent.mode == Mode::Observe {
        return Ok(Found::default());
    }
    let is_held = |connection: &OpenConnection| match (cgroup, &connection.cgroup) {
        (None, _) => true,
        (Some(held), Some(cgroup)) => Path::new(cgroup).starts_with(held),
        (Some(_), None) => false,
    };
    let judge = Judge::new(policy);
    let ended = enforcer::end_connections(|connection| {
        is_held(connection) && judge.denies(connection) && is_in_force()
    })?;
    Ok(Found::new(&judge, ended))
}

/// Judges open connections, none by what is not known of it.
struct Judge<'p> {
    policy: &'p Policy,
    /// The sockets that processes hold, by their inodes: looked for where it matters.
    held: OnceLock<HashSet<u64>>,
    /// Those that are not judged, each once.
    not_known: Mutex<HashMap<Vec<u8>, Missing>>,
}

impl<'p> Judge<'p> {
    fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            held: OnceLock::new(),
            not_known: Mutex::default(),
        }
    }

    fn denies(&self, connection: &OpenConnection) -> bool {
        match self.judgement(connection) {
            Ok(judgement) => judgement.is_violation(),
            Err(missing) => {
                let not_known = self.not_known.lock();
                let mut not_known = not_known.unwrap_or_else(PoisonError::into_inner);
                not_known.insert(connection.identity().to_vec(), missing);
                false
            }
        }
    }

    fn judgement(&self, connection: &OpenConnection) -> Result<Judgement, Missing> {
        let facts = facts(connection);
        let mut unknown = Unknown {
            user: !connection.has_user(),
            cgroup: connection.cgroup.is_none(),
            kernel: false,
        };
        let judged = self.policy.judge_surely(&facts, unknown);
        let judged = judged.ok_or(Missing::Owner)?;
        // The kernel itself begins what goes out, and no process holds it.
        if connection.is_inbound || connection.is_subflow {
            return Ok(judged);
        }
        unknown.kernel = true;
        match self.policy.judge_surely(&facts, unknown) {
            None if !self.is_held(connection) => Err(Missing::Kernel),
            _ => Ok(judged),
        }
    }

    fn is_held(&self, connection: &OpenConnection) -> bool {
        connection.inode != 0 && self.held.get_or_init(held).contains(&connection.inode)
    }
}

/// The inodes of all sockets that descriptors of processes name.
fn held() -> HashSet<u64> {
    let mut held = HashSet::new();
    // A process may be gone, and what is not a process has no descriptors.
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = threads::of_process(&process.path());
        let descriptors = fs::read_dir(process.join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|target| {
                let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
                number.parse::<u64>().ok()
            });
            held.extend(inode);
        }
    }
    held
}

fn facts(connection: &OpenConnection) -> Facts<'_> {
    let OpenConnection { local, remote, .. } = connection;
    let (direction, service_port) = if connection.is_inbound {
        (Direction::Inbound, local.port())
    } else {
        (Direction::Outbound, remote.port())
    };
    Facts {
        peer_is_self: remote.ip() == local.ip(),
        uid: connection.has_user().then_some(connection.uid),
        cgroup: connection.cgroup.as_deref(),
        now_ns: i128::from(now_ns()),
        ..Facts::new(direction, Transport::Tcp, service_port, remote.ip())
    }
}

/// Names those that were ended, and counts those that were left alone.
pub(super) fn write(found: &Found, out: &mut impl Write) -> io::Result<()> {
    let ended = &found.denied;
    for denied in ended {
        writeln!(out, "ended {denied}")?;
    }
    if !ended.is_empty() {
        writeln!(out, "{} ended", counted(ended.len()))?;
    }
    let mut left = found.left().into_iter();
    left.try_for_each(|left| writeln!(out, "{left}"))
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
