//! The policy's word on a connection of whose owner not everything is known: where all that
//! may be comes to the same.

use port_monitor_common::policy::{Accepts, Action, Decider, Rule};

use crate::{
    events::record::Judgement,
    policy::{Facts, Policy},
};

/// What is not known of an owner; its facts say nothing of it then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// The user.
    pub user: bool,
    /// The cgroup, and so the unit.
    pub cgroup: bool,
    /// Whether it is the kernel itself.
    pub kernel: bool,
}

impl Unknown {
    fn is_asked_by(self, rule: &Rule) -> bool {
        self.user && rule.uids != Accepts::Any
            || self.cgroup && [rule.units, rule.cgroups] != [Accepts::Any; 2]
    }
}

impl Policy {
    /// What [`Policy::judge`] says whatever the unknown is; `None` where that depends on it.
    pub fn judge_surely(&self, facts: &Facts<'_>, unknown: Unknown) -> Option<Judgement> {
        if unknown == Unknown::default() {
            return Some(self.judge(facts));
        }
        let scopes = self.scopes.of(facts.owner());
        let facts = facts.compiled(&scopes);
        let rules = self.tables.view();
        let mut actions = Vec::new();
        let mut certain = None;
        for (index, rule) in rules.rules.iter().enumerate() {
            let mut asked = *rule;
            if unknown.user {
                asked.uids = Accepts::Any;
            }
            if unknown.cgroup {
                (asked.units, asked.cgroups) = (Accepts::Any, Accepts::Any);
            }
            if rules.mismatch(&asked, &facts).is_some() {
                continue;
            }
            actions.push(rule.action);
            if !unknown.is_asked_by(rule) {
                certain = Some(index);
                break;
            }
        }
        let by_default = |is_kernel| {
            let facts = port_monitor_common::policy::Facts { is_kernel, ..facts };
            rules.decision(certain, &facts)
        };
        let decision = by_default(facts.is_kernel);
        actions.push(decision.action);
        if unknown.kernel {
            actions.push(by_default(!facts.is_kernel).action);
        }
        let is_one = |action: Action| actions.iter().all(|other| *other == action);
        let by = match decision.by {
            Decider::Rule(index) => Some(index),
            Decider::Default | Decider::Loopback | Decider::Kernel => None,
        };
        is_one(decision.action).then(|| self.observed(decision.action, by))
    }
}
