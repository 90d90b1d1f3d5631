//! Every series by its name, its labels and what it says. `docs/metrics.md` is this table.

use prometheus_client::{metrics::MetricType, registry::Unit};

/// What all names begin with.
pub(super) const PREFIX: &str = "port_monitor";

/// A series, or as many as its labels have values.
#[derive(Debug)]
pub(super) struct Series {
    /// Without what names begin with, the unit, and what the type has them end with.
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) unit: Option<Unit>,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

impl Series {
    /// The name that is scraped and asked for.
    #[cfg(test)]
    pub(super) fn full_name(&self) -> String {
        let unit = match &self.unit {
            Some(unit) => format!("_{}", unit.as_str()),
            None => String::new(),
        };
        let end = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{PREFIX}_{}{unit}{end}", self.name)
    }
}

/// The table: each series, and all of them in `ALL`.
macro_rules! series {
    ($($name:ident: $kind:ident, $text:literal, $unit:expr, [$($label:literal),*] => $help:literal;)+) => {
        $(
            pub(super) static $name: Series = Series {
                name: $text,
                kind: MetricType::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// Every series, in the order of the exposition.
        #[cfg(test)]
        pub(super) static ALL: &[&Series] = &[$(&$name),+];
    };
}

series! {
    BUILD: Info, "build", None, ["version"]
        => "Version of this program";
    BACKEND: Info, "backend", None, ["backend", "kernel"]
        => "Backend in use, and the kernel it runs on";
    START_TIME: Gauge, "start_timestamp", Some(Unit::Seconds), []
        => "When these metrics began to count, since the Unix epoch";
    POLICY: Info, "policy", None, ["file", "sha256"]
        => "Policy that connections are judged by, and the digest of its text and lists";
    POLICY_LOAD_TIME: Gauge, "policy_load_timestamp", Some(Unit::Seconds), []
        => "When that policy was put into force for the monitor, since the Unix epoch";
    POLICY_CHANGES: Counter, "policy_changes", None, []
        => "Times that another policy took the place of the one before, since the service began";
    ENFORCED: Gauge, "enforced_policy_in_force", None, []
        => "1 where the policy is in force in the kernel that the service applied last, otherwise 0";
    REFUSED: Gauge, "enforced_policy_refused", None, []
        => "1 where what the policy's file says now is refused and the one before stays, otherwise 0";
    ENFORCED_DENIALS: Counter, "enforced_denials", None, ["rule"]
        => "What the policy in force in the kernel has denied since it was applied, by the rule that decides";
    EVENTS: Counter, "events", None, ["kind"]
        => "Events that these metrics have taken, by their kind";
    CONNECTIONS: Counter, "connections", None, ["direction", "service"]
        => "Connections that were established, by who opened them and their service";
    FAILURES: Counter, "failures", None, ["errno"]
        => "Attempts of this host that failed, by the errno they ended with";
    VIOLATIONS: Counter, "violations", None, ["direction", "rule"]
        => "Events that break the policy, by the rule that decides; the end of a connection is not another one";
    DENIALS: Counter, "denials", None, ["rule"]
        => "Attempts that failed with EPERM where the policy denies them, by the rule that decides";
    OPEN: Gauge, "open_connections", None, ["direction"]
        => "Connections that are open, of those whose beginning was told";
    TRANSFERRED: Counter, "transferred", Some(Unit::Bytes), ["direction", "flow"]
        => "Payload that connections have carried, counted when they end";
    HANDSHAKE: Histogram, "handshake_duration", Some(Unit::Seconds), []
        => "From the attempt of this host to the established connection";
    DURATION: Histogram, "connection_duration", Some(Unit::Seconds), ["direction"]
        => "From the attempt or the accept to the end, of connections that have ended";
    SEEN: Counter, "events_seen", None, []
        => "Events that hooks in the kernel have seen";
    FILTERED: Counter, "events_filtered", None, []
        => "Of the events seen, those that a filter has kept back from every consumer";
    LOST: Counter, "events_lost", None, ["cause"]
        => "Of the events seen, those that reached no consumer";
    DELIVERED: Counter, "consumer_events_delivered", None, ["consumer"]
        => "Events that came to a consumer";
    TAKEN: Counter, "consumer_events_taken", None, ["consumer"]
        => "Of the events delivered, those that are where the consumer brings them";
    HIDDEN: Counter, "consumer_events_hidden", None, ["consumer"]
        => "Of the events delivered, those that the consumer did not ask for";
    DROPPED: Counter, "consumer_events_dropped", None, ["consumer", "cause"]
        => "Of the events delivered, those that are missing";
    WAITING: Gauge, "consumer_queue_length", None, ["consumer"]
        => "What waits for a consumer";
    CAPACITY: Gauge, "consumer_queue_capacity", None, ["consumer"]
        => "What its queue has room for";
    FAILING: Gauge, "consumer_failing", None, ["consumer"]
        => "1 where a consumer has failed or fails, otherwise 0";
    RECORDED: Counter, "export_rows_recorded", None, ["export"]
        => "Connections that have ended since an export was set up";
    SENT: Counter, "export_rows_sent", None, ["export"]
        => "Of the rows recorded, those that the receiver has";
    EXPIRED: Counter, "export_rows_expired", None, ["export"]
        => "Of the rows recorded, those that the history forgot before they were sent";
    REJECTED: Counter, "export_rows_rejected", None, ["export"]
        => "Of the rows recorded, those that the receiver got and does not take";
    UNSENT: Gauge, "export_rows_waiting", None, ["export"]
        => "Of the rows recorded, those that are still to be sent";
    EXPORT_FAILING: Gauge, "export_failing", None, ["export"]
        => "1 where an export did not succeed the last time it tried, otherwise 0";
}

/// The table of the page, in Markdown.
#[cfg(test)]
pub(super) fn page() -> String {
    let row = |series: &&Series| {
        let labels: Vec<_> = series
            .labels
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        format!(
            "| `{}` | {} | {} | {} |\n",
            series.full_name(),
            series.kind.as_str(),
            labels.join(", "),
            series.help
        )
    };
    let rows: String = ALL.iter().map(row).collect();
    format!("| name | type | labels | what it says |\n|---|---|---|---|\n{rows}")
}
