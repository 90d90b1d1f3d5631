//! The policies that events may have been judged by: each event is told with the names of the
//! one that it was judged by, whichever is in force by then.

use std::{collections::VecDeque, sync::Arc};

use port_monitor_common::{judging::FIRST_NUMBER, policy::Verdict};

use crate::{
    events::{
        decode::Event,
        record::{Judgement, Process},
    },
    policy::{Facts, Policy, names::Names},
};

/// Policies whose names are remembered: events of connections that are open may be judged by
/// any of them.
const REMEMBERED: usize = 64;

/// The policies of a run, of which there is one at a time.
pub struct Judging {
    in_force: Numbered,
    /// That of events which are still on their way.
    before: Option<Numbered>,
    /// Names, the last ones last, those of the one in force among them.
    names: VecDeque<(u16, Arc<Names>)>,
    /// They are applied to this host too.
    are_applied: bool,
}

struct Numbered {
    number: u16,
    policy: Arc<Policy>,
}

impl Judging {
    /// By this one, the first.
    pub fn new(policy: Arc<Policy>) -> Self {
        let names = [(FIRST_NUMBER, policy.names())].into();
        Self {
            in_force: Numbered {
                number: FIRST_NUMBER,
                policy,
            },
            before: None,
            names,
            are_applied: false,
        }
    }

    /// They are applied to this host too: what they deny is refused, where their mode says so.
    pub fn apply(&mut self) {
        self.are_applied = true;
    }

    /// Events may be judged by this one from now on.
    pub fn introduce(&mut self, number: u16, policy: Arc<Policy>) {
        self.names.push_back((number, policy.names()));
        if self.names.len() > REMEMBERED {
            self.names.pop_front();
        }
        let next = Numbered { number, policy };
        self.before = Some(std::mem::replace(&mut self.in_force, next));
    }

    /// The number of the one before; zero where that is settled.
    pub fn before(&self) -> u16 {
        self.before.as_ref().map_or(0, |before| before.number)
    }

    /// No event that the one before has to judge comes any more.
    pub fn settle(&mut self) {
        self.before = None;
    }

    /// The word on an event of this process: that of the kernel side, where it has one and the
    /// names of its policy are known. Else the event's own policy is asked, or the one in force
    /// where that is gone.
    pub fn judge(&self, event: &Event, process: &Process, wall_ns: i128) -> Judgement {
        let (mut judgement, enforces) = self.judged(event, process, wall_ns);
        if self.are_applied && enforces && judgement.is_violation() && event.action.is_refused() {
            judgement.verdict = Verdict::Deny;
        }
        judgement
    }

    /// What an observer says of it, and whether its policy is to refuse anything.
    fn judged(&self, event: &Event, process: &Process, wall_ns: i128) -> (Judgement, bool) {
        let is_own = |number| event.policy == number;
        let mut names = self.names.iter().rev();
        let own = names.find(|(number, _)| is_own(*number));
        if let (Some(stamp), Some((_, names))) = (event.stamp, own) {
            return (names.judgement(stamp), names.enforces());
        }
        let before = self.before.as_ref().filter(|before| is_own(before.number));
        let judge = before.unwrap_or(&self.in_force);
        let judgement = judge.policy.judge(&Facts::of(event, process, wall_ns));
        (judgement, judge.policy.names().enforces())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        consume::lines::sample::connected,
        events::{
            decode::{Action, Stamp},
            record::Record,
        },
        policy::{Host, Source},
    };

    /// A policy of one rule, which denies everything that leaves.
    fn policy(name: &str) -> Arc<Policy> {
        let text = format!(
            "version = 1\n[[rule]]\nname = \"{name}\"\ndirection = \"out\"\n\
             action = \"deny\"\n"
        );
        let source = Source::new(format!("{name}.toml"), text);
        Arc::new(Policy::parse(source, &Host).unwrap().0)
    }

    fn rule_of(judging: &Judging, number: u16, stamp: Option<Stamp>) -> (String, String) {
        let Record {
            mut event, process, ..
        } = connected();
        event.policy = number;
        event.stamp = stamp;
        let judgement = judging.judge(&event, &process, 0);
        let ruleset = judgement.ruleset.unwrap();
        (judgement.rule.unwrap().to_string(), ruleset.file.clone())
    }

    fn named(name: &str) -> (String, String) {
        (name.to_owned(), format!("{name}.toml"))
    }

    const STAMP: Option<Stamp> = Some(Stamp {
        is_denied: true,
        rule: 0,
    });

    #[test]
    fn an_event_has_the_names_of_the_policy_that_it_was_judged_by() {
        let mut judging = Judging::new(policy("one"));
        judging.introduce(2, policy("two"));
        for stamp in [STAMP, None] {
            assert_eq!(rule_of(&judging, 1, stamp), named("one"));
            assert_eq!(rule_of(&judging, 2, stamp), named("two"));
            // The kernel side knows of no policy.
            assert_eq!(rule_of(&judging, 0, None), named("two"));
        }
        judging.settle();
        assert_eq!(rule_of(&judging, 1, STAMP), named("one"));
        // Nobody can ask the first one any more.
        assert_eq!(rule_of(&judging, 1, None), named("two"));
    }

    #[test]
    fn what_the_names_are_forgotten_of_is_judged_by_the_policy_in_force() {
        let mut judging = Judging::new(policy("one"));
        let last = u16::try_from(REMEMBERED).unwrap() + 1;
        for number in 2..=last {
            judging.introduce(number, policy("two"));
            judging.settle();
        }
        judging.introduce(last + 1, policy("three"));
        assert_eq!(judging.names.len(), REMEMBERED);
        assert_eq!(rule_of(&judging, 1, STAMP), named("three"));
        assert_eq!(rule_of(&judging, 3, STAMP), named("two"));
    }

    #[test]
    fn what_an_applied_policy_denies_was_refused_where_it_failed_so() {
        let observing = policy("one");
        let text = observing
            .source()
            .text
            .replace("1\n", "1\nmode = \"enforce\"\n");
        let source = Source::new("one.toml".to_owned(), text);
        let enforcing = Arc::new(Policy::parse(source, &Host).unwrap().0);
        let refused = Action::Failed { errno: Some(1) };
        let unreachable = Action::Failed { errno: Some(113) };
        for (policy, is_applied, action, verdict) in [
            (&enforcing, true, refused, Verdict::Deny),
            (&enforcing, true, unreachable, Verdict::AuditDeny),
            (&enforcing, true, Action::Connect, Verdict::AuditDeny),
            (&enforcing, false, refused, Verdict::AuditDeny),
            (&observing, true, refused, Verdict::AuditDeny),
        ] {
            let mut judging = Judging::new(Arc::clone(policy));
            if is_applied {
                judging.apply();
            }
            let Record {
                mut event, process, ..
            } = connected();
            event.action = action;
            for (number, stamp) in [(FIRST_NUMBER, STAMP), (0, None)] {
                (event.policy, event.stamp) = (number, stamp);
                let judgement = judging.judge(&event, &process, 0);
                assert_eq!(judgement.verdict, verdict, "{is_applied} {action:?}");
            }
        }
    }
}
