//! The shape of a JSON line. The published JSON Schema (`schema.json`) and most lines come from
//! these types. The lines of events are written by hand, for speed, and tests
//! hold them to what serializing `Connection` gives. Field names are those of
//! the Elastic Common Schema; what it has no name for is under `port_monitor`.
//!
//! New fields may appear at any time and readers must ignore what they do not
//! know; [`VERSION`] is raised when a field changes its meaning or goes, and
//! `SCHEMA_CHANGES.md` says how.

pub(crate) mod facts;
pub(crate) mod listeners;
#[cfg(test)]
pub(crate) mod schema;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Serialize};

use self::{
    facts::{Decimal, Facts, LossFacts, PolicyFacts, StartFacts, SummaryFacts},
    listeners::ListenerLine,
    words::{
        Category, ConnectionAction, ConnectionDataset, Direction, EventType, Family, Kind,
        LossAction, Outcome, PolicyAction, Spelled, StartAction, StreamDataset, SummaryAction,
        Transport, Word,
    },
};
use crate::{base::time::Rfc3339, events::community_id::CommunityId};

/// `port_monitor.schema` of every line.
pub const VERSION: u32 = 2;

/// The release of the Elastic Common Schema the names are from.
const ECS_VERSION: &str = "9.4.0";

/// The JSON Schema of a line, draft 2020-12: what `schema::of_types` makes of these types, and a
/// test holds it to that.
pub(crate) const JSON_SCHEMA: &str = include_str!("schema.json");

/// One line of port-monitor's JSON stream. The first line is a start, the last
/// one a summary. A field that is absent has no value; where there is one that
/// could not be found out, `port_monitor.missing` names the field and why.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
#[cfg_attr(test, schemars(title = "port-monitor event stream"))]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time: it is written at once, or read into a box"
)]
pub(crate) enum Line<'a> {
    Start(Start<'a>),
    Connection(Connection<'a>),
    Listener(ListenerLine<'a>),
    Policy(PolicyLine<'a>),
    Loss(LossLine<'a>),
    Summary(SummaryLine<'a>),
}

/// The start of the stream: what is watched, and how.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Start<'a> {
    #[serde(rename = "@timestamp")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub(crate) timestamp: Rfc3339,
    #[serde(default)]
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<StartAction>,
    #[serde(default)]
    pub(crate) agent: Agent<'a>,
    #[serde(default)]
    pub(crate) host: StartHost<'a>,
    pub(crate) port_monitor: StartFacts<'a>,
}

/// A connection attempt, its outcome, an accepted connection, the end of either,
/// or a socket that listens.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Connection<'a> {
    #[serde(rename = "@timestamp")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub(crate) timestamp: Rfc3339,
    #[serde(default)]
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
    #[serde(default)]
    pub(crate) host: Host<'a>,
    /// The policy's word; absent without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<Rule<'a>>,
    /// Why the attempt failed, or the connection broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure<'a>>,
    pub(crate) port_monitor: Facts<'a>,
}

/// Events may be judged by another policy from here on. Those that come after it and were
/// judged before say so in `rule`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PolicyLine<'a> {
    #[serde(rename = "@timestamp")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub(crate) timestamp: Rfc3339,
    #[serde(default)]
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<PolicyAction>,
    #[serde(default)]
    pub(crate) host: Host<'a>,
    pub(crate) port_monitor: PolicyFacts<'a>,
}

/// A gap: events that are missing from the stream.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LossLine<'a> {
    #[serde(rename = "@timestamp")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub(crate) timestamp: Rfc3339,
    #[serde(default)]
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<LossAction>,
    #[serde(default)]
    pub(crate) host: Host<'a>,
    pub(crate) port_monitor: LossFacts,
}

/// The end of the stream: the final account.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SummaryLine<'a> {
    #[serde(rename = "@timestamp")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub(crate) timestamp: Rfc3339,
    #[serde(default)]
    pub(crate) ecs: Ecs,
    pub(crate) event: StreamEvent<SummaryAction>,
    #[serde(default)]
    pub(crate) host: Host<'a>,
    pub(crate) port_monitor: SummaryFacts,
}

/// The version of the field names.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Ecs {
    version: Cow<'static, str>,
}

impl Ecs {
    pub(crate) const CURRENT: Self = Self {
        version: Cow::Borrowed(ECS_VERSION),
    };
}

/// A line about the stream itself.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(bound = "")]
#[cfg_attr(test, schemars(bound = ""))]
pub(crate) struct StreamEvent<Action: Spelled> {
    #[serde(default)]
    pub(crate) kind: Word<Kind>,
    pub(crate) action: Word<Action>,
    pub(crate) dataset: Word<StreamDataset>,
}

/// What happened to the connection.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConnectionEvent {
    #[serde(default)]
    pub(crate) kind: Word<Kind>,
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "[Word<Category>; 1]"))]
    pub(crate) category: Vec<Word<Category>>,
    #[serde(rename = "type", default)]
    #[cfg_attr(test, schemars(with = "[Word<EventType>; 2]"))]
    pub(crate) types: Vec<Word<EventType>>,
    pub(crate) action: Word<ConnectionAction>,
    #[serde(default)]
    pub(crate) outcome: Word<Outcome>,
    /// From the attempt or the accept to the event, ns, where the beginning was seen; only of
    /// a close, of progress, and of what is open already where a service tells its events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration: Option<u64>,
    pub(crate) dataset: Word<ConnectionDataset>,
}

/// The flow.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Network {
    #[serde(default)]
    pub(crate) transport: Word<Transport>,
    #[serde(rename = "type", default)]
    pub(crate) family: Word<Family>,
    pub(crate) direction: Word<Direction>,
    /// Community ID, version 1, seed 0; absent while a port is not chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) community_id: Option<CommunityId>,
}

/// One end of the connection.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Process<'a> {
    #[serde(default)]
    pub(crate) pid: u32,
    /// The thread that acted; absent in lines of a history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thread: Option<Thread<'a>>,
    /// Name of the process: that of its first thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<Cow<'a, str>>,
    /// How it was called, without passwords and tokens in their usual places; only with
    /// `--process-args`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) args: Option<Cow<'a, [String]>>,
    /// By the time that the process was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Parent<'a>>,
    /// When it started; absent in lines of a history.
    #[cfg_attr(test, schemars(with = "Option<String>", extend("format" = "date-time")))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<Rfc3339>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Thread<'a> {
    pub(crate) id: u32,
    pub(crate) name: Cow<'a, str>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Parent<'a> {
    pub(crate) pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
    /// To the kernel's tick, 10 ms mostly.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", extend("format" = "date-time")))]
    pub(crate) start: Option<Rfc3339>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct User<'a> {
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) id: Decimal,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Group {
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) id: Decimal,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Container<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) runtime: Cow<'a, str>,
}

/// The Kubernetes pod of the container.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Orchestrator<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: Cow<'static, str>,
    pub(crate) resource: Resource<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Resource<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: Cow<'static, str>,
    /// The pod's uid.
    pub(crate) id: Cow<'a, str>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Host<'a> {
    pub(crate) name: Cow<'a, str>,
}

/// The host, at the start of the stream.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StartHost<'a> {
    #[serde(default)]
    pub(crate) name: Cow<'a, str>,
    #[serde(default)]
    pub(crate) boot: Boot<'a>,
    #[serde(default)]
    pub(crate) os: Os<'a>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Boot<'a> {
    /// Boot times and connection ids of the stream belong to this boot.
    pub(crate) id: Cow<'a, str>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Os<'a> {
    pub(crate) kernel: Cow<'a, str>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Agent<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: Cow<'static, str>,
    pub(crate) version: Cow<'a, str>,
}

/// What decided.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Rule<'a> {
    /// Absent when the direction's default decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Cow<'a, str>>,
    /// The policy file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ruleset: Option<Cow<'a, str>>,
    /// Which text of it: the first 12 digits of `policy_sha256`; absent in lines of a history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Failure<'a> {
    /// The errno's name, or its number; absent when the socket was closed before
    /// any answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<Cow<'a, str>>,
    pub(crate) message: Cow<'static, str>,
}
