//! The shape of the JSON lines that only an audit has: those of its listeners, and
//! what its summary says of them. The other lines are those of every stream.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Rfc3339,
    events::wire::{
        Container, Ecs, End, Group, Host, Network, Orchestrator, Process, Rule, User,
        facts::{Cgroup, Decimal, Hex, Missing, Port, Raw, Service},
        words::{
            Category, Enforcement, EventType, Kind, ListenerAction, ListenerDataset, OwnerSource,
            PortClass, Scope, Verdict, Word,
        },
    },
};

/// A socket that listens, at the end of an audit.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ListenerLine<'a> {
    /// When the audit ended.
    #[serde(rename = "@timestamp")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub(crate) timestamp: Rfc3339,
    pub(crate) ecs: Ecs,
    pub(crate) event: ListenerEvent,
    pub(crate) network: Network,
    /// Where it listens.
    pub(crate) destination: End,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) orchestrator: Option<Orchestrator<'a>>,
    pub(crate) host: Host<'a>,
    /// The policy's word; absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<Rule<'a>>,
    pub(crate) port_monitor: ListenerFacts<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ListenerEvent {
    pub(crate) kind: Word<Kind>,
    #[cfg_attr(test, schemars(with = "[Word<Category>; 1]"))]
    pub(crate) category: Vec<Word<Category>>,
    #[serde(rename = "type")]
    #[cfg_attr(test, schemars(with = "[Word<EventType>; 1]"))]
    pub(crate) types: Vec<Word<EventType>>,
    pub(crate) action: Word<ListenerAction>,
    pub(crate) dataset: Word<ListenerDataset>,
}

/// Of a listener.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ListenerFacts<'a> {
    pub(crate) schema: u32,
    /// Names the listening socket, as in the events of a stream.
    #[cfg_attr(test, schemars(with = "String", extend("pattern" = "^[0-9a-f]{16}$")))]
    pub(crate) id: Hex,
    /// Inode number of the socket's network namespace.
    pub(crate) netns: u32,
    /// The interface the socket is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ifindex: Option<u32>,
    /// How the owner is known.
    pub(crate) owner_source: Word<OwnerSource>,
    /// Start of the process, ns since boot: with the pid, a name no other process
    /// of this boot ever has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("pattern" = "^[0-9]+$")))]
    pub(crate) process_start_boottime_ns: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<Cgroup<'a>>,
    /// The systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Cow<'a, str>>,
    /// The port; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<Port>,
    /// The service of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Service>,
    /// The class of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port_class: Option<Word<PortClass>>,
    /// Who can reach the address.
    pub(crate) scope: Word<Scope>,
    /// When it opened; absent where that was before the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("format" = "date-time")))]
    pub(crate) opened: Option<Rfc3339>,
    /// When it closed; absent where it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("format" = "date-time")))]
    pub(crate) closed: Option<Rfc3339>,
    /// How long it was open during the audit.
    pub(crate) watched_ms: u64,
    /// Who came in; absent where nobody watched, or the port is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<Uses>,
    /// Absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Word<Verdict>>,
    /// What is done about a violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enforcement: Option<Word<Enforcement>>,
    /// Fields without a value, and why.
    #[serde(default, skip_serializing_if = "Missing::is_empty")]
    pub(crate) missing: Missing,
    /// Fields that are not UTF-8, as hexadecimal bytes.
    #[serde(default, skip_serializing_if = "Raw::is_empty")]
    pub(crate) raw: Raw<'a>,
}

/// Connections accepted at a listener while it was watched.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Uses {
    /// A lower bound where events were lost.
    pub(crate) accepts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("format" = "date-time")))]
    pub(crate) first_accept: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("format" = "date-time")))]
    pub(crate) last_accept: Option<Rfc3339>,
    /// Addresses they came from.
    pub(crate) distinct_peers: usize,
    /// There were more of them than that.
    pub(crate) distinct_peers_capped: bool,
    /// Some accepts are counted at each of several sockets that share the address:
    /// which of them accepted is not known.
    pub(crate) shared: bool,
}

/// What the summary of an audit says of listeners.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct AuditFacts {
    /// Lines of listeners in the stream.
    pub(crate) listed: usize,
    /// Open listeners by scope, listed or not.
    pub(crate) open: BTreeMap<Cow<'static, str>, u64>,
    /// Listeners that closed during the audit.
    pub(crate) closed: u64,
    /// Closed listeners that were forgotten, being too many.
    pub(crate) forgotten: u64,
    /// Open listeners whose port, and so whose use, is not known.
    pub(crate) unknown_use: u64,
    /// Accepts that could not be assigned to a listener.
    pub(crate) stray_accepts: u64,
}
