//! JSON Lines in Elastic Common Schema shape. The shape is in [`crate::events::wire`];
//! here it is filled in: for events by hand in `connection`, for the few other
//! lines by serializing it.

#[cfg(test)]
pub(crate) mod any;
mod connection;
mod flow;
mod ip;
mod line;
mod missing;
mod owner;
mod peer;
mod port;
mod raw;
pub(crate) mod record;
mod ruleset;
mod spec;

use std::borrow::Cow;

use self::connection::Connections;
pub(crate) use self::spec::{connection, connection_of};
use crate::{
    base::time::Rfc3339,
    consume::{Lines, Sink},
    events::{
        record::{Header, Item, LoadedPolicy, Loss, Summary},
        wire::{
            self, Ecs, Line, VERSION, facts,
            words::{Kind, LossAction, PolicyAction, StartAction, StreamDataset, SummaryAction},
        },
    },
};

/// Writes JSON Lines.
#[derive(Debug)]
pub struct Json {
    /// From the header: every line names the host.
    host: String,
    connections: Connections,
}

impl Json {
    /// A stream that has not begun.
    pub fn new() -> Self {
        Self {
            host: String::new(),
            connections: Connections::new("", None),
        }
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink for Json {
    fn write(&mut self, lines: &mut Lines, item: Item<'_>) {
        let out = &mut lines.bytes;
        let host = wire::Host {
            name: Cow::Borrowed(&self.host),
        };
        match item {
            Item::Header(header) => {
                self.host.clone_from(&header.host);
                self.connections = Connections::new(&header.host, header.policy.as_deref());
                line::serialize(out, &Line::Start(start(header)));
            }
            Item::Policy(header) => {
                let Some(policy) = policy_line(header, host) else {
                    return;
                };
                line::serialize(out, &Line::Policy(policy));
                self.connections.judged_by(header.policy.as_deref());
            }
            Item::Event(record) => self.connections.write(out, record),
            Item::Loss(loss) => line::serialize(out, &Line::Loss(loss_line(loss, host))),
            Item::Summary(summary) => {
                line::serialize(out, &Line::Summary(summary_line(summary, host)));
            }
        }
        out.push(b'\n');
        if let Item::Event(_) = item {
            lines.count_event();
        }
    }
}

/// A line of its own.
pub(crate) fn line_of(line: &Line<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    push_line(&mut out, line);
    out
}

/// Appends a line that is not an event's.
pub(crate) fn push_line(out: &mut Vec<u8>, line: &Line<'_>) {
    line::serialize(out, line);
    out.push(b'\n');
}

fn start(header: &Header) -> wire::Start<'_> {
    let Header {
        wall_ns,
        boot_ns: _,
        version,
        host,
        kernel,
        boot_id,
        backend,
        blind_spots,
        unproven,
        waiting,
        policy,
        policy_loaded,
    } = header;
    wire::Start {
        timestamp: Rfc3339(*wall_ns),
        ecs: Ecs::CURRENT,
        event: wire::StreamEvent {
            kind: Kind::State.into(),
            action: StartAction::Start.into(),
            dataset: StreamDataset::Stream.into(),
        },
        agent: wire::Agent {
            kind: Cow::Borrowed("port-monitor"),
            version: Cow::Borrowed(version),
        },
        host: wire::StartHost {
            name: Cow::Borrowed(host),
            boot: wire::Boot {
                id: Cow::Borrowed(boot_id),
            },
            os: wire::Os {
                kernel: Cow::Borrowed(kernel),
            },
        },
        port_monitor: facts::StartFacts {
            schema: VERSION,
            backend: Cow::Borrowed(backend),
            blind_spots: Cow::Borrowed(blind_spots),
            unproven: Cow::Borrowed(unproven),
            waiting: Cow::Borrowed(waiting),
            policy: policy.as_deref().map(Cow::Borrowed),
            policy_sha256: policy_loaded.as_ref().map(sha256),
            policy_number: policy_loaded.as_ref().map(|loaded| loaded.number),
        },
    }
}

fn sha256(loaded: &LoadedPolicy) -> facts::HexBytes<'_> {
    facts::HexBytes(Cow::Borrowed(&loaded.digest))
}

/// Another policy, if that is known.
fn policy_line<'a>(header: &'a Header, host: wire::Host<'a>) -> Option<wire::PolicyLine<'a>> {
    let (policy, loaded) = header
        .policy
        .as_deref()
        .zip(header.policy_loaded.as_ref())?;
    Some(wire::PolicyLine {
        timestamp: Rfc3339(loaded.wall_ns),
        ecs: Ecs::CURRENT,
        event: wire::StreamEvent {
            kind: Kind::State.into(),
            action: PolicyAction::Policy.into(),
            dataset: StreamDataset::Stream.into(),
        },
        host,
        port_monitor: facts::PolicyFacts {
            schema: VERSION,
            policy: Cow::Borrowed(policy),
            policy_sha256: sha256(loaded),
            policy_number: loaded.number,
        },
    })
}

/// A gap.
pub(crate) fn loss_line<'a>(loss: &Loss, host: wire::Host<'a>) -> wire::LossLine<'a> {
    let Loss {
        wall_ns,
        lost,
        total,
        cause,
    } = *loss;
    wire::LossLine {
        timestamp: Rfc3339(wall_ns),
        ecs: Ecs::CURRENT,
        event: wire::StreamEvent {
            kind: Kind::Event.into(),
            action: LossAction::Loss.into(),
            dataset: StreamDataset::Stream.into(),
        },
        host,
        port_monitor: facts::LossFacts {
            schema: VERSION,
            lost,
            total,
            cause: cause.into(),
            alert: None,
        },
    }
}

/// The account.
pub(crate) fn summary_line<'a>(summary: &Summary, host: wire::Host<'a>) -> wire::SummaryLine<'a> {
    wire::SummaryLine {
        timestamp: Rfc3339(summary.wall_ns),
        ecs: Ecs::CURRENT,
        event: wire::StreamEvent {
            kind: Kind::Metric.into(),
            action: SummaryAction::Summary.into(),
            dataset: StreamDataset::Stream.into(),
        },
        host,
        port_monitor: summary_facts(summary),
    }
}

fn summary_facts(summary: &Summary) -> facts::SummaryFacts {
    let Summary {
        wall_ns: _,
        duration,
        looks: _,
        not_ours,
        failures,
        hooks,
        received,
        undecodable: _,
        hidden,
        shown,
        lost_at_output: _,
        unowned: _,
        consumers,
        violations,
        accept_preattach,
        command_status,
    } = summary;
    facts::SummaryFacts {
        schema: VERSION,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        entered: summary.entered(),
        not_ours: *not_ours,
        gave_up: summary.gave_up(),
        seen: summary.seen(),
        shown: *shown,
        filtered: summary.filtered(),
        lost: summary.lost(),
        adds_up: summary.adds_up(),
        hooks: hooks
            .iter()
            .map(|(hook, count)| (Cow::Borrowed(*hook), count.into()))
            .collect(),
        received: *received,
        lost_by_cause: summary.into(),
        hidden: *hidden,
        consumers: consumers
            .iter()
            .map(|(name, account)| (Cow::Borrowed(*name), account.into()))
            .collect(),
        violations: *violations,
        accept_preattach: *accept_preattach,
        table_full: summary.table_full(),
        command_status: *command_status,
        failures: failures.iter().map(Into::into).collect(),
        audit: None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
