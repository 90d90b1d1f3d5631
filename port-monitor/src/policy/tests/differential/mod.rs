//! One decision, whoever asks for it: the rules one by one, the index, `explain` (and so
//! `test` and the replay of a recording), the monitor, `apply`'s tables and those of a
//! policy that nobody follows any more, the end of what is open, `diff` and `learn` against
//! what a policy's words mean.

use port_monitor_common::{
    generation::RULES,
    policy::{Action, Decider, Direction, Transport, Verdict},
};

use super::{
    super::{tables::lower::Lowered, text::value},
    Facts, NOW_NS,
    monitor::stamp,
    tables::{Asked, Party, answer},
};
use crate::{
    base::seeded::{Random, seeded},
    commands::policy::explained,
    policy::{
        Policy, Reason, Source,
        analysis::diff::{Difference, Uids},
        learn::Learner,
        text::problem::Problem,
    },
};

mod connection;
mod host;
mod world;

use connection::connection;
use host::World;
use world::{Rule, Words};

/// Policies; with so many connections each, a million pairs.
const POLICIES: usize = 500;
const CONNECTIONS: usize = 2_000;
/// Connections of each that a policy is learned from.
const LEARNED: usize = 40;

/// A policy as it is compiled, and lowered where it can be.
struct Compiled {
    words: Words,
    text: String,
    policy: Policy,
    lowered: Option<Lowered>,
    of_monitor: Lowered,
}

impl Compiled {
    /// The rules that never decide anything are left out: they are refused.
    fn new(mut words: Words) -> Self {
        loop {
            let text = words.text();
            let source = Source::new("policy.toml".to_owned(), text.clone());
            let invalid = match Policy::parse(source, &World) {
                Ok((policy, _)) => return Self::of(words, text, policy),
                Err(invalid) => invalid,
            };
            let before = words.rules.len();
            for diagnostic in &invalid.diagnostics {
                if let Problem::Shadowed { name, .. } = &diagnostic.problem {
                    words.rules.retain(|rule| rule.name != *name);
                }
            }
            assert!(words.rules.len() < before, "{invalid}\n{text}");
            number_failsafe(&mut words.rules);
        }
    }

    fn of(words: Words, text: String, policy: Policy) -> Self {
        let mut rules = words.rules.iter();
        let asks_in_vain =
            rules.any(|rule| rule.direction == Direction::Inbound && rule.asks_for_exe());
        let lowered = policy.lower(&World);
        assert_eq!(lowered.is_err(), asks_in_vain, "{text}");
        Self {
            of_monitor: policy.lower_for_monitor().unwrap(),
            lowered: lowered.ok(),
            words,
            text,
            policy,
        }
    }

    /// By the name of a rule or none.
    fn named(&self, at: Option<usize>) -> Option<&str> {
        at.map(|at| &*self.words.rules[at].name)
    }

    fn check(&self, facts: &Facts<'_>) {
        let expected = self.words.decide(facts, false);
        let wrong = |who: &str| format!("{who}: not {expected:?} of {facts:?} by\n{}", self.text);
        let (rule, action) = expected;
        let explanation = self.policy.explain(facts);
        let is_allowed = explanation.verdict == Verdict::Allow;
        if !self.words.judges(facts) {
            assert!(
                explanation.reason == Reason::Unjudged && is_allowed,
                "{}",
                wrong("explain")
            );
            return;
        }
        let told = match &explanation.reason {
            Reason::Rule(rule) => Some(&*rule.name),
            _ => None,
        };
        let explained = (told, is_allowed);
        assert_eq!(
            explained,
            (self.named(rule), action == Action::Allow),
            "{}",
            wrong("explain")
        );
        let judged = self.policy.judge(facts);
        let judged = (judged.rule.as_deref(), judged.verdict == Verdict::Allow);
        assert_eq!(judged, explained, "{}", wrong("judge"));

        let scopes = self.policy.scopes.of(facts.owner());
        let compiled = facts.compiled(&scopes);
        let rules = self.policy.tables.view();
        let decided = rules.decide(&compiled);
        let by = match decided.by {
            Decider::Rule(at) => Some(at as usize),
            Decider::Default | Decider::Loopback | Decider::Kernel => None,
        };
        assert_eq!((by, decided.action), expected, "{}", wrong("the rules"));
        assert_eq!(
            self.policy.index.first(&compiled),
            by,
            "{}",
            wrong("the index")
        );
        self.check_monitor(facts, &wrong);
        self.check_kernel(facts, expected, &wrong);
        self.check_end(facts, judged, &wrong);
    }

    /// What the kernel side of the monitor says is what userspace would.
    fn check_monitor(&self, facts: &Facts<'_>, wrong: &impl Fn(&str) -> String) {
        // Of UDP the monitor tells nothing, and the kernel knows every user.
        if facts.transport == Transport::Udp {
            return;
        }
        let uid = facts.uid.unwrap_or(u32::MAX);
        if let Some(stamp) = stamp(&self.of_monitor, facts, uid) {
            let judged = self.policy.judge(facts);
            assert_eq!(
                self.policy.judgement(stamp),
                judged,
                "{}",
                wrong("the monitor's tables")
            );
        }
    }

    /// What the hooks find by the tables that `apply` writes.
    fn check_kernel(
        &self,
        facts: &Facts<'_>,
        expected: (Option<usize>, Action),
        wrong: &impl Fn(&str) -> String,
    ) {
        let Some(lowered) = &self.lowered else {
            return;
        };
        let Some(asked) = asked(facts) else {
            return;
        };
        let found = |at: (&_, &_)| {
            let (tally, denies) = answer(lowered, at, &asked).unwrap();
            let rule = (tally < RULES).then_some(tally as usize);
            (rule, if denies { Action::Deny } else { Action::Allow })
        };
        assert_eq!(
            found(lowered.when_open()),
            expected,
            "{}",
            wrong("the tables")
        );
        let closed = lowered.when_closed();
        assert_eq!(closed.is_some(), self.words.is_closed_on_exit);
        if let Some((header, ends)) = &closed {
            let expected = self.words.decide(facts, true);
            assert_eq!(
                found((header, ends)),
                expected,
                "{}",
                wrong("the tables of nobody's policy")
            );
        }
        // Who hands a SYN to no socket knows nobody, and leaves to others what asks who.
        if facts.direction == Direction::Inbound {
            let nobody = Asked {
                party: Party::Nobody,
                ..asked
            };
            if let Some((tally, denies)) = answer(lowered, lowered.when_open(), &nobody) {
                let rule = (tally < RULES).then_some(tally as usize);
                let action = if denies { Action::Deny } else { Action::Allow };
                assert_eq!(
                    (rule, action),
                    expected,
                    "{}",
                    wrong("the tables without an owner")
                );
            }
        }
    }

    /// What is open is judged without its unit and executable.
    fn check_end(
        &self,
        facts: &Facts<'_>,
        judged: (Option<&str>, bool),
        wrong: &impl Fn(&str) -> String,
    ) {
        let has_end = facts.transport == Transport::Tcp && facts.direction != Direction::Listen;
        if !has_end || facts.cgroup.is_none() || self.policy.asks_for_executables() {
            return;
        }
        let open = Facts {
            unit: None,
            exe: None,
            exe_id: None,
            ..*facts
        };
        let ended = self.policy.judge(&open);
        let ended = (ended.rule.as_deref(), ended.verdict == Verdict::Allow);
        assert_eq!(ended, judged, "{}", wrong("the end of what is open"));
    }
}

/// Failsafe entries are named by their places.
fn number_failsafe(rules: &mut [Rule]) {
    for (direction, key) in [
        (Direction::Inbound, "inbound"),
        (Direction::Outbound, "outbound"),
    ] {
        let of_key = rules
            .iter_mut()
            .filter(|rule| rule.is_failsafe && rule.direction == direction);
        for (number, rule) in (1..).zip(of_key) {
            rule.name = format!("failsafe:{key}:{number}");
        }
    }
}

/// As a hook asks, which knows its owner's cgroup, and no path of an executable.
fn asked(facts: &Facts<'_>) -> Option<Asked> {
    use crate::policy::tables::lower::Places as _;
    let path = facts.cgroup?;
    let is_by_path = facts.exe.is_some() && facts.exe_id.is_none();
    if is_by_path && facts.direction != Direction::Inbound {
        return None;
    }
    Some(Asked {
        direction: facts.direction,
        port: facts.transport.port(facts.service_port),
        peer: value::octets(facts.peer),
        is_self: facts.peer_is_self,
        now_ns: Some(World.boot_ns(i64::try_from(facts.now_ns).unwrap())),
        party: Party::Known {
            uid: facts.uid.unwrap_or(u32::MAX),
            groups: host::ids(path.trim_end_matches('/')),
            // A listening socket does not remember it.
            exe: facts
                .exe_id
                .filter(|_| facts.direction != Direction::Inbound)
                .map(|file| (file.device, file.inode)),
        },
        is_kernel: facts.is_kernel,
    })
}

/// `diff` tells each connection of which the words of two policies say different things,
/// with what decides in both, and no other.
fn check_diff(policies: [&Compiled; 2], connections: &[Facts<'_>]) {
    let [a, b] = policies.map(|compiled| &compiled.policy);
    let differences = a.diff(b, NOW_NS).unwrap();
    for difference in &differences {
        check_witness([a, b], difference);
    }
    for facts in connections {
        let by = policies.map(|compiled| compiled.policy.explain(facts).reason);
        let [was_denied, is_denied] = policies.map(|compiled| {
            let (_, action) = compiled.words.decide(facts, false);
            compiled.words.judges(facts) && action == Action::Deny
        });
        let mut told = differences.iter();
        let told = told.find(|difference| difference.by == by && holds(difference, facts));
        let is_right = match told {
            None => was_denied == is_denied,
            Some(told) => was_denied != is_denied && is_denied == (told.action == Action::Deny),
        };
        let texts = policies.map(|compiled| &*compiled.text).join("\n---\n");
        assert!(
            is_right,
            "diff: {told:#?} of {facts:?}, {by:?}, by\n{texts}"
        );
    }
}

/// The example of a difference is a command line of `policy explain`, and is decided as
/// the difference says.
fn check_witness(policies: [&Policy; 2], difference: &Difference) {
    let texts = policies.map(|policy| &*policy.source.text).join("\n---\n");
    let words = words_of_shell(&difference.witness);
    let by = explained(&words, &World, |facts| {
        let facts = Facts {
            peer_is_self: difference.peers.example().is_self,
            now_ns: difference.from_ns.map_or(NOW_NS, i128::from),
            ..*facts
        };
        policies.map(|policy| policy.explain(&facts).reason)
    });
    assert_eq!(
        by.as_ref(),
        Ok(&difference.by),
        "diff: {difference:#?} by\n{texts}"
    );
}

/// The words of a command line, with what is in single quotes as it is.
fn words_of_shell(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in line.split('\'').enumerate() {
        let mut parts = part.split(' ');
        let first = if at % 2 == 0 {
            parts.next()
        } else {
            Some(part)
        };
        words.last_mut().unwrap().push_str(first.unwrap());
        if at % 2 == 0 {
            words.extend(parts.map(str::to_owned));
        }
    }
    words
}

/// The connection is one of those the difference is about, as far as the owner goes
/// at least one with fewer scopes is.
fn holds(difference: &Difference, facts: &Facts<'_>) -> bool {
    let port = facts.transport.port(facts.service_port);
    let now_ns = i64::try_from(facts.now_ns).unwrap();
    let is_of_user = match &difference.uids {
        Uids::Only(uids) => facts.uid.is_some_and(|uid| uids.contains(&uid)),
        Uids::AllBut(uids) => facts.uid.is_none_or(|uid| !uids.contains(&uid)),
    };
    let has_peer = || {
        let is_listener = facts.direction == Direction::Listen;
        is_listener || difference.peers.contains(world::place(facts))
    };
    difference.direction == facts.direction
        && difference
            .ports
            .iter()
            .any(|&(first, last)| (first..=last).contains(&port))
        && has_peer()
        && is_of_user
        && world::is_within(facts, &difference.who)
        && difference
            .kernel
            .is_none_or(|kernel| kernel == facts.is_kernel)
        && difference.from_ns.is_none_or(|from| from <= now_ns)
        && difference.until_ns.is_none_or(|until| now_ns < until)
}

/// A policy that is learned from connections allows each of them that has a port.
fn check_learned(connections: &[Facts<'_>]) {
    let mut learner = Learner::default();
    let seen = connections
        .iter()
        .filter(|facts| facts.transport == Transport::Tcp)
        // Nobody tells a slice of a process.
        .filter(|facts| {
            facts
                .unit
                .is_none_or(|unit| unit.strip_suffix(".slice").is_none())
        });
    for facts in seen.clone() {
        learner.take(facts, &World);
    }
    let text = learner.policy(Some(0), &World).unwrap();
    let source = Source::new("learned.toml".to_owned(), text.clone());
    let (policy, _) =
        Policy::parse(source, &World).unwrap_or_else(|invalid| panic!("{invalid}\n{text}"));
    for facts in seen.filter(|facts| facts.service_port != 0) {
        let judged = policy.judge(facts);
        assert_eq!(
            judged.verdict,
            Verdict::Allow,
            "learn: {facts:?} by\n{text}"
        );
    }
}

#[test]
fn a_million_decisions_are_the_same_whoever_asks() {
    decide(false);
}

#[test]
fn a_million_decisions_by_owners_are_the_same_whoever_asks() {
    decide(true);
}

fn decide(mostly_owners: bool) {
    seeded(|seed| {
        let mut before: Option<Compiled> = None;
        for nth in 0..POLICIES {
            let random = Random::new(seed.wrapping_add(u64::try_from(nth).unwrap() << 32));
            let compiled = Compiled::new(Words::random(&random, mostly_owners));
            let connections: Vec<_> = (0..CONNECTIONS).map(|_| connection(&random)).collect();
            for facts in &connections {
                compiled.check(facts);
            }
            if let Some(before) = &before {
                check_diff([before, &compiled], &connections);
            }
            check_learned(&connections[..LEARNED]);
            before = Some(compiled);
        }
    });
}
