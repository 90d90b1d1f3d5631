//! An audit as JSON lines.

use std::{borrow::Cow, time::Duration};

use super::{Audit, has_known_uses};
use crate::{
    base::time::Rfc3339,
    consume::{
        Lines, Sink as _,
        lines::json::{self, Json},
        listeners::uses::{self, AuditedListener},
    },
    events::{
        record::Item,
        wire::{
            Connection, Host, Line,
            facts::Facts,
            listeners::{AuditFacts, ListenerEvent, ListenerFacts, ListenerLine, Uses},
            words::{Category, EventType, Kind, ListenerAction, ListenerDataset, Scope},
        },
    },
};

/// Writes JSON lines.
#[derive(Debug, Default)]
pub(super) struct JsonForm {
    json: Json,
}

impl JsonForm {
    /// A line as in every stream.
    pub(super) fn stream(&mut self, lines: &mut Lines, item: Item<'_>) {
        self.json.write(lines, item);
    }

    /// The listeners, and the account.
    pub(super) fn audit(out: &mut Vec<u8>, audit: &Audit<'_>) {
        for listener in &audit.listeners {
            json::push_line(out, &Line::Listener(line(audit, listener)));
        }
        let host = Host {
            name: Cow::Borrowed(&audit.header.host),
        };
        let mut summary = json::summary_line(&audit.summary, host);
        summary.port_monitor.audit = Some(facts(audit));
        json::push_line(out, &Line::Summary(summary));
    }
}

fn facts(audit: &Audit<'_>) -> AuditFacts {
    let super::Totals {
        open,
        closed,
        unknown_use,
        forgotten,
        strays,
    } = audit.totals;
    let scopes = uses::Scope::ALL
        .iter()
        .map(|scope| Cow::Borrowed(scope.name()));
    AuditFacts {
        listed: audit.listeners.len(),
        open: scopes.zip(open).collect(),
        closed,
        forgotten,
        unknown_use,
        stray_accepts: strays,
    }
}

/// The line of a listener: what the line of its event says, and how it was used.
fn line<'a>(audit: &Audit<'a>, listener: &'a AuditedListener) -> ListenerLine<'a> {
    let Connection {
        timestamp: _,
        ecs,
        event: _,
        network,
        source: _,
        destination,
        process,
        user,
        group,
        container,
        orchestrator,
        host,
        rule,
        error: _,
        port_monitor,
    } = json::connection(audit.header, &listener.record);
    ListenerLine {
        timestamp: Rfc3339(audit.summary.wall_ns),
        ecs,
        event: ListenerEvent {
            kind: if listener.is_violation() {
                Kind::Alert.into()
            } else {
                Kind::State.into()
            },
            category: vec![Category::Network.into()],
            types: vec![EventType::Info.into()],
            action: ListenerAction::Listener.into(),
            dataset: ListenerDataset::Listener.into(),
        },
        network,
        destination,
        process,
        user,
        group,
        container,
        orchestrator,
        host,
        rule,
        port_monitor: listener_facts(audit, listener, port_monitor),
    }
}

fn listener_facts<'a>(
    audit: &Audit<'_>,
    listener: &AuditedListener,
    facts: Facts<'a>,
) -> ListenerFacts<'a> {
    let is_known = audit.listing.watch.is_some() && has_known_uses(listener);
    ListenerFacts {
        schema: facts.schema,
        id: facts.id,
        netns: facts.netns,
        ifindex: facts.ifindex,
        owner_source: facts.owner_source,
        process_start_boottime_ns: facts.process_start_boottime_ns,
        cgroup: facts.cgroup,
        unit: facts.unit,
        local: facts.local,
        service: facts.service,
        port_class: facts.port_class,
        scope: Scope::from(listener.scope()).into(),
        opened: listener.opened_ns().map(Rfc3339),
        closed: listener.closed_ns().map(Rfc3339),
        watched_ms: milliseconds(audit.watched(listener)),
        uses: is_known.then(|| uses(&listener.uses)),
        verdict: facts.verdict,
        enforcement: facts.enforcement,
        missing: facts.missing,
        raw: facts.raw,
    }
}

fn uses(uses: &uses::Uses) -> Uses {
    let uses::Uses {
        accepts,
        first_ns,
        last_ns,
        peers,
        is_shared,
    } = uses;
    Uses {
        accepts: *accepts,
        first_accept: first_ns.map(Rfc3339),
        last_accept: last_ns.map(Rfc3339),
        distinct_peers: peers.count(),
        distinct_peers_capped: peers.is_capped(),
        shared: *is_shared,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
