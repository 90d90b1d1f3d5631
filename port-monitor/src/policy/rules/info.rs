//! What is known of a rule besides what decides.

use std::{ops::Range, sync::Arc};

/// What the decision does not need to know of a rule.
#[derive(Debug)]
pub(crate) struct RuleInfo {
    pub(crate) name: Arc<str>,
    pub(crate) line: usize,
    pub(crate) alert: Alert,
    pub(crate) span: Range<usize>,
}

/// How loud a rule's match is, whatever its action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Not worth waking anybody.
    None,
    /// Worth a look.
    Low,
    /// Worth waking somebody.
    High,
}

impl Alert {
    /// The level as the policy spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::High => "high",
        }
    }
}
