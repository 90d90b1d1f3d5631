//! The shape of the JSON lines that only an audit has: those of its doors, and
//! what its summary says of them. The other lines are those of every stream.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::sink::{
    facts::{
        Cgroup, Decimal, Enforcement, Hex, Missing, OwnerSource, Port, PortClass, Raw, Service,
        Verdict,
    },
    schema::{
        Category, Container, Ecs, End, EventType, Group, Host, Kind, Network, Orchestrator,
        Process, Rule, User,
    },
    time::Rfc3339,
};

/// A socket that listens, at the end of an audit.
#[derive(Serialize, JsonSchema)]
pub(in crate::sink) struct DoorLine<'a> {
    /// When the audit ended.
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) timestamp: Rfc3339,
    pub(super) ecs: Ecs,
    pub(super) event: DoorEvent,
    pub(super) network: Network,
    /// Where it listens.
    pub(super) destination: End,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) orchestrator: Option<Orchestrator<'a>>,
    pub(super) host: Host<'a>,
    /// The policy's word; absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Rule<'a>>,
    pub(super) port_monitor: DoorFacts<'a>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::sink) struct DoorEvent {
    pub(super) kind: Kind,
    pub(super) category: [Category; 1],
    #[serde(rename = "type")]
    pub(super) types: [EventType; 1],
    pub(super) action: DoorAction,
    pub(super) dataset: DoorDataset,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::sink) enum DoorAction {
    #[serde(rename = "door")]
    Door,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::sink) enum DoorDataset {
    #[serde(rename = "port_monitor.door")]
    Door,
}

/// Of a door.
#[derive(Serialize, JsonSchema)]
pub(in crate::sink) struct DoorFacts<'a> {
    pub(super) schema: u32,
    /// Names the listening socket, as in the events of a stream.
    #[schemars(with = "String", extend("pattern" = "^[0-9a-f]{16}$"))]
    pub(super) id: Hex,
    /// Inode number of the socket's network namespace.
    pub(super) netns: u32,
    /// The interface the socket is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ifindex: Option<u32>,
    /// How the owner is known.
    pub(super) owner_source: OwnerSource,
    /// Start of the process, ns since boot: with the pid, a name no other process
    /// of this boot ever has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("pattern" = "^[0-9]+$"))]
    pub(super) process_start_boottime_ns: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<Cgroup<'a>>,
    /// The systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<&'a str>,
    /// The port; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) local: Option<Port>,
    /// The service of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<Service>,
    /// The class of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port_class: Option<PortClass>,
    /// Who can reach the address.
    pub(super) scope: Scope,
    /// When it opened; absent where that was before the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(super) opened: Option<Rfc3339>,
    /// When it closed; absent where it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(super) closed: Option<Rfc3339>,
    /// How long it was open during the audit.
    pub(super) watched_ms: u64,
    /// Who came in; absent where nobody watched, or the port is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uses: Option<Uses>,
    /// Absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<Verdict>,
    /// What is done about a violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enforcement: Option<Enforcement>,
    /// Fields without a value, and why.
    #[serde(skip_serializing_if = "Missing::is_empty")]
    pub(super) missing: Missing,
    /// Fields that are not UTF-8, as hexadecimal bytes.
    #[serde(skip_serializing_if = "Raw::is_empty")]
    pub(super) raw: Raw<'a>,
}

/// Connections accepted at a door while it was watched.
#[derive(Serialize, JsonSchema)]
pub(in crate::sink) struct Uses {
    /// A lower bound where events were lost.
    pub(super) accepts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(super) first_accept: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(super) last_accept: Option<Rfc3339>,
    /// Addresses they came from.
    pub(super) distinct_peers: usize,
    /// There were more of them than that.
    pub(super) distinct_peers_capped: bool,
    /// Some accepts are counted at each of several sockets that share the address:
    /// which of them accepted is not known.
    pub(super) shared: bool,
}

/// Who can reach a listening address.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::sink) enum Scope {
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
pub(in crate::sink) struct AuditFacts {
    /// Lines of doors in the stream.
    pub(in crate::sink) listed: usize,
    /// Open doors by scope, listed or not.
    pub(in crate::sink) open: BTreeMap<&'static str, u64>,
    /// Doors that closed during the audit.
    pub(in crate::sink) closed: u64,
    /// Closed doors that were forgotten, being too many.
    pub(in crate::sink) forgotten: u64,
    /// Open doors whose port, and so whose use, is not known.
    pub(in crate::sink) unknown_use: u64,
    /// Accepts that could not be assigned to a door.
    pub(in crate::sink) stray_accepts: u64,
}
