//! Why the policy decides as it does, told by the same engine that decides.

use std::sync::Arc;

use port_monitor_common::policy::{Action, Condition, Decider, Decision, Verdict};

use super::{Facts, Policy};
use crate::events::alert::Alert;

/// A rule and its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Its name.
    pub name: Arc<str>,
    /// Its line, counted from 1.
    pub line: usize,
    /// What it asks for.
    pub action: Action,
    /// How loud a match is, if the rule says so.
    pub alert: Option<Alert>,
}

/// What decides a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule.
    Rule(RuleRef),
    /// The direction's default.
    Default(Action),
    /// The direction's default, which spares loopback peers.
    Loopback,
    /// The direction's default, which spares the kernel itself.
    Kernel,
    /// The policy does not judge UDP.
    Unjudged,
}

/// A decision and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What happens to the connection.
    pub verdict: Verdict,
    /// What decides.
    pub reason: Reason,
    /// What would decide if the deciding rule were not there; `None` when the
    /// default decides already.
    pub next: Option<Reason>,
    /// The rules of the direction that come before the decision, each with the
    /// first condition that does not hold.
    pub passed_over: Vec<(RuleRef, Condition)>,
}

impl Policy {
    /// Decides one connection and tells why.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        if !self.judges(facts.direction, facts.transport) {
            return Explanation {
                verdict: Verdict::Allow,
                reason: Reason::Unjudged,
                next: None,
                passed_over: Vec::new(),
            };
        }
        let scopes = self.scopes.of(facts.owner());
        let facts = facts.compiled(&scopes);
        let rules = self.tables.view();
        let decision = rules.decision(self.index.first(&facts), &facts);
        let decided_at = match decision.by {
            Decider::Rule(index) => index as usize,
            Decider::Default | Decider::Loopback | Decider::Kernel => rules.rules.len(),
        };
        let mismatches = || rules.rules.iter().map(|rule| rules.mismatch(rule, &facts));
        let passed_over = mismatches()
            .take(decided_at)
            .enumerate()
            .filter_map(|(index, mismatch)| Some((self.rule_ref(index)?, mismatch?)))
            .filter(|(_, condition)| *condition != Condition::Direction)
            .collect();
        let default = match rules.default_decision(&facts) {
            Decision {
                by: Decider::Loopback,
                ..
            } => Reason::Loopback,
            Decision {
                by: Decider::Kernel,
                ..
            } => Reason::Kernel,
            decision => Reason::Default(decision.action),
        };
        let mut matching = mismatches()
            .enumerate()
            .filter(|(_, mismatch)| mismatch.is_none())
            .filter_map(|(index, _)| self.rule_ref(index).map(Reason::Rule))
            .chain([default]);
        Explanation {
            verdict: self.intent.mode.verdict(decision.action),
            reason: matching.next().unwrap_or(Reason::Default(decision.action)),
            next: matching.next(),
            passed_over,
        }
    }

    pub(super) fn rule_ref(&self, index: usize) -> Option<RuleRef> {
        let (rule, info) = self.tables.rules.get(index).zip(self.rules.get(index))?;
        Some(RuleRef {
            name: Arc::clone(&info.name),
            line: info.line,
            action: rule.action,
            alert: info.alert,
        })
    }
}
