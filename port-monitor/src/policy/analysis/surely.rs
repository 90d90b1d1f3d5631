//! The policy's word on a connection of whose owner not everything is known: where all that
//! may be comes to the same.

use port_monitor_common::policy::{Accepts, Action, Decider, OwnerCondition, Rule};

use crate::{
    events::record::Judgement,
    policy::{
        Facts, Policy,
        conditions::{Part, about},
    },
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
        rule.asks(OwnerCondition::ALL.into_iter().filter(|&of| self.hides(of)))
    }

    /// What the condition asks is not known.
    const fn hides(self, condition: OwnerCondition) -> bool {
        match about(condition).of {
            Part::User => self.user,
            Part::Cgroup => self.cgroup,
            Part::Other => false,
        }
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
            for condition in OwnerCondition::ALL {
                if unknown.hides(condition) {
                    asked.owners[condition as usize] = Accepts::Any;
                }
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
