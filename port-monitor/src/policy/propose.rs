//! A rule for one connection, for whoever looks at it. It is told, and never applied.

use port_monitor_common::policy::{Action, Direction, Verdict};

use super::{
    Environment, Facts, Policy, Reason, Source, learn::quoted, rules::compile::condition::spelled,
};

/// A rule that decides the connection that it was asked for of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its name.
    pub name: String,
    /// A policy of this rule alone.
    pub toml: String,
}

/// The narrowest rule with this action that decides a connection; `None` where there is none.
/// It was tried by the engine that decides.
pub fn propose(facts: &Facts<'_>, action: Action, env: &dyn Environment) -> Option<Proposal> {
    let mut owners = owners(facts).into_iter();
    owners.find_map(|(stem, condition)| {
        let proposal = of(facts, action, &stem, condition.as_deref());
        decides(&proposal, facts, action, env).then_some(proposal)
    })
}

/// What of the owner a rule can ask for, what lasts longest first; at last nothing.
fn owners(facts: &Facts<'_>) -> Vec<(String, Option<String>)> {
    let mut owners = Vec::new();
    let unit = facts.unit.filter(|unit| unit.ends_with(".service"));
    if let Some(unit) = unit.filter(|unit| !unit.starts_with("user@")) {
        let stem = unit.trim_end_matches(".service");
        owners.push((stem.to_owned(), Some(format!("unit = {}", quoted(unit)))));
    }
    // A path that is no text cannot be in a policy.
    if let Some(exe) = facts.exe.and_then(|exe| exe.to_str()) {
        let stem = exe.rsplit('/').next().unwrap_or_default();
        owners.push((stem.to_owned(), Some(format!("exe = {}", quoted(exe)))));
    }
    if let Some(uid) = facts.uid.filter(|uid| *uid != u32::MAX) {
        owners.push((format!("user-{uid}"), Some(format!("user = {uid}"))));
    }
    owners.push(("any".to_owned(), None));
    owners
}

fn of(facts: &Facts<'_>, action: Action, stem: &str, owner: Option<&str>) -> Proposal {
    let direction = spelled(facts.direction);
    let port = facts.service_port;
    let fit = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
        _ => '_',
    };
    let stem: String = stem.chars().take(32).map(fit).collect();
    let name = format!("{direction}-{stem}-{port}");
    let mut lines = vec![
        "version = 1".to_owned(),
        String::new(),
        "[[rule]]".to_owned(),
        format!("name = {}", quoted(&name)),
        format!("direction = \"{direction}\""),
        format!("port = {port}"),
    ];
    lines.extend(owner.map(str::to_owned));
    let peer = facts.peer.to_canonical();
    match facts.direction {
        Direction::Inbound => lines.push(format!("from = \"{peer}\"")),
        Direction::Outbound => lines.push(format!("to = \"{peer}\"")),
        Direction::Listen => {}
    }
    lines.push(format!(
        "action = \"{}\"",
        match action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    ));
    Proposal {
        name,
        toml: lines.join("\n") + "\n",
    }
}

/// The rule, and nothing else of the policy, decides the connection.
fn decides(proposal: &Proposal, facts: &Facts<'_>, action: Action, env: &dyn Environment) -> bool {
    let source = Source::new("proposal".to_owned(), proposal.toml.clone());
    let Ok((policy, _)) = Policy::parse(source, env) else {
        return false;
    };
    let explanation = policy.explain(facts);
    let is_allowed = explanation.verdict == Verdict::Allow;
    let is_by_rule =
        matches!(&explanation.reason, Reason::Rule(rule) if *rule.name == *proposal.name);
    is_by_rule && is_allowed == (action == Action::Allow)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        consume::lines::{json::any::record, sample},
        policy::Host,
    };

    fn proposed(record: &crate::events::record::Record, action: Action) -> Option<Proposal> {
        let facts = Facts::of(&record.event, &record.process, record.wall_ns);
        propose(&facts, action, &Host)
    }

    #[test]
    fn the_rule_of_a_connection_is_as_narrow_as_can_be() {
        let rule = proposed(&sample::violation(), Action::Allow).unwrap();
        assert!(
            rule.toml.starts_with("version = 1\n\n[[rule]]\n"),
            "{}",
            rule.toml
        );
        for line in [
            "direction = \"out\"",
            "port = 23",
            "to = \"10.0.0.9\"",
            "action = \"allow\"",
        ] {
            assert!(rule.toml.lines().any(|own| own == line), "{}", rule.toml);
        }
        let rule = proposed(&sample::listening(), Action::Deny).unwrap();
        assert!(rule.toml.contains("direction = \"listen\"") && !rule.toml.contains("from"));
    }

    /// What no policy can ask for, or what would not decide, is left out of the rule; and where
    /// nothing is left, there is none.
    #[test]
    fn what_does_not_decide_is_not_proposed() {
        let record = sample::violation();
        let mut facts = Facts::of(&record.event, &record.process, record.wall_ns);
        facts.unit = None;
        facts.exe = Some(Path::new("bin/curl"));
        let rule = propose(&facts, Action::Allow, &Host).unwrap();
        assert!(!rule.toml.contains("exe ="), "{}", rule.toml);
        assert!(rule.toml.contains("user ="), "{}", rule.toml);
        facts.service_port = 0;
        assert_eq!(propose(&facts, Action::Allow, &Host), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the names are: the text is a policy, and its rule decides.
        #[test]
        fn what_is_proposed_decides(mut record in record(), denies: bool) {
            // No rule matches at the end of time.
            record.wall_ns = sample::NOON_NS;
            let action = if denies { Action::Deny } else { Action::Allow };
            let Some(rule) = proposed(&record, action) else {
                // A port of zero is none.
                prop_assert_eq!(record.event.service_port().unwrap_or(0), 0);
                return Ok(());
            };
            let source = Source::new("again".to_owned(), rule.toml.clone());
            let (policy, _) = Policy::parse(source, &Host).unwrap();
            let facts = Facts::of(&record.event, &record.process, record.wall_ns);
            let explanation = policy.explain(&facts);
            prop_assert_eq!(explanation.verdict == Verdict::Allow, !denies);
            prop_assert!(matches!(explanation.reason, Reason::Rule(_)));
        }
    }
}
