//! Rules and what they say: a proposal for a row, and what the policy says of what is typed.

use std::path::Path;

use port_monitor_common::policy::Action;

use crate::{
    base::sanitize::Escaped,
    commands::policy,
    consume::top::{Asks, Model, Rule, Ui},
    policy::{Facts, Host, propose::propose as proposed},
};

/// Shows a rule for the connection: the other word than the policy's, unless one is asked for.
pub(super) fn propose(ui: &mut Ui, model: &Model, id: u64, allows: Option<bool>) {
    let Some(record) = model.record(id) else {
        return ui.say("nothing is known of this connection any more".to_owned());
    };
    let allows = allows.unwrap_or_else(|| record.is_violation());
    let mut facts = Facts::of(&record.event, &record.process, record.wall_ns);
    if model.is_recording() {
        // The numbers of files are those of another time, and maybe of another host.
        facts.exe_id = None;
    }
    let action = if allows { Action::Allow } else { Action::Deny };
    match proposed(&facts, action, &Host) {
        Some(proposal) => ui.show_rule(Rule {
            id,
            allows,
            toml: proposal.toml,
        }),
        None => ui.say("no rule decides this one: too little is known of it".to_owned()),
    }
}

/// Shows what the policy says of a connection that was typed.
pub(super) fn what_if(ui: &mut Ui, model: &Model, typed: String) {
    let Some(path) = model.policy() else {
        return ui.say("there is no policy: begin with --policy FILE".to_owned());
    };
    match policy::what_if(&typed, Path::new(path)) {
        Ok(answer) => {
            let lines = answer.lines();
            let lines = lines.map(|line| Escaped(line.as_bytes()).to_string());
            let title = Escaped(typed.as_bytes()).to_string();
            ui.show_text(title, lines.collect());
        }
        Err(problem) => ui.ask_again(Asks::WhatIf, typed, problem),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::{
        consume::{
            lines::sample::{connected, header, violation},
            top::{Input, Press, Wish},
        },
        events::record::{Item, Record},
    };

    fn ui() -> Ui {
        Ui::new(Box::new(|_| Ok(Arc::new(|_: &Record| true))))
    }

    fn world(policy: Option<String>, record: &Record) -> Model {
        let mut model = Model::default();
        let mut header = header();
        header.policy = policy;
        model.take(Item::Header(&header));
        model.take(Item::Event(record));
        model
    }

    #[test]
    fn a_rule_has_the_other_word_than_the_policy_and_then_its_own() {
        for (record, allows) in [(violation(), true), (connected(), false)] {
            let (mut ui, id) = (ui(), record.event.id);
            propose(&mut ui, &world(None, &record), id, None);
            let rule = ui.rule().unwrap();
            assert_eq!(rule.allows, allows);
            assert_eq!(rule.toml.contains("action = \"allow\""), allows);
            let key = |key| Input::Key(Press::Char(key));
            assert_eq!(ui.take(key('P')), Some(Wish::Propose(id, Some(!allows))));
            assert!(matches!(ui.take(key('E')), Some(Wish::Keep(_))));
        }
    }

    #[test]
    fn what_is_typed_is_judged_as_explain_judges_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let rule =
            "[[rule]]\nname = \"no-telnet\"\ndirection = \"out\"\nport = 23\naction = \"deny\"\n";
        fs::write(&path, format!("version = 1\n{rule}")).unwrap();
        let model = world(Some(path.display().to_string()), &connected());
        let mut ui = ui();
        what_if(&mut ui, &model, "out tcp 192.0.2.1:23".to_owned());
        let text = ui.text().unwrap().join("\n");
        assert!(text.starts_with("verdict      violation"), "{text}");
        assert!(text.contains("no-telnet"), "{text}");
        for wrong in [
            "",
            "out tcp",
            "sideways tcp 192.0.2.1:23",
            "out tcp 192.0.2.1",
        ] {
            let problem = policy::what_if(wrong, &path).unwrap_err();
            assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}");
        }
        fs::write(&path, "version = 2\n").unwrap();
        what_if(&mut ui, &model, "out tcp 192.0.2.1:23".to_owned());
        assert_eq!(ui.asks(), Some(&Asks::WhatIf));
    }
}
