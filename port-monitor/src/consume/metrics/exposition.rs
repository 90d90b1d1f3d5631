//! From what was counted to the text that is scraped, in either of its formats.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, prometheus_text, text,
    },
    registry::Registry,
};

use super::{
    histogram::Histogram,
    series::{self, PREFIX, Series},
    services::ByDirection,
    tally::Tally,
};
use crate::{
    base::ascii,
    consume::{
        consumer::{Room, Standing},
        enforced, export,
    },
    events::{
        record::Header,
        wire::words::{ConnectionAction, Spelled as _},
    },
};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `OpenMetrics` 1.0, text.
    OpenMetrics,
    /// The text of Prometheus, 0.0.4.
    Text,
}

impl Format {
    /// Its media type.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All series.
pub(super) fn write(tally: Tally, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(tally));
    let mut text = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut text, &registry)?,
        Format::Text => prometheus_text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

impl Collector for Tally {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        if let Some(header) = &self.header {
            writer.run(header)?;
        }
        if let Some(enforced) = &self.enforced {
            writer.enforced(enforced)?;
        }
        writer.connections(self)?;
        writer.times(self)?;
        writer.account(self)?;
        writer.consumers(&self.standings)?;
        writer.exports(&self.exports)
    }
}

/// Writes series, each family whole.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn run(&mut self, header: &Header) -> fmt::Result {
        let since = seconds(header.wall_ns);
        self.info(&series::BUILD, [header.version])?;
        self.info(&series::BACKEND, [header.backend, &header.kernel])?;
        self.gauges(&series::START_TIME, [([], since)])?;
        if let (Some(file), Some(loaded)) = (&header.policy, &header.policy_loaded) {
            let digest = ascii::hex_text(&loaded.digest);
            self.info(&series::POLICY, [file, &digest])?;
            self.gauges(&series::POLICY_LOAD_TIME, [([], seconds(loaded.wall_ns))])?;
            let changes = loaded.number.saturating_sub(1);
            self.counters(&series::POLICY_CHANGES, [([], changes.into())])?;
        }
        Ok(())
    }

    fn enforced(&mut self, standing: &enforced::Standing) -> fmt::Result {
        self.gauges(&series::ENFORCED, [([], u64::from(standing.is_in_force))])?;
        self.gauges(&series::REFUSED, [([], u64::from(standing.is_refused))])?;
        let denied = standing.denied.iter();
        let denied = denied.map(|(rule, count)| ([&**rule], *count));
        self.counters(&series::ENFORCED_DENIALS, denied)
    }

    fn connections(&mut self, tally: &Tally) -> fmt::Result {
        let kinds = tally.kinds();
        let kinds = kinds.map(|(kind, count)| ([ConnectionAction::from(kind).word()], count));
        self.counters(&series::EVENTS, kinds)?;
        let services = tally.connections.iter().flat_map(|(service, counts)| {
            let counts = counts.labelled();
            counts.map(|(direction, count)| ([direction, service], count))
        });
        self.counters(&series::CONNECTIONS, services)?;
        let failures = tally.failures();
        self.counters(
            &series::FAILURES,
            failures.map(|(errno, count)| ([errno], count)),
        )?;
        let violations = tally.violations.iter().flat_map(|(rule, counts)| {
            let counts = counts.labelled();
            counts.map(|(direction, count)| ([direction, &**rule], count))
        });
        self.counters(&series::VIOLATIONS, violations)?;
        let denials = tally.denials.iter();
        self.counters(
            &series::DENIALS,
            denials.map(|(rule, count)| ([&**rule], *count)),
        )?;
        let open = tally.open.labelled();
        self.gauges(
            &series::OPEN,
            open.map(|(direction, count)| ([direction], count)),
        )?;
        let flow = |flow, counts: ByDirection| {
            let counts = counts.labelled();
            counts.map(|(direction, bytes)| ([direction, flow], bytes))
        };
        let flows = [flow("received", tally.received), flow("sent", tally.sent)];
        self.counters(&series::TRANSFERRED, flows.into_iter().flatten())
    }

    fn times(&mut self, tally: &Tally) -> fmt::Result {
        self.histograms(&series::HANDSHAKE, [([], &tally.handshakes)])?;
        let durations = [
            (["inbound"], &tally.inbound_durations),
            (["outbound"], &tally.outbound_durations),
        ];
        self.histograms(&series::DURATION, durations)
    }

    fn account(&mut self, tally: &Tally) -> fmt::Result {
        self.counters(&series::SEEN, [([], tally.stats.seen)])?;
        self.counters(&series::FILTERED, [([], tally.stats.filtered)])?;
        let lost = tally.lost().map(|(cause, count)| ([cause.word()], count));
        self.counters(&series::LOST, lost)
    }

    fn consumers(&mut self, standings: &[Standing]) -> fmt::Result {
        let each = |part: fn(&Standing) -> u64| {
            let all = standings.iter();
            all.map(move |standing| ([standing.name], part(standing)))
        };
        self.counters(&series::DELIVERED, each(|one| one.account.delivered))?;
        self.counters(&series::TAKEN, each(|one| one.account.taken))?;
        self.counters(&series::HIDDEN, each(|one| one.account.hidden))?;
        let dropped = standings.iter().flat_map(|standing| {
            let dropped = standing.account.dropped;
            [
                ([standing.name, "queue_full"], dropped.queue_full),
                ([standing.name, "failed"], dropped.failed),
                ([standing.name, "unfinished"], dropped.unfinished),
            ]
        });
        self.counters(&series::DROPPED, dropped)?;
        let waiting = |standing: &Standing| match standing.waiting {
            Room::Lines(events) => events,
            Room::Queue(messages, _) => messages as u64,
        };
        self.gauges(&series::WAITING, each(waiting))?;
        let room = standings
            .iter()
            .filter_map(|standing| match standing.waiting {
                Room::Lines(_) => None,
                Room::Queue(_, room) => Some(([standing.name], room as u64)),
            });
        self.gauges(&series::CAPACITY, room)?;
        self.gauges(
            &series::FAILING,
            each(|one| u64::from(one.account.error.is_some())),
        )
    }

    fn exports(&mut self, exports: &BTreeMap<String, export::Standing>) -> fmt::Result {
        if exports.is_empty() {
            return Ok(());
        }
        let each = |part: fn(&export::Standing) -> u64| {
            let all = exports.iter();
            all.map(move |(name, standing)| ([&**name], part(standing)))
        };
        self.counters(&series::RECORDED, each(|one| one.progress.recorded))?;
        self.counters(&series::SENT, each(|one| one.progress.sent))?;
        self.counters(&series::EXPIRED, each(|one| one.progress.expired))?;
        self.counters(&series::REJECTED, each(|one| one.progress.rejected))?;
        self.gauges(&series::UNSENT, each(|one| one.progress.waiting()))?;
        self.gauges(&series::EXPORT_FAILING, each(|one| one.is_failing.into()))
    }

    fn begin<'s>(&'s mut self, series: &'static Series) -> Result<MetricEncoder<'s>, fmt::Error> {
        let unit = series.unit.as_ref();
        self.0
            .encode_descriptor(series.name, series.help, unit, series.kind)
    }

    fn info<const N: usize>(&mut self, series: &'static Series, values: [&str; N]) -> fmt::Result {
        self.begin(series)?.encode_info(&labelled(series, values))
    }

    fn counters<'t, const N: usize>(
        &mut self,
        series: &'static Series,
        rows: impl IntoIterator<Item = ([&'t str; N], u64)>,
    ) -> fmt::Result {
        let mut family = self.begin(series)?;
        rows.into_iter().try_for_each(|(values, count)| {
            let labels = labelled(series, values);
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
        })
    }

    fn gauges<'t, const N: usize>(
        &mut self,
        series: &'static Series,
        rows: impl IntoIterator<Item = ([&'t str; N], impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut family = self.begin(series)?;
        rows.into_iter().try_for_each(|(values, value)| {
            let labels = labelled(series, values);
            family.encode_family(&labels)?.encode_gauge(&value)
        })
    }

    fn histograms<'t, const N: usize>(
        &mut self,
        series: &'static Series,
        rows: impl IntoIterator<Item = ([&'t str; N], &'t Histogram)>,
    ) -> fmt::Result {
        let mut family = self.begin(series)?;
        rows.into_iter().try_for_each(|(values, times)| {
            let labels = labelled(series, values);
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(
                times.sum(),
                times.count(),
                &times.buckets(),
                None,
            )
        })
    }
}

/// The labels of the series with these values.
fn labelled<'t, const N: usize>(
    series: &'static Series,
    values: [&'t str; N],
) -> [(&'static str, &'t str); N] {
    debug_assert_eq!(series.labels.len(), N, "{}", series.name);
    let mut names = series.labels.iter();
    values.map(|value| (names.next().copied().unwrap_or_default(), value))
}

/// ns since the Unix epoch, as metrics tell times.
#[expect(
    clippy::cast_precision_loss,
    reason = "to the microsecond it is exact enough"
)]
fn seconds(wall_ns: i128) -> f64 {
    wall_ns as f64 / 1e9
}
