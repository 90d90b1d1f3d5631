//! What is known of a rule besides what decides.

use std::{ops::Range, sync::Arc};

use crate::events::alert::Alert;

/// What the decision does not need to know of a rule.
#[derive(Debug)]
pub(crate) struct RuleInfo {
    pub(crate) name: Arc<str>,
    pub(crate) line: usize,
    /// What it says of it, if it does.
    pub(crate) alert: Option<Alert>,
    pub(crate) span: Range<usize>,
}
