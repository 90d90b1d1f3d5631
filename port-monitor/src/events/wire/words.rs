//! The words of the public lines: what each value of a closed list is called, once, for the
//! hand-written lines, the tables, the schema and whoever reads lines back.

use std::{fmt, marker::PhantomData};

pub(crate) use port_monitor_common::event::{ClosedBy, OwnerSource};
use port_monitor_common::{event::EventKind, policy::Verdict as Decision, tcp_state::TcpState};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

pub(crate) use crate::events::{
    alert::AlertKind,
    record::{LossCause, PortClass, ServiceOrigin, ServiceStatus},
};
use crate::events::{decode, record};

/// A closed list of values, each with a word.
pub(crate) trait Spelled: Copy + PartialEq + 'static {
    /// The list's name in the schema.
    #[cfg(test)]
    const NAME: &'static str;
    /// What it is a list of; may be empty.
    #[cfg(test)]
    const DOC: &'static str;
    /// Every value.
    const WORDS: &'static [Spelling<Self>];

    /// The value as every output spells it.
    fn word(self) -> &'static str;

    /// The word and the quotation mark behind it, for the lines that are written by hand.
    fn padded(self) -> &'static Padded;
}

/// A word and the quotation mark behind it, in as many bytes for each: that many are copied
/// faster than just those of the word, whose number nobody knows beforehand.
#[derive(Debug)]
pub(crate) struct Padded {
    bytes: [u8; Self::SIZE],
    length: usize,
}

impl Padded {
    const SIZE: usize = 24;

    const fn new(word: &str) -> Self {
        let word = word.as_bytes();
        let mut bytes = [0; Self::SIZE];
        let mut length = 0;
        while length < word.len() {
            bytes[length] = word[length];
            length += 1;
        }
        bytes[length] = b'"';
        length += 1;
        Self { bytes, length }
    }

    /// Appends it.
    #[inline(always)]
    pub(crate) fn append(&self, to: &mut Vec<u8>) {
        let length = to.len() + self.length;
        to.extend_from_slice(&self.bytes);
        to.truncate(length);
    }
}

/// A value of a closed list.
pub(crate) struct Spelling<T> {
    pub(crate) value: T,
    pub(crate) word: &'static str,
    /// What it means; may be empty.
    #[cfg(test)]
    pub(crate) doc: &'static str,
}

/// Spells the values of an enum; with `enum` in front, it also declares it.
macro_rules! spelled {
    (
        $(#[doc = $doc:literal])*
        $visibility:vis enum $name:ident {
            $($(#[doc = $value_doc:literal])* $value:ident = $word:expr),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[doc = $value_doc])* $value,)+
        }

        spelled! {
            $(#[doc = $doc])*
            impl $name as $name {
                $($(#[doc = $value_doc])* $value = $word),+
            }
        }
    };
    (
        $(#[doc = $doc:literal])*
        impl $name:ident as $schema_name:ident {
            $($(#[doc = $value_doc:literal])* $value:ident = $word:expr),+ $(,)?
        }
    ) => {
        impl Spelled for $name {
            #[cfg(test)]
            const NAME: &'static str = stringify!($schema_name);
            #[cfg(test)]
            const DOC: &'static str = concat!($($doc, "\n",)* "");
            const WORDS: &'static [Spelling<Self>] = &[
                $(Spelling {
                    value: Self::$value,
                    word: $word,
                    #[cfg(test)]
                    doc: concat!($($value_doc, "\n",)* ""),
                }),+
            ];

            #[inline]
            fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word),+
                }
            }

            #[inline]
            fn padded(self) -> &'static Padded {
                match self {
                    $(Self::$value => const { &Padded::new($word) }),+
                }
            }
        }
    };
}

/// A value of a closed list as a line has it: also one that only later versions know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word<T> {
    /// A value of the list.
    Known(T),
    /// What the line says instead; empty where it says nothing.
    Other(Box<str>),
}

impl<T: Spelled> Word<T> {
    /// As the line has it.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Known(value) => value.word(),
            Self::Other(text) => text,
        }
    }

    /// The value, if this version knows it.
    pub(crate) const fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Other(_) => None,
        }
    }

    /// What a line says.
    pub(crate) fn of(text: &str) -> Self {
        let mut words = T::WORDS.iter();
        match words.find(|spelling| spelling.word == text) {
            Some(spelling) => Self::Known(spelling.value),
            None => Self::Other(text.into()),
        }
    }
}

impl<T> From<T> for Word<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T> Default for Word<T> {
    fn default() -> Self {
        Self::Other("".into())
    }
}

impl<T: Spelled> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

impl<'de, T: Spelled> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words<T>(PhantomData<T>);

        impl<T: Spelled> Visitor<'_> for Words<T> {
            type Value = Word<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word")
            }

            fn visit_str<E>(self, text: &str) -> Result<Word<T>, E> {
                Ok(Word::of(text))
            }
        }
        deserializer.deserialize_str(Words(PhantomData))
    }
}

spelled! {
    impl ClosedBy as ClosedBy {
        /// Not known.
        Unknown = "unknown",
        /// This host: its FIN came first.
        Local = "local",
        /// The peer: its FIN came first.
        Peer = "peer",
        /// The peer, by RST.
        PeerReset = "peer-reset",
        /// This host, by RST.
        LocalReset = "local-reset",
        /// Nobody: the peer did not answer any more.
        Timeout = "timeout",
        /// Nobody: a process took the socket away by `TCP_REPAIR`, without a packet.
        TakenAway = "taken-away",
    }
}

/// A TCP state as every output spells it: RFC 9293 has its name, in lower case. The list is
/// open, because a newer kernel may have more of them.
pub(crate) fn state(state: TcpState) -> &'static str {
    state.name().unwrap_or("unknown")
}

spelled! {
    impl OwnerSource as OwnerSource {
        /// The thread that called connect.
        Connect = "connect",
        /// The thread that called accept.
        Accept = "accept",
        /// The process that made the socket listen; of a connection on the tracepoint backend,
        /// one that had it open when the connection came.
        Listener = "listener",
        /// A process that had the socket open when the monitor started.
        Holder = "holder",
        /// No hook saw the owner.
        Unknown = "unknown",
    }
}

spelled! {
    /// The ranges of RFC 6335.
    impl PortClass as PortClass {
        WellKnown = Self::WellKnown.name(),
        Registered = Self::Registered.name(),
        Dynamic = Self::Dynamic.name(),
    }
}

spelled! {
    impl ServiceOrigin as ServiceOrigin {
        /// The policy file.
        Policy = Self::Policy.name(),
        /// Common use.
        DeFacto = Self::DeFacto.name(),
        /// The IANA registry.
        Iana = Self::Iana.name(),
    }
}

spelled! {
    /// The port in the IANA registry.
    impl ServiceStatus as ServiceStatus {
        Assigned = Self::Assigned.name(),
        Reserved = Self::Reserved.name(),
        Unassigned = Self::Unassigned.name(),
    }
}

spelled! {
    impl LossCause as LossCause {
        /// The kernel's ring buffer was full.
        RingFull = "ring_full",
        /// The kernel skipped the program.
        ProgramSkipped = "program_skipped",
        /// The output took the lines too slowly.
        OutputSlow = "output_slow",
        /// Records this version cannot read.
        Undecodable = "undecodable",
        /// A filter of processes had to know whose they are, which was not found out in time.
        OwnerLate = "owner_late",
    }
}

spelled! {
    impl AlertKind as AlertKind {
        /// It breaks the policy, and was not stopped.
        Violation = "violation",
        /// It breaks the policy, and failed with `EPERM`.
        Denied = "denied",
        /// A rule allows it, and asks for an alert.
        Allowed = "allowed",
        /// A socket listens where no such one did since the start.
        Listener = "listener",
        /// The first connection by a port since the start.
        FirstUse = "first-use",
        /// Events were lost.
        Loss = "loss",
    }
}

spelled! {
    /// Why a field has no value.
    pub(crate) enum Reason {
        /// No hook saw the owner.
        NoOwner = "no_owner",
        /// Several processes have the listener open, and no one can be named before the others.
        Shared = "shared",
        /// No process has the listener open any more.
        Unheld = "unheld",
        /// The process ended before it could be looked up.
        Exited = "exited",
        /// The process executes another program by now.
        Executed = "executed",
        /// The kernel refused the look-up.
        Denied = "denied",
        /// A kernel thread has none.
        KernelThread = "kernel_thread",
        /// The look-up takes long: later lines have it.
        Late = "late",
        /// Not in this host's user database.
        UnknownUser = "unknown_user",
        /// The kernel has not chosen it yet.
        NotChosen = "not_chosen",
        /// The look-up found nothing.
        NotFound = "not_found",
    }
}

impl From<record::Missing> for Reason {
    fn from(reason: record::Missing) -> Self {
        match reason {
            record::Missing::NoOwner => Self::NoOwner,
            record::Missing::Shared => Self::Shared,
            record::Missing::Unheld => Self::Unheld,
            record::Missing::Exited => Self::Exited,
            record::Missing::Executed => Self::Executed,
            record::Missing::Denied => Self::Denied,
            record::Missing::KernelThread => Self::KernelThread,
            record::Missing::Late => Self::Late,
        }
    }
}

spelled! {
    pub(crate) enum Verdict {
        Allow = "allow",
        Violation = "violation",
    }
}

impl From<Decision> for Verdict {
    fn from(verdict: Decision) -> Self {
        match verdict {
            Decision::Allow => Self::Allow,
            Decision::Deny | Decision::AuditDeny => Self::Violation,
        }
    }
}

spelled! {
    pub(crate) enum Enforcement {
        /// It was observed alone: the policy has refused nothing.
        Observe = "observe",
        /// The attempt was refused, by the service that holds this host to the policy.
        Enforce = "enforce",
    }
}

impl Enforcement {
    /// What was done, if the connection breaks the policy.
    pub(crate) const fn of(verdict: Decision) -> Option<Self> {
        match verdict {
            Decision::Allow => None,
            Decision::AuditDeny => Some(Self::Observe),
            Decision::Deny => Some(Self::Enforce),
        }
    }
}

spelled! {
    /// Kinds of lines.
    pub(crate) enum Kind {
        /// A connection.
        Event = "event",
        /// A connection that breaks the policy.
        Alert = "alert",
        /// Facts of the run.
        State = "state",
        /// Final counts.
        Metric = "metric",
    }
}

spelled! {
    pub(crate) enum StartAction {
        Start = "start",
    }
}

spelled! {
    pub(crate) enum PolicyAction {
        Policy = "policy",
    }
}

spelled! {
    pub(crate) enum LossAction {
        Loss = "loss",
    }
}

spelled! {
    pub(crate) enum SummaryAction {
        Summary = "summary",
    }
}

spelled! {
    pub(crate) enum StreamDataset {
        Stream = "port_monitor.stream",
    }
}

spelled! {
    pub(crate) enum ConnectionDataset {
        Connection = "port_monitor.connection",
    }
}

spelled! {
    pub(crate) enum ListenerAction {
        Listener = "listener",
    }
}

spelled! {
    pub(crate) enum ListenerDataset {
        Listener = "port_monitor.listener",
    }
}

spelled! {
    pub(crate) enum Category {
        Network = "network",
    }
}

spelled! {
    pub(crate) enum EventType {
        Connection = "connection",
        /// The connection begins: an attempt, an accept, or it was restored. Or a socket
        /// listens.
        Start = "start",
        /// More is known of an attempt; or, first of the two: a socket begins or ends
        /// to listen.
        Info = "info",
        /// It is over.
        End = "end",
    }
}

spelled! {
    pub(crate) enum ConnectionAction {
        /// This host is about to send a SYN.
        Connect = "connect",
        /// The handshake of an attempt is complete.
        Connected = "connected",
        /// An attempt came to nothing.
        Failed = "failed",
        /// This host accepted a connection.
        Accept = "accept",
        /// An established connection has ended.
        Close = "close",
        /// The socket was there before the monitor.
        Preexisting = "preexisting",
        /// A socket listens from now on.
        Listen = "listen",
        /// A socket does not listen any more.
        Unlisten = "unlisten",
        /// A process put a connection into a socket by `TCP_REPAIR`: no packet told its peer.
        Restored = "restored",
        /// A connection is still open, with `--progress`: what it has carried so far.
        Progress = "progress",
    }
}

spelled! {
    pub(crate) enum ConnectionState {
        /// The attempt goes on.
        Attempted = "attempted",
        /// It is open.
        Open = "open",
        /// The attempt failed.
        Failed = "failed",
        /// It has ended.
        Closed = "closed",
        /// Nobody watched it any more when it ended.
        CutOff = "cut-off",
        /// There was no room to remember it until its end.
        PushedOut = "pushed-out",
    }
}

impl From<decode::Action> for ConnectionAction {
    fn from(action: decode::Action) -> Self {
        action.kind().into()
    }
}

impl From<EventKind> for ConnectionAction {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Connect => Self::Connect,
            EventKind::Connected => Self::Connected,
            EventKind::Failed => Self::Failed,
            EventKind::Accept => Self::Accept,
            EventKind::Close => Self::Close,
            EventKind::Preexisting => Self::Preexisting,
            EventKind::Listen => Self::Listen,
            EventKind::Unlisten => Self::Unlisten,
            EventKind::Restored => Self::Restored,
            EventKind::Progress => Self::Progress,
        }
    }
}

spelled! {
    pub(crate) enum Outcome {
        Success = "success",
        Failure = "failure",
        /// An attempt: the outcome is another event.
        Unknown = "unknown",
    }
}

spelled! {
    pub(crate) enum Transport {
        Tcp = "tcp",
    }
}

spelled! {
    pub(crate) enum Family {
        Ipv4 = "ipv4",
        Ipv6 = "ipv6",
    }
}

spelled! {
    pub(crate) enum Direction {
        /// A peer opened the connection.
        Ingress = "ingress",
        /// This host opened it.
        Egress = "egress",
    }
}

impl From<decode::Direction> for Direction {
    fn from(direction: decode::Direction) -> Self {
        match direction {
            decode::Direction::Inbound => Self::Ingress,
            decode::Direction::Outbound => Self::Egress,
        }
    }
}

spelled! {
    /// Who can reach a listening address.
    pub(crate) enum Scope {
        /// It is every address of the host.
        Any = "any",
        /// Whoever routes and firewalls let through.
        Public = "public",
        /// Private networks (RFC 1918, RFC 4193, RFC 6598) and link-local ones.
        Private = "private",
        /// This host only.
        Loopback = "loopback",
    }
}
