//! The explanation names what decides, what would be next, and why not earlier.

use port_monitor_common::policy::{Action, Condition, OwnerCondition, Verdict};

use super::{inbound, outbound, policy, rule};
use crate::policy::Reason;

fn names(reasons: &[Option<Reason>]) -> Vec<String> {
    let name = |reason: &Option<Reason>| match reason {
        None => "-".to_owned(),
        Some(Reason::Rule(rule)) => format!("{}:{}", rule.name, rule.line),
        Some(Reason::Default(Action::Allow)) => "default allow".to_owned(),
        Some(Reason::Default(Action::Deny)) => "default deny".to_owned(),
        Some(Reason::Loopback) => "loopback".to_owned(),
        Some(Reason::Kernel) => "kernel".to_owned(),
        Some(Reason::Unjudged) => "unjudged".to_owned(),
    };
    reasons.iter().map(name).collect()
}

#[test]
fn explanation_names_the_rule_its_line_and_the_next_candidate() {
    let text = [
        "version = 1\n[default]\noutbound = { action = \"deny\" }\n",
        &rule("in-only", "in", "deny", "service = \"smtp\""),
        &rule(
            "by-user",
            "out",
            "allow",
            "service = \"ssh\"\nuser = \"app\"",
        ),
        &rule("by-net", "out", "deny", "to = \"10.0.0.0/8\""),
        &rule("ssh", "out", "allow", "service = \"ssh\""),
    ];
    let policy = policy(&text.concat());

    let ssh = policy.explain(&outbound("10.0.0.1", 22));
    assert_eq!(ssh.verdict, Verdict::AuditDeny);
    assert_eq!(
        names(&[Some(ssh.reason), ssh.next]),
        ["by-net:15", "ssh:20"]
    );
    let passed_over: Vec<_> = ssh
        .passed_over
        .iter()
        .map(|(rule, condition)| (&*rule.name, *condition))
        .collect();
    assert_eq!(
        passed_over,
        [("by-user", Condition::Owner(OwnerCondition::User))]
    );

    let elsewhere = policy.explain(&outbound("11.0.0.1", 22));
    assert_eq!(
        names(&[Some(elsewhere.reason), elsewhere.next]),
        ["ssh:20", "default deny"]
    );

    let nothing = policy.explain(&outbound("11.0.0.1", 80));
    assert_eq!(
        names(&[Some(nothing.reason), nothing.next]),
        ["default deny", "-"]
    );
    assert_eq!(nothing.passed_over.len(), 3);

    let local = policy.explain(&outbound("::1", 80));
    assert_eq!(local.verdict, Verdict::Allow);
    assert_eq!(names(&[Some(local.reason), local.next]), ["loopback", "-"]);

    let inbound = policy.explain(&inbound("10.0.0.1", 80));
    assert_eq!(names(&[Some(inbound.reason)]), ["default allow"]);
}
