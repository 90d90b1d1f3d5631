//! What a policy calls what decides. It is little, and kept for longer than the policy: events
//! that it has judged may be told when another one has taken its place.

use std::sync::Arc;

use port_monitor_common::policy::{Action, Mode};

use super::rules::info::RuleInfo;
use crate::events::{
    alert::Alert,
    decode::Stamp,
    record::{Judgement, Ruleset},
};

/// The names of a policy's rules, and its own.
#[derive(Debug)]
pub struct Names {
    /// By their numbers, with how loud a match is.
    rules: Box<[(Arc<str>, Option<Alert>)]>,
    ruleset: Arc<Ruleset>,
    mode: Mode,
}

impl Names {
    pub(super) fn new(rules: &[RuleInfo], file: &str, digest: &[u8; 32], mode: Mode) -> Self {
        let rules = rules.iter();
        Self {
            rules: rules
                .map(|info| (Arc::clone(&info.name), info.alert))
                .collect(),
            ruleset: Arc::new(Ruleset::new(file, digest)),
            mode,
        }
    }

    /// Whether the policy is to refuse anything where it is applied.
    pub const fn enforces(&self) -> bool {
        matches!(self.mode, Mode::Enforce)
    }

    /// The word on a connection that the kernel side has found by
    /// [`Policy::lower_for_monitor`](super::Policy::lower_for_monitor).
    pub fn judgement(&self, stamp: Stamp) -> Judgement {
        let action = if stamp.is_denied {
            Action::Deny
        } else {
            Action::Allow
        };
        self.observed(action, Some(stamp.rule.into()))
    }

    /// What this rule, or none, says of a connection that was.
    pub(super) fn observed(&self, action: Action, rule: Option<u32>) -> Judgement {
        let rule = rule.and_then(|index| self.rules.get(index as usize));
        let (name, alert) = rule.map_or((None, None), |(name, alert)| (Some(name), *alert));
        Judgement {
            verdict: Mode::Observe.verdict(action),
            rule: name.map(Arc::clone),
            alert,
            ruleset: Some(Arc::clone(&self.ruleset)),
        }
    }
}
