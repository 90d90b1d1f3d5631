//! Finds the connections that lead to a process.

use std::{collections::BTreeSet, fmt, net::SocketAddr};

use super::tree::{Chain, Ends, Proc, Process, Terminal};
use crate::kernel::enforcer::{OpenConnection, Sockets};

/// Whoever the kernel asks about when such a connection comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Option<u32>,
    pub(super) cgroup: Option<String>,
}

impl Owner {
    fn of(socket: &OpenConnection) -> Self {
        Self {
            uid: Some(socket.uid),
            cgroup: socket.cgroup.clone(),
        }
    }
}

/// A connection over which somebody works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) owners: Vec<Owner>,
    /// The kernel has it; else only a variable tells of it.
    pub(super) is_open: bool,
    /// Who holds it, where that is not a server of ssh.
    holder: Option<(String, u32)>,
}

impl Session {
    fn open(connection: &OpenConnection, within: &Sockets, holder: Option<&Process>) -> Self {
        let listeners = listeners(connection, within);
        let owners = if listeners.is_empty() {
            vec![Owner::of(connection)]
        } else {
            listeners.into_iter().map(Owner::of).collect()
        };
        let is_other = |holder: &&Process| {
            let is_ssh = ["sshd", "dropbear", "tinysshd"];
            !is_ssh.iter().any(|name| holder.name.starts_with(name))
        };
        Self {
            peer: connection.remote,
            local: connection.local,
            owners,
            is_open: true,
            holder: holder
                .filter(is_other)
                .map(|holder| (holder.name.clone(), holder.pid)),
        }
    }

    /// Only a variable tells of it.
    fn told(ends: Ends) -> Self {
        let owner = Owner {
            uid: Some(0),
            cgroup: None,
        };
        Self {
            peer: ends.peer,
            local: ends.local,
            owners: vec![owner],
            is_open: false,
            holder: None,
        }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            None => f.write_str("this ssh session")?,
            Some((name, pid)) => write!(f, "this session of {name}[{pid}]")?,
        }
        let (peer, port) = (self.peer.ip(), self.local.port());
        write!(f, ", from {peer} to port {port}")
    }
}

/// The sockets that another connection like this one could come to: those that listen at
/// its very address, or else at all addresses.
fn listeners<'s>(connection: &OpenConnection, within: &'s Sockets) -> Vec<&'s OpenConnection> {
    let at_port = |listener: &&OpenConnection| listener.local.port() == connection.local.port();
    let (exact, other): (Vec<_>, Vec<_>) = within
        .listeners
        .iter()
        .filter(at_port)
        .partition(|listener| listener.local.ip() == connection.local.ip());
    if !exact.is_empty() {
        return exact;
    }
    let takes_all = |listener: &&OpenConnection| {
        let ip = listener.local.ip();
        ip.is_unspecified() && (ip.is_ipv6() || connection.local.is_ipv4())
    };
    other.into_iter().filter(takes_all).collect()
}

/// Why it cannot be told in which session a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is on a terminal that may be watched from anywhere.
    Terminal,
    /// A server of logins is above it, and no connection of that server was found.
    Server(String, u32),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminal => f.write_str(
                "it is on a pseudo terminal, as remote sessions are, and no process above it \
                 holds an inbound connection",
            ),
            Self::Server(name, pid) => write!(
                f,
                "{name}[{pid}] is above it, and the connection it came by was not found"
            ),
        }
    }
}

/// What leads to a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sessions: Vec<Session>,
    pub(super) doubt: Option<Doubt>,
}

impl Found {
    /// Looks at the process `pid`, at those above it, and, where a connection comes from
    /// this host, at those above its other end. `sockets` are those of the network
    /// namespaces.
    pub(super) fn look(proc: &Proc, pid: u32, sockets: &[Sockets]) -> Self {
        let mut search = Search {
            proc,
            sockets,
            seen: BTreeSet::new(),
            sessions: Vec::new(),
        };
        let own = proc.chain(pid);
        let mut pending = search.follow(&own);
        if search.sessions.is_empty() {
            pending.extend(proc.servers_beside(pid));
        }
        while let Some(pid) = pending.pop() {
            pending.extend(search.follow(&proc.chain(pid)));
        }
        search.take_told(pid);
        let is_found = search.sessions.iter().any(|session| session.is_open);
        Self {
            doubt: if is_found { None } else { doubt(&own) },
            sessions: search.sessions,
        }
    }
}

fn doubt(own: &Chain) -> Option<Doubt> {
    let processes = || own.processes.iter();
    if let Some(server) = processes().find(|process| process.is_login_server()) {
        return Some(Doubt::Server(server.name.clone(), server.pid));
    }
    let has = |terminal| processes().any(|process| process.terminal == terminal);
    // Behind a terminal of a program that was started at the console sits who sits there.
    let is_local = own.is_whole && has(Terminal::Console);
    (has(Terminal::Pseudo) && !is_local).then_some(Doubt::Terminal)
}

struct Search<'a> {
    proc: &'a Proc,
    sockets: &'a [Sockets],
    seen: BTreeSet<u32>,
    sessions: Vec<Session>,
}

impl<'a> Search<'a> {
    /// Notes the connections of a process and those above it; gives the processes at their
    /// other ends.
    fn follow(&mut self, chain: &Chain) -> Vec<u32> {
        let mut others = Vec::new();
        for process in &chain.processes {
            if !self.seen.insert(process.pid) {
                // Those above it were seen too.
                break;
            }
            for (connection, within) in self.accepted_by(process) {
                if self.note(Session::open(connection, within, Some(process))) {
                    others.extend(self.other_ends(connection));
                }
            }
        }
        others
    }

    /// False where it is known.
    fn note(&mut self, session: Session) -> bool {
        let is_same = |known: &Session| (known.peer, known.local) == (session.peer, session.local);
        if self.sessions.iter().any(is_same) {
            return false;
        }
        self.sessions.push(session);
        true
    }

    /// The connections over which somebody works in a process: those that were accepted,
    /// of a server of logins or of a process that serves nobody else.
    fn accepted_by(&self, process: &Process) -> Vec<(&'a OpenConnection, &'a Sockets)> {
        let held = self.proc.sockets(process.pid);
        let of = |kind: fn(&Sockets) -> &Vec<OpenConnection>| {
            let held = held.iter();
            held.filter_map(move |inode| {
                self.sockets.iter().find_map(|within| {
                    let found = kind(within).iter().find(|socket| socket.inode == *inode)?;
                    Some((found, within))
                })
            })
        };
        let connections: Vec<_> = of(|within| &within.connections).collect();
        let mut accepted = connections.clone();
        accepted.retain(|(connection, _)| connection.is_inbound);
        if process.is_login_server() {
            if accepted.is_empty() {
                // Nobody listens at its port any more. What a session opens comes later.
                accepted.extend(connections.first().copied());
            }
        } else if process.pid == 1 || of(|within| &within.listeners).next().is_some() {
            accepted.clear();
        }
        accepted
    }

    /// The processes at the other end of a connection, if that is on this host.
    fn other_ends(&self, connection: &OpenConnection) -> Vec<u32> {
        let all = self.sockets.iter().flat_map(|within| &within.connections);
        let reversed = all
            .filter(|other| (other.local, other.remote) == (connection.remote, connection.local));
        let inodes: Vec<_> = reversed
            .map(|other| other.inode)
            .filter(|inode| *inode != 0)
            .collect();
        if inodes.is_empty() {
            return Vec::new();
        }
        self.proc.holders(&inodes)
    }

    /// Adds what variables tell of: the process's own, and of those above it what the
    /// kernel confirms. A daemon may have begun with the variables of a session long past.
    fn take_told(&mut self, own: u32) {
        for pid in self.seen.clone() {
            let Some(ends) = self.proc.ssh_connection(pid) else {
                continue;
            };
            let open = self.sockets.iter().find_map(|within| {
                let mut connections = within.connections.iter();
                let found = connections
                    .find(|found| (found.remote, found.local) == (ends.peer, ends.local))?;
                Some(Session::open(found, within, None))
            });
            match open {
                Some(session) => self.note(session),
                None => pid == own && self.note(Session::told(ends)),
            };
        }
    }
}

#[cfg(test)]
mod tests;
