//! What every kind of receiver has: a form of rows, a way to send them, and an answer.

use super::{Settings, clickhouse, http::PostError, nats, otlp, settings::Kind};
use crate::consume::history::outbox::Ended;

/// Rows that are sent at once, in the form that their receiver takes.
#[derive(Debug)]
pub(super) enum Batch {
    Clickhouse(clickhouse::Batch),
    Otlp(otlp::Batch),
    Nats(nats::Batch),
}

/// What became of a batch that a receiver has taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Rows of it that it does not take, whoever sends them again.
    pub(super) rejected: u64,
    /// What it says besides.
    pub(super) told: Option<String>,
}

impl Batch {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Clickhouse => Self::Clickhouse(clickhouse::Batch::default()),
            Kind::Otlp => Self::Otlp(otlp::Batch::default()),
            Kind::Nats => Self::Nats(nats::Batch::default()),
        }
    }

    /// Adds a row, if there is room for it. There is for the first one.
    pub(super) fn add(&mut self, row: &Ended) -> bool {
        match self {
            Self::Clickhouse(batch) => batch.add(row),
            Self::Otlp(batch) => batch.add(row),
            Self::Nats(batch) => batch.add(row),
        }
    }

    /// Sends them. They are sent only where the whole answer says so.
    pub(super) async fn send(self, settings: &Settings) -> Result<Delivered, PostError> {
        match self {
            Self::Clickhouse(batch) => batch.send(settings).await,
            Self::Otlp(batch) => batch.send(settings).await,
            Self::Nats(batch) => batch.send(settings).await,
        }
    }
}

impl Kind {
    /// It is sent less at once where it does not take a batch for what is in it.
    pub(super) const fn is_sent_less(self) -> bool {
        match self {
            // Its table is ours: where it does not take a row, the table is to be changed.
            Self::Clickhouse => false,
            Self::Otlp | Self::Nats => true,
        }
    }

    /// A row that it will never take keeps no other one: such a row is left out.
    pub(super) const fn leaves_rows_out(self) -> bool {
        match self {
            // A stream takes whatever is small enough.
            Self::Clickhouse | Self::Nats => false,
            Self::Otlp => true,
        }
    }

    /// It knows a batch that it is sent again, if the same rows are in it.
    pub(super) const fn knows_batches(self) -> bool {
        match self {
            Self::Clickhouse | Self::Otlp => false,
            Self::Nats => true,
        }
    }
}
