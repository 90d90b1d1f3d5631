//! What failed in the kernel, as JSON lines have it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::events::record;

/// Calls of one kind that the kernel did not answer as they should be.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Failure {
    /// What was to be read or kept: `socket`, `remember`, `forget`…
    site: Cow<'static, str>,
    /// The errno's name, such as `E2BIG` for a table that is full.
    errno: Cow<'static, str>,
    /// How often.
    count: u64,
}

impl From<&record::Failed> for Failure {
    fn from(failed: &record::Failed) -> Self {
        Self {
            site: failed.site.name().into(),
            errno: failed.errno_name(),
            count: failed.count,
        }
    }
}
