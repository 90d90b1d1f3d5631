//! The word on connections of whose owner not everything is known.

use std::collections::HashSet;

use port_monitor_common::policy::Verdict;

use super::{outbound, policy, rule};
use crate::{
    base::seeded::{Random, seeded},
    policy::{Facts, Unknown},
};

const RULES: [(&str, &str); 9] = [
    ("deny", "port = 80"),
    ("allow", "port = 80"),
    ("deny", "user = 0"),
    ("allow", "user = \"app\""),
    ("deny", "unit = \"app.service\""),
    ("allow", "cgroup = \"/system.slice\""),
    ("allow", "user = \"app\"\nport = 443"),
    ("deny", "to = \"10.0.0.0/8\""),
    ("deny", "port = 443"),
];

/// Every owner of whom no more is known.
fn owners(facts: &Facts<'static>, unknown: Unknown) -> Vec<Facts<'static>> {
    let uids: &[Option<u32>] = if unknown.user {
        &[None, Some(0), Some(1000), Some(7)]
    } else {
        &[facts.uid]
    };
    let cgroups: &[Option<&str>] = if unknown.cgroup {
        &[
            None,
            Some("/system.slice/app.service"),
            Some("/system.slice"),
            Some("/a/app.service"),
        ]
    } else {
        &[facts.cgroup]
    };
    let kernel: &[bool] = if unknown.kernel {
        &[false, true]
    } else {
        &[facts.is_kernel]
    };
    let mut owners = Vec::new();
    for (&uid, &cgroup) in uids
        .iter()
        .flat_map(|uid| cgroups.iter().map(move |cgroup| (uid, cgroup)))
    {
        owners.extend(kernel.iter().map(|&is_kernel| Facts {
            uid,
            cgroup,
            is_kernel,
            ..*facts
        }));
    }
    owners
}

/// A word is said where every owner has the same, and none where a rule would have to be
/// guessed.
#[test]
fn what_is_not_known_is_not_guessed() {
    seeded(|seed| {
        let random = Random::new(seed);
        let (mut said, mut left) = (0, 0);
        for _ in 0..300 {
            let count = random.index(6);
            let mut drawn = HashSet::new();
            let rules = (0..count).map(|_| random.index(RULES.len()));
            let rules: Vec<_> = rules.filter(|at| drawn.insert(*at)).collect();
            let rules = rules.iter().map(|&at| {
                let (action, conditions) = RULES[at];
                rule(&format!("r{at}"), "out", action, conditions)
            });
            let default = random.one_of(&["allow", "deny"]);
            let text = format!(
                "version = 1\n[default]\noutbound = {{ action = \"{default}\" }}\n{}",
                rules.collect::<String>()
            );
            // Rules that others hide are an error.
            let Ok((policy, _)) = super::parse(&text) else {
                continue;
            };
            for _ in 0..40 {
                let unknown = Unknown {
                    user: random.once_in(2),
                    cgroup: random.once_in(2),
                    kernel: random.once_in(2),
                };
                let peer = random.one_of(&["10.0.0.1", "203.0.113.1", "127.0.0.1"]);
                let facts = Facts {
                    uid: random.one_of(&[Some(0), Some(1000), Some(7)]),
                    cgroup: Some(random.one_of(&["/system.slice/app.service", "/x"])),
                    exe: None,
                    ..outbound(peer, random.one_of(&[80, 443, 22]))
                };
                let judge = |facts: &Facts<'_>| policy.judge(facts).verdict == Verdict::Allow;
                let all: HashSet<bool> = owners(&facts, unknown).iter().map(judge).collect();
                let unsaid = Facts {
                    uid: facts.uid.filter(|_| !unknown.user),
                    cgroup: facts.cgroup.filter(|_| !unknown.cgroup),
                    ..facts
                };
                let surely = policy.judge_surely(&unsaid, unknown);
                let surely = surely.map(|judgement| judgement.verdict == Verdict::Allow);
                match surely {
                    Some(allowed) => {
                        assert_eq!(all, [allowed].into(), "{unsaid:?} {unknown:?}\n{text}");
                    }
                    None => left += 1,
                }
                if all.len() > 1 {
                    assert_eq!(surely, None, "{unsaid:?} {unknown:?}\n{text}");
                }
                said += usize::from(surely.is_some());
            }
        }
        assert!(said > 100 && left > 100, "{said} {left}");
    });
}

#[test]
fn rule_that_asks_for_what_is_not_known_leaves_the_others_their_word() {
    let policy = policy(&format!(
        "version = 1\n{}{}",
        rule("no-root", "out", "deny", "user = 0\nport = 80"),
        rule("no-ssh", "out", "deny", "service = \"ssh\""),
    ));
    let unknown = Unknown {
        user: true,
        ..Unknown::default()
    };
    let judge = |port| {
        let facts = Facts {
            uid: None,
            ..outbound("203.0.113.1", port)
        };
        let judged = policy.judge_surely(&facts, unknown)?;
        Some((judged.rule.map(|rule| rule.to_string()), judged.verdict))
    };
    assert_eq!(judge(80), None);
    let denied = (Some("no-ssh".to_owned()), Verdict::AuditDeny);
    assert_eq!(judge(22), Some(denied));
    assert_eq!(judge(443), Some((None, Verdict::Allow)));
}
