//! The shape of a JSON line. The published JSON Schema and most lines come from
//! these types. The lines of events are written by hand, for speed, and tests
//! hold them to what serializing `Connection` gives. Field names are those of
//! the Elastic Common Schema; what it has no name for is under `port_monitor`.
//!
//! New fields may appear at any time and readers must ignore what they do not
//! know; [`VERSION`] is raised when a field changes its meaning or goes.

#![cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "events are written by hand, and compared with these types by tests"
    )
)]

pub(crate) mod facts;
pub(crate) mod listeners;
mod portable;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::IpAddr};

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

use super::wire::{
    facts::{Decimal, Facts, LossFacts, StartFacts, SummaryFacts},
    listeners::DoorLine,
};
use crate::{base::time::Rfc3339, events::community_id::CommunityId};

/// `port_monitor.schema` of every line.
pub const VERSION: u32 = 1;

/// The release of the Elastic Common Schema the names are from.
const ECS_VERSION: &str = "9.4.0";

/// The JSON Schema of a line, draft 2020-12.
pub fn json_schema() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(portable::Portable)
        .into_generator()
        .into_root_schema_for::<Line<'static>>()
}

/// One line of port-monitor's JSON stream. The first line is a start, the last
/// one a summary. A field that is absent has no value; where there is one that
/// could not be found out, `port_monitor.missing` names the field and why.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(title = "port-monitor event stream")]
pub(crate) enum Line<'a> {
    Start(Start<'a>),
    Connection(Connection<'a>),
    Door(DoorLine<'a>),
    Loss(LossLine<'a>),
    Summary(SummaryLine<'a>),
}

/// The start of the stream: what is watched, and how.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Start<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(crate) timestamp: Rfc3339,
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<StartAction>,
    pub(crate) agent: Agent<'a>,
    pub(crate) host: StartHost<'a>,
    pub(crate) port_monitor: StartFacts<'a>,
}

/// A connection attempt, its outcome, an accepted connection, the end of either,
/// or a socket that listens.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Connection<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(crate) timestamp: Rfc3339,
    pub(crate) ecs: Ecs,
    pub(crate) event: ConnectionEvent,
    pub(crate) network: Network,
    /// The end that opened the connection; absent where a socket listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<End>,
    /// The end that accepted it, or listens.
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
    /// Why the attempt failed, or the connection broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure<'a>>,
    pub(crate) port_monitor: Facts<'a>,
}

/// A gap: events that are missing from the stream.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LossLine<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(crate) timestamp: Rfc3339,
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<LossAction>,
    pub(crate) host: Host<'a>,
    pub(crate) port_monitor: LossFacts,
}

/// The end of the stream: the final account.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SummaryLine<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(crate) timestamp: Rfc3339,
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<SummaryAction>,
    pub(crate) host: Host<'a>,
    pub(crate) port_monitor: SummaryFacts,
}

/// The version of the field names.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ecs {
    version: &'static str,
}

impl Ecs {
    pub(crate) const CURRENT: Self = Self {
        version: ECS_VERSION,
    };
}

/// Kinds of lines.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A connection.
    Event,
    /// A connection that breaks the policy.
    Alert,
    /// Facts of the run.
    State,
    /// Final counts.
    Metric,
}

/// A line about the stream itself.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StreamEvent<Action> {
    pub(crate) kind: Kind,
    pub(crate) action: Action,
    pub(crate) dataset: StreamDataset,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum StartAction {
    #[serde(rename = "start")]
    Start,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum LossAction {
    #[serde(rename = "loss")]
    Loss,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum SummaryAction {
    #[serde(rename = "summary")]
    Summary,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum StreamDataset {
    #[serde(rename = "port_monitor.stream")]
    Stream,
}

#[derive(Serialize, JsonSchema)]
pub(crate) enum ConnectionDataset {
    #[serde(rename = "port_monitor.connection")]
    Connection,
}

/// What happened to the connection.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConnectionEvent {
    pub(crate) kind: Kind,
    pub(crate) category: [Category; 1],
    #[serde(rename = "type")]
    pub(crate) types: [EventType; 2],
    pub(crate) action: ConnectionAction,
    pub(crate) outcome: Outcome,
    /// From the attempt or the accept to the end, ns; only of a close, and where
    /// the beginning was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration: Option<u64>,
    pub(crate) dataset: ConnectionDataset,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Category {
    Network,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventType {
    Connection,
    /// The connection begins: an attempt, an accept, or it was restored. Or a socket listens.
    Start,
    /// More is known of an attempt; or, first of the two: a socket begins or ends
    /// to listen.
    Info,
    /// It is over.
    End,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectionAction {
    /// This host is about to send a SYN.
    Connect,
    /// The handshake of an attempt is complete.
    Connected,
    /// An attempt came to nothing.
    Failed,
    /// This host accepted a connection.
    Accept,
    /// An established connection has ended.
    Close,
    /// The socket was there before the monitor.
    Preexisting,
    /// A socket listens from now on.
    Listen,
    /// A socket does not listen any more.
    Unlisten,
    /// A process put a connection into a socket by `TCP_REPAIR`: no packet told its peer.
    Restored,
    /// A connection is still open, with `--progress`: what it has carried so far.
    Progress,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// An attempt: the outcome is another event.
    Unknown,
}

/// The flow.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Network {
    pub(crate) transport: Transport,
    #[serde(rename = "type")]
    pub(crate) family: Family,
    pub(crate) direction: Direction,
    /// Community ID, version 1, seed 0; absent while a port is not chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) community_id: Option<CommunityId>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
    Tcp,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// A peer opened the connection.
    Ingress,
    /// This host opened it.
    Egress,
}

/// One end of the connection.
#[derive(Serialize, JsonSchema)]
pub(crate) struct End {
    pub(crate) ip: IpAddr,
    /// Absent while the kernel has not chosen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Payload bytes it has sent, each once; only of a close, or so far, of progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
}

/// The owner of this host's end.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Process<'a> {
    pub(crate) pid: u32,
    /// The thread that acted.
    pub(crate) thread: Thread<'a>,
    /// Name of the process: that of its first thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<Cow<'a, str>>,
    /// How it was called, without passwords and tokens in their usual places; only with
    /// `--process-args`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) args: Option<&'a [String]>,
    /// By the time that the process was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Parent<'a>>,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(crate) start: Rfc3339,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Thread<'a> {
    pub(crate) id: u32,
    pub(crate) name: Cow<'a, str>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Parent<'a> {
    pub(crate) pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
    /// To the kernel's tick, 10 ms mostly.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) start: Option<Rfc3339>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct User<'a> {
    #[schemars(with = "String")]
    pub(crate) id: Decimal,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Group {
    #[schemars(with = "String")]
    pub(crate) id: Decimal,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Container<'a> {
    pub(crate) id: &'a str,
    pub(crate) runtime: &'a str,
}

/// The Kubernetes pod of the container.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Orchestrator<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) resource: Resource<'a>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Resource<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The pod's uid.
    pub(crate) id: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Host<'a> {
    pub(crate) name: &'a str,
}

/// The host, at the start of the stream.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StartHost<'a> {
    pub(crate) name: &'a str,
    pub(crate) boot: Boot<'a>,
    pub(crate) os: Os<'a>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Boot<'a> {
    /// Boot times and connection ids of the stream belong to this boot.
    pub(crate) id: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Os<'a> {
    pub(crate) kernel: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Agent<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) version: &'a str,
}

/// What decided.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Rule<'a> {
    /// Absent when the direction's default decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    /// The policy file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ruleset: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Failure<'a> {
    /// The errno's name, or its number; absent when the socket was closed before
    /// any answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<Cow<'a, str>>,
    pub(crate) message: &'static str,
}
