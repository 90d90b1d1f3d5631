//! From the truth to the records a backend must show.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    backend::{Blind, Sight},
    fact::{Accept, Attempt, Ending, Fact, Holder, Listen, Owner, Reach},
};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Connect,
    Connected,
    /// With its errno, unless the program gave up.
    Failed(Option<i32>),
    Accept,
    Listen,
    Restored,
}

impl Action {
    /// `event.action`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Connected => "connected",
            Self::Failed(_) => "failed",
            Self::Accept => "accept",
            Self::Listen => "listen",
            Self::Restored => "restored",
        }
    }

    pub(crate) fn is_inbound(self) -> bool {
        matches!(self, Self::Accept | Self::Listen)
    }
}

/// What is known of the local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalPort {
    /// The record names this one.
    Is(u16),
    /// The record names the one the kernel chose, which the program never
    /// learned.
    Some,
    /// Not chosen yet: the record has none.
    NotChosen,
}

/// One record the stream must contain.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) action: Action,
    /// `None` where the backend cannot know it.
    pub(crate) owner: Option<Owner>,
    /// `port_monitor.owner_source`.
    pub(crate) owner_source: &'static str,
    pub(crate) local_ip: IpAddr,
    pub(crate) local_port: LocalPort,
    /// The unspecified address and port of a listener.
    pub(crate) remote: SocketAddr,
    pub(crate) v4_mapped: bool,
    pub(crate) netns_ino: u64,
    pub(crate) within_ns: (u64, u64),
    /// `port_monitor.preattach`; `None`: either, because the kernel may have
    /// skipped the first hook.
    pub(crate) preattach: Option<bool>,
    /// What the backend does not see here.
    pub(crate) blind: Option<Blind>,
}

impl Expected {
    /// The port that names the service.
    pub(crate) fn service_port(&self) -> u16 {
        match self.local_port {
            LocalPort::Is(port) if self.action.is_inbound() => port,
            _ => self.remote.port(),
        }
    }

    /// The local port, where the record has one that is known.
    pub(crate) fn known_local_port(&self) -> Option<u16> {
        match self.local_port {
            LocalPort::Is(port) => Some(port),
            LocalPort::Some | LocalPort::NotChosen => None,
        }
    }
}

/// The records of one end of a connection: they share an id.
pub(crate) type End = Vec<Expected>;

/// What must be shown of these facts. An attempt's outcome comes before its
/// `connect`, because it always has the local port to find it by.
pub(crate) fn ends(facts: &[Fact], sight: Sight) -> Vec<End> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Attempt(attempt) => Some(attempt_records(attempt, sight)),
            Fact::Accept(accept) => Some(accept_record(accept, facts, sight).into_iter().collect()),
            Fact::Listen(listen) => Some(listen_record(listen, sight).into_iter().collect()),
            _ => None,
        })
        .filter(|end: &End| !end.is_empty())
        .collect()
}

/// What the backend does not see of these facts at all.
pub(crate) fn unseen(facts: &[Fact], sight: Sight) -> Option<Blind> {
    let is_unseen = |fact: &Fact| match fact {
        Fact::Attempt(attempt) => attempt.reach == Reach::Nothing && !sight.unsent,
        _ => false,
    };
    facts.iter().any(is_unseen).then_some(Blind::Unsent)
}

/// The processes whose every record must be explained by the facts.
pub(crate) fn pids(facts: &[Fact]) -> Vec<u32> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Process(pid) => Some(*pid),
            Fact::Listen(listen) => Some(listen.owner.pid),
            Fact::Attempt(attempt) => Some(attempt.owner.pid),
            Fact::Accept(accept) => accept.acceptor.as_ref().map(|owner| owner.pid),
            Fact::Many(many) => Some(many.owner.pid),
            Fact::Closed(_) | Fact::Done | Fact::Failed(_) => None,
        })
        .collect()
}

fn attempt_records(attempt: &Attempt, sight: Sight) -> End {
    let errno_is_seen = attempt.reach == Reach::Syn || sight.unsent;
    let (from, to) = attempt.within_ns;
    let outcome = Expected {
        action: match attempt.ending {
            Ending::Failed(_) if !errno_is_seen => Action::Failed(None),
            Ending::Connected => Action::Connected,
            Ending::Failed(errno) => Action::Failed(Some(errno)),
            Ending::GivenUp => Action::Failed(None),
            Ending::Restored => Action::Restored,
        },
        owner: Some(attempt.owner.clone()),
        owner_source: "connect",
        local_ip: attempt.local_ip,
        local_port: attempt.local_port.map_or(LocalPort::Some, LocalPort::Is),
        remote: attempt.remote,
        v4_mapped: attempt.v4_mapped,
        netns_ino: attempt.netns_ino,
        // What a program gives up it closes once it has told of it, whenever that is.
        within_ns: match attempt.ending {
            Ending::GivenUp => (from, u64::MAX),
            Ending::Connected | Ending::Failed(_) | Ending::Restored => (from, to),
        },
        preattach: Some(false),
        blind: (!errno_is_seen).then_some(Blind::Unsent),
    };
    if attempt.ending == Ending::Restored {
        // Nobody attempts to connect.
        return vec![outcome];
    }
    match (attempt.reach, sight.unsent) {
        // A SYN is never sent, so no attempt was seen to start.
        (Reach::Nothing | Reach::Route, true) => return vec![unsent(outcome)],
        (Reach::Nothing, false) => return Vec::new(),
        (Reach::Route, false) | (Reach::Syn, _) => {}
    }
    let unknown = !attempt.bound && !sight.chosen_ports;
    let connect = Expected {
        action: Action::Connect,
        local_port: if unknown {
            LocalPort::NotChosen
        } else {
            outcome.local_port
        },
        within_ns: attempt.within_ns,
        blind: unknown.then_some(Blind::LocalPort),
        ..outcome.clone()
    };
    vec![outcome, connect]
}

/// Before a local port is chosen, there is none but the program's own.
fn unsent(outcome: Expected) -> Expected {
    let local_port = match outcome.local_port {
        LocalPort::Some => LocalPort::NotChosen,
        known => known,
    };
    Expected {
        local_port,
        ..outcome
    }
}

fn listen_record(listen: &Listen, sight: Sight) -> Option<Expected> {
    if listen.older || listen.refused && sight.listens_late {
        return None;
    }
    let is_known = listen.bound || sight.listens_late;
    let nowhere: IpAddr = match listen.at.ip().to_canonical() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Some(Expected {
        action: Action::Listen,
        owner: Some(listen.owner.clone()),
        owner_source: "listener",
        local_ip: listen.at.ip().to_canonical(),
        local_port: if is_known {
            LocalPort::Is(listen.at.port())
        } else {
            LocalPort::NotChosen
        },
        remote: SocketAddr::new(nowhere, 0),
        v4_mapped: false,
        netns_ino: listen.netns_ino,
        within_ns: listen.within_ns,
        preattach: Some(false),
        blind: (!is_known || listen.refused).then_some(Blind::EarlyListen),
    })
}

fn accept_record(accept: &Accept, facts: &[Fact], sight: Sight) -> Option<Expected> {
    let acceptor = accept.acceptor.as_ref();
    let (owner, owner_source, blind) = if sight.acceptors {
        // Without an acceptor there is nothing to report.
        (Some(acceptor?), "accept", None)
    } else {
        let listener = match &accept.holder {
            Holder::Listener => listener(accept, facts),
            Holder::Only(owner) => Some(&**owner),
            Holder::Several => None,
        };
        let blind = match (acceptor, listener) {
            (_, None) => Some(Blind::Listener),
            (None, _) => Some(Blind::NeverAccepted),
            (acceptor, listener) if acceptor == listener => None,
            _ => Some(Blind::Acceptor),
        };
        let source = listener.map_or("unknown", |_| "listener");
        (listener, source, blind)
    };
    Some(Expected {
        action: Action::Accept,
        owner: owner.cloned(),
        owner_source,
        local_ip: accept.local.ip(),
        local_port: LocalPort::Is(accept.local.port()),
        remote: accept.remote,
        v4_mapped: accept.v4_mapped,
        netns_ino: accept.netns_ino,
        within_ns: accept.within_ns,
        preattach: match (sight.two_hooks, accept.preattach) {
            (true, true) => Some(true),
            (true, false) => None,
            (false, _) => Some(false),
        },
        blind,
    })
}

/// Who made the socket listen at which the connection arrived, if that is one
/// process and the socket was bound before.
fn listener<'a>(accept: &Accept, facts: &'a [Fact]) -> Option<&'a Owner> {
    let mut owners = facts.iter().filter_map(|fact| match fact {
        Fact::Listen(listen) if listen.at == accept.listener && listen.bound => Some(&listen.owner),
        _ => None,
    });
    let first = owners.next()?;
    owners.all(|other| other.pid == first.pid).then_some(first)
}
