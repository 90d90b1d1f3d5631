//! The one decision: what becomes of a connection, given the first rule that matches it.
//!
//! The rules, their index, and the eBPF programs each find that rule in their own way;
//! what follows from it, and what the defaults spare, is here for all of them.

use crate::policy::{Action, Direction};

/// What decides a connection of one direction that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultAction {
    /// What is asked for.
    pub action: Action,
    /// Loopback peers are not spared.
    pub filters_loopback: bool,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decider {
    /// The rule at this index.
    Rule(u32),
    /// The direction's default.
    Default,
    /// The direction's default, which spares loopback peers.
    Loopback,
    /// The direction's default, which spares the kernel itself.
    Kernel,
}

/// The policy's word on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is asked for.
    pub action: Action,
    /// By what.
    pub by: Decider,
}

impl Decision {
    /// The decision where `first` is the first rule that matches, and its action; where
    /// there is none, `default` is the default of the direction. `is_kernel` is asked only
    /// where it matters.
    #[inline(always)]
    pub fn of(
        first: Option<(u32, Action)>,
        direction: Direction,
        default: DefaultAction,
        is_loopback: bool,
        is_kernel: impl FnOnce() -> bool,
    ) -> Self {
        if let Some((rule, action)) = first {
            return Self {
                action,
                by: Decider::Rule(rule),
            };
        }
        let spared = if matches!(default.action, Action::Allow) {
            None
        } else if !default.filters_loopback
            && is_loopback
            && !matches!(direction, Direction::Listen)
        {
            Some(Decider::Loopback)
        } else if !matches!(direction, Direction::Inbound) && is_kernel() {
            Some(Decider::Kernel)
        } else {
            None
        };
        match spared {
            Some(by) => Self {
                action: Action::Allow,
                by,
            },
            None => Self {
                action: default.action,
                by: Decider::Default,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(direction: Direction, filters_loopback: bool, facts: [bool; 2]) -> Decision {
        let default = DefaultAction {
            action: Action::Deny,
            filters_loopback,
        };
        let [is_loopback, is_kernel] = facts;
        Decision::of(None, direction, default, is_loopback, || is_kernel)
    }

    #[test]
    fn defaults_spare_loopback_and_the_kernel_itself() {
        let by = |direction, filters, facts| decide(direction, filters, facts).by;
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        assert_eq!(by(outbound, false, [true, false]), Decider::Loopback);
        assert_eq!(by(outbound, true, [true, false]), Decider::Default);
        assert_eq!(by(outbound, true, [true, true]), Decider::Kernel);
        assert_eq!(by(outbound, false, [false, true]), Decider::Kernel);
        assert_eq!(by(inbound, false, [false, true]), Decider::Default);
        assert_eq!(
            by(Direction::Listen, false, [true, false]),
            Decider::Default
        );
        assert_eq!(by(Direction::Listen, false, [false, true]), Decider::Kernel);
    }

    #[test]
    fn rules_spare_nobody() {
        let default = DefaultAction {
            action: Action::Allow,
            filters_loopback: false,
        };
        let rule = Some((3, Action::Deny));
        let decision = Decision::of(rule, Direction::Outbound, default, true, || true);
        assert_eq!(decision.action, Action::Deny);
        assert_eq!(decision.by, Decider::Rule(3));
    }
}
