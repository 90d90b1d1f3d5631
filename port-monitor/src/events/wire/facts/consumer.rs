//! A consumer's account, as the summary has it.

use serde::{Deserialize, Serialize};

use crate::events::record;

/// The account of a consumer: `delivered = taken + hidden + dropped`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Consumer {
    /// Events that came to it.
    delivered: u64,
    /// Events that are where it brings them.
    taken: u64,
    /// Events that it did not ask for.
    hidden: u64,
    /// Events that are missing.
    dropped: u64,
    /// Why they are.
    dropped_by_cause: DroppedByCause,
    /// What it failed of.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Events that a consumer has dropped.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
struct DroppedByCause {
    /// It was too slow: its queue was full.
    queue_full: u64,
    /// It had failed.
    failed: u64,
    /// The end of the run did not wait for it any longer.
    unfinished: u64,
}

impl From<&record::Account> for Consumer {
    fn from(account: &record::Account) -> Self {
        let record::Account {
            delivered,
            taken,
            hidden,
            dropped,
            error,
        } = account;
        let record::Dropped {
            queue_full,
            failed,
            unfinished,
        } = *dropped;
        Self {
            delivered: *delivered,
            taken: *taken,
            hidden: *hidden,
            dropped: dropped.total(),
            dropped_by_cause: DroppedByCause {
                queue_full,
                failed,
                unfinished,
            },
            error: error.clone(),
        }
    }
}
