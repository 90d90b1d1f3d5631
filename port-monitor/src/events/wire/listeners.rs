//! The shape of the JSON lines that only an audit has: those of its doors, and
//! what its summary says of them. The other lines are those of every stream.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    base::time::Rfc3339,
    events::wire::{
        Category, Container, Ecs, End, EventType, Group, Host, Kind, Network, Orchestrator,
        Process, Rule, User,
        facts::{
            Cgroup, Decimal, Enforcement, Hex, Missing, OwnerSource, Port, PortClass, Raw, Service,
            Verdict,
        },
    },
};

/// A socket that listens, at the end of an audit.
#[derive(Serialize, JsonSchema)]
pub(crate) struct DoorLine<'a> {
    /// When the audit ended.
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(crate) timestamp: Rfc3339,
    pub(crate) ecs: Ecs,
    pub(crate) event: DoorEvent,
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
    pub(crate) port_monitor: DoorFacts<'a>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct DoorEvent {
    pub(crate) kind: Kind,
    pub(crate) category: [Category; 1],
    #[serde(rename = "type")]
    pub(crate) types: [EventType; 1],
    pub(crate) action: DoorAction,
    pub(crate) dataset: DoorDataset,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum DoorAction {
    #[serde(rename = "door")]
    Door,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum DoorDataset {
    #[serde(rename = "port_monitor.door")]
    Door,
}

/// Of a door.
#[derive(Serialize, JsonSchema)]
pub(crate) struct DoorFacts<'a> {
    pub(crate) schema: u32,
    /// Names the listening socket, as in the events of a stream.
    #[schemars(with = "String", extend("pattern" = "^[0-9a-f]{16}$"))]
    pub(crate) id: Hex,
    /// Inode number of the socket's network namespace.
    pub(crate) netns: u32,
    /// The interface the socket is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ifindex: Option<u32>,
    /// How the owner is known.
    pub(crate) owner_source: OwnerSource,
    /// Start of the process, ns since boot: with the pid, a name no other process
    /// of this boot ever has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("pattern" = "^[0-9]+$"))]
    pub(crate) process_start_boottime_ns: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<Cgroup<'a>>,
    /// The systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<&'a str>,
    /// The port; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<Port>,
    /// The service of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Service>,
    /// The class of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port_class: Option<PortClass>,
    /// Who can reach the address.
    pub(crate) scope: Scope,
    /// When it opened; absent where that was before the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) opened: Option<Rfc3339>,
    /// When it closed; absent where it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) closed: Option<Rfc3339>,
    /// How long it was open during the audit.
    pub(crate) watched_ms: u64,
    /// Who came in; absent where nobody watched, or the port is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<Uses>,
    /// Absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Verdict>,
    /// What is done about a violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enforcement: Option<Enforcement>,
    /// Fields without a value, and why.
    #[serde(skip_serializing_if = "Missing::is_empty")]
    pub(crate) missing: Missing,
    /// Fields that are not UTF-8, as hexadecimal bytes.
    #[serde(skip_serializing_if = "Raw::is_empty")]
    pub(crate) raw: Raw<'a>,
}

/// Connections accepted at a door while it was watched.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Uses {
    /// A lower bound where events were lost.
    pub(crate) accepts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) first_accept: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) last_accept: Option<Rfc3339>,
    /// Addresses they came from.
    pub(crate) distinct_peers: usize,
    /// There were more of them than that.
    pub(crate) distinct_peers_capped: bool,
    /// Some accepts are counted at each of several sockets that share the address:
    /// which of them accepted is not known.
    pub(crate) shared: bool,
}

/// Who can reach a listening address.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// It is every address of the host.
    Any,
    /// Whoever routes and firewalls let through.
    Public,
    /// Private networks (RFC 1918, RFC 4193, RFC 6598) and link-local ones.
    Private,
    /// This host only.
    Loopback,
}

/// What the summary of an audit says of doors.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AuditFacts {
    /// Lines of doors in the stream.
    pub(crate) listed: usize,
    /// Open doors by scope, listed or not.
    pub(crate) open: BTreeMap<&'static str, u64>,
    /// Doors that closed during the audit.
    pub(crate) closed: u64,
    /// Closed doors that were forgotten, being too many.
    pub(crate) forgotten: u64,
    /// Open doors whose port, and so whose use, is not known.
    pub(crate) unknown_use: u64,
    /// Accepts that could not be assigned to a door.
    pub(crate) stray_accepts: u64,
}
