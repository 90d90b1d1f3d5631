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

mod portable;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::IpAddr};

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

use super::{
    community_id::CommunityId,
    doors::schema::DoorLine,
    facts::{Decimal, Facts, LossFacts, StartFacts, SummaryFacts},
    time::Rfc3339,
};

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
pub(super) enum Line<'a> {
    Start(Start<'a>),
    Connection(Connection<'a>),
    Door(DoorLine<'a>),
    Loss(LossLine<'a>),
    Summary(SummaryLine<'a>),
}

/// The start of the stream: what is watched, and how.
#[derive(Serialize, JsonSchema)]
pub(super) struct Start<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) timestamp: Rfc3339,
    pub(super) ecs: Ecs,
    pub(super) event: StreamEvent<StartAction>,
    pub(super) agent: Agent<'a>,
    pub(super) host: StartHost<'a>,
    pub(super) port_monitor: StartFacts<'a>,
}

/// A connection attempt, its outcome, an accepted connection, the end of either,
/// or a socket that listens.
#[derive(Serialize, JsonSchema)]
pub(super) struct Connection<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) timestamp: Rfc3339,
    pub(super) ecs: Ecs,
    pub(super) event: ConnectionEvent,
    pub(super) network: Network,
    /// The end that opened the connection; absent where a socket listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<End>,
    /// The end that accepted it, or listens.
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
    /// Why the attempt failed, or the connection broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Failure<'a>>,
    pub(super) port_monitor: Facts<'a>,
}

/// A gap: events that are missing from the stream.
#[derive(Serialize, JsonSchema)]
pub(super) struct LossLine<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) timestamp: Rfc3339,
    pub(super) ecs: Ecs,
    pub(super) event: StreamEvent<LossAction>,
    pub(super) host: Host<'a>,
    pub(super) port_monitor: LossFacts,
}

/// The end of the stream: the final account.
#[derive(Serialize, JsonSchema)]
pub(super) struct SummaryLine<'a> {
    #[serde(rename = "@timestamp")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) timestamp: Rfc3339,
    pub(super) ecs: Ecs,
    pub(super) event: StreamEvent<SummaryAction>,
    pub(super) host: Host<'a>,
    pub(super) port_monitor: SummaryFacts,
}

/// The version of the field names.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ecs {
    version: &'static str,
}

impl Ecs {
    pub(super) const CURRENT: Self = Self {
        version: ECS_VERSION,
    };
}

/// Kinds of lines.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
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
pub(super) struct StreamEvent<Action> {
    pub(super) kind: Kind,
    pub(super) action: Action,
    pub(super) dataset: StreamDataset,
}

#[derive(Serialize, JsonSchema)]
pub(super) enum StartAction {
    #[serde(rename = "start")]
    Start,
}

#[derive(Serialize, JsonSchema)]
pub(super) enum LossAction {
    #[serde(rename = "loss")]
    Loss,
}

#[derive(Serialize, JsonSchema)]
pub(super) enum SummaryAction {
    #[serde(rename = "summary")]
    Summary,
}

#[derive(Serialize, JsonSchema)]
pub(super) enum StreamDataset {
    #[serde(rename = "port_monitor.stream")]
    Stream,
}

#[derive(Serialize, JsonSchema)]
pub(super) enum ConnectionDataset {
    #[serde(rename = "port_monitor.connection")]
    Connection,
}

/// What happened to the connection.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConnectionEvent {
    pub(super) kind: Kind,
    pub(super) category: [Category; 1],
    #[serde(rename = "type")]
    pub(super) types: [EventType; 2],
    pub(super) action: ConnectionAction,
    pub(super) outcome: Outcome,
    /// From the attempt or the accept to the end, ns; only of a close, and where
    /// the beginning was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<u64>,
    pub(super) dataset: ConnectionDataset,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Category {
    Network,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EventType {
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
pub(super) enum ConnectionAction {
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
pub(super) enum Outcome {
    Success,
    Failure,
    /// An attempt: the outcome is another event.
    Unknown,
}

/// The flow.
#[derive(Serialize, JsonSchema)]
pub(super) struct Network {
    pub(super) transport: Transport,
    #[serde(rename = "type")]
    pub(super) family: Family,
    pub(super) direction: Direction,
    /// Community ID, version 1, seed 0; absent while a port is not chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(super) community_id: Option<CommunityId>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transport {
    Tcp,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    /// A peer opened the connection.
    Ingress,
    /// This host opened it.
    Egress,
}

/// One end of the connection.
#[derive(Serialize, JsonSchema)]
pub(super) struct End {
    pub(super) ip: IpAddr,
    /// Absent while the kernel has not chosen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    /// Payload bytes it has sent, each once; only of a close, or so far, of progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
}

/// The owner of this host's end.
#[derive(Serialize, JsonSchema)]
pub(super) struct Process<'a> {
    pub(super) pid: u32,
    /// The thread that acted.
    pub(super) thread: Thread<'a>,
    /// Name of the process: that of its first thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) executable: Option<Cow<'a, str>>,
    /// How it was called, without passwords and tokens in their usual places; only with
    /// `--process-args`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) args: Option<&'a [String]>,
    /// By the time that the process was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Parent<'a>>,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) start: Rfc3339,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Thread<'a> {
    pub(super) id: u32,
    pub(super) name: Cow<'a, str>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Parent<'a> {
    pub(super) pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<Cow<'a, str>>,
    /// To the kernel's tick, 10 ms mostly.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(super) start: Option<Rfc3339>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct User<'a> {
    #[schemars(with = "String")]
    pub(super) id: Decimal,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Group {
    #[schemars(with = "String")]
    pub(super) id: Decimal,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Container<'a> {
    pub(super) id: &'a str,
    pub(super) runtime: &'a str,
}

/// The Kubernetes pod of the container.
#[derive(Serialize, JsonSchema)]
pub(super) struct Orchestrator<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) resource: Resource<'a>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Resource<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// The pod's uid.
    pub(super) id: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Host<'a> {
    pub(super) name: &'a str,
}

/// The host, at the start of the stream.
#[derive(Serialize, JsonSchema)]
pub(super) struct StartHost<'a> {
    pub(super) name: &'a str,
    pub(super) boot: Boot<'a>,
    pub(super) os: Os<'a>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Boot<'a> {
    /// Boot times and connection ids of the stream belong to this boot.
    pub(super) id: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Os<'a> {
    pub(super) kernel: &'a str,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Agent<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) version: &'a str,
}

/// What decided.
#[derive(Serialize, JsonSchema)]
pub(super) struct Rule<'a> {
    /// Absent when the direction's default decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    /// The policy file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ruleset: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Failure<'a> {
    /// The errno's name, or its number; absent when the socket was closed before
    /// any answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<Cow<'a, str>>,
    pub(super) message: &'static str,
}
