//! Rules that never decide, and rules that disagree.

use insta::assert_snapshot;

use super::{parse, rule};
use crate::policy::text::problem::Problem;

fn rules(rules: &[(&str, &str)]) -> String {
    let mut text = "version = 1\n[default]\nlisten = { action = \"deny\" }\n".to_owned();
    for (index, (action, conditions)) in rules.iter().enumerate() {
        text += &rule(&format!("r{index}"), "in", action, conditions);
    }
    text
}

/// The rules that never decide, and those that disagree with an earlier one.
fn found(text: &str) -> (Vec<String>, Vec<String>) {
    let diagnostics = match parse(text) {
        Ok((_, warnings)) => warnings,
        Err(invalid) => invalid.diagnostics,
    };
    let (mut shadowed, mut overlapping) = (Vec::new(), Vec::new());
    for diagnostic in diagnostics {
        match diagnostic.problem {
            Problem::Shadowed { name, .. } => shadowed.push(name),
            Problem::Overlap { name, .. } => overlapping.push(name),
            Problem::UnknownUnit(_)
            | Problem::Expired { .. }
            | Problem::InboundExe { .. }
            | Problem::OnlyAllows(_) => {}
            other => panic!("{other}"),
        }
    }
    (shadowed, overlapping)
}

#[test]
fn shadowed_rule_names_what_covers_it_and_a_witness() {
    let text = rules(&[
        ("allow", "port = \"1-30\"\nfrom = \"10.0.0.0/8\""),
        ("deny", "port = \"20-50\""),
        (
            "allow",
            "port = \"22-40\"\nfrom = \"10.1.0.0/16\"\nuser = \"app\"",
        ),
    ]);
    assert_snapshot!(parse(&text).unwrap_err());
}

#[test]
fn disagreeing_rule_names_the_other_and_a_witness() {
    let text = rules(&[
        ("allow", "port = \"1-30\"\nfrom = \"10.0.0.0/8\""),
        ("deny", "port = \"20-50\"\nfrom = \"10.1.0.0/16\""),
    ]);
    let (_, warnings) = parse(&text).unwrap();
    assert_snapshot!(warnings[0]);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn rules_are_shadowed_by_what_earlier_ones_cover_together() {
    let covered: &[&[&str]] = &[
        &["", "port = 22"],
        &[
            "port = \"1-100\"",
            "port = \"101-200\"",
            "port = \"50-150\"",
        ],
        &["from = \"0.0.0.0/0\"", "from = \"::/0\"", ""],
        &["from = \"0.0.0.0/0\"", "from = \"::/0\"", "from = \"self\""],
        &["from = \"self\"", "from = [\"127.0.0.0/8\", \"::1\"]"],
        &[
            "from = \"10.0.0.0/9\"",
            "from = \"10.128.0.0/9\"",
            "from = \"10.0.0.0/8\"",
        ],
        &["user = \"app\"", "user = \"root\"", "user = [0, 1000]"],
        &[
            "unit = \"app.service\"",
            "cgroup = \"/system.slice/app.service\"",
        ],
        &[
            "cgroup = \"/a\"",
            "cgroup = \"/a/b\"\nunit = \"app.service\"",
        ],
        &[
            "unit = [\"app.service\", \"web.service\"]",
            "unit = \"web.service\"\nport = 22",
        ],
        &[
            "port = \"1-100\"\nfrom = \"10.0.0.0/8\"",
            "port = \"50-200\"\nfrom = \"10.0.0.0/9\"",
            "port = \"101-200\"\nfrom = \"10.128.0.0/9\"",
            "port = \"20-150\"\nfrom = \"10.0.0.0/8\"\nuser = \"app\"",
        ],
        &[
            "until = 2028-01-01T00:00:00Z",
            "until = 2027-01-01T00:00:00Z",
        ],
    ];
    for conditions in covered {
        let all: Vec<_> = conditions
            .iter()
            .map(|&conditions| ("deny", conditions))
            .collect();
        let last = format!("r{}", all.len() - 1);
        assert_eq!(found(&rules(&all)).0, [last], "{conditions:?}");
    }
}

#[test]
fn rule_that_decides_anything_at_all_is_not_shadowed() {
    let decides: &[&[&str]] = &[
        &["port = 22", ""],
        &[
            "port = \"1-100\"",
            "port = \"102-200\"",
            "port = \"50-150\"",
        ],
        &["from = \"0.0.0.0/0\"", ""],
        &["from = \"self\"", "from = \"10.0.0.0/8\""],
        &["from = \"127.0.0.0/8\"", "from = \"self\""],
        &["from = \"::/0\"", "from = \"::ffff:10.0.0.0/104\""],
        &["user = \"app\"", "user = [\"app\", \"ann\"]"],
        &["user = [0, 33, 1000, 1001]", ""],
        &["unit = \"app.service\"", "unit = \"web.service\""],
        &["cgroup = \"/a/b\"", "cgroup = \"/a\""],
        &["exe = \"/bin/a\"", "unit = \"app.service\""],
        &["until = 2027-01-01T00:00:00Z", ""],
        &["until = 2020-01-01T00:00:00Z", "port = 22"],
        &[
            "proto = \"tcp\"\nport = \"1-1023\"",
            "port = \"well-known\"\nfrom = \"10.0.0.0/8\"",
        ],
    ];
    for conditions in decides {
        let all: Vec<_> = conditions
            .iter()
            .map(|&conditions| ("deny", conditions))
            .collect();
        assert_eq!(found(&rules(&all)).0, [""; 0], "{conditions:?}");
    }
}

#[test]
fn exception_before_the_general_rule_is_no_disagreement() {
    for exception in [
        "from = \"10.0.0.0/8\"",
        "user = \"app\"",
        "unit = \"app.service\"",
        "from = \"self\"",
    ] {
        let specific = format!("port = 22\n{exception}");
        let text = rules(&[("allow", &specific), ("deny", "port = \"well-known\"")]);
        assert_eq!(found(&text), (vec![], vec![]), "{exception}");
    }
}

#[test]
fn rules_that_cross_disagree_only_when_their_actions_do() {
    for (first, second) in [
        ("port = 22", "from = \"10.0.0.0/8\""),
        ("user = \"app\"", "port = 22"),
        ("unit = \"app.service\"", "user = \"app\""),
        ("cgroup = \"/a\"", "cgroup = \"/a/b\"\nport = 22"),
        ("from = \"self\"", "from = \"10.0.0.0/8\""),
    ] {
        // `/a` holds `/a/b`: that one is shadowed, not crossed.
        let crossed = found(&rules(&[("allow", first), ("deny", second)]));
        let agreed = found(&rules(&[("deny", first), ("deny", second)]));
        assert_eq!(crossed.0, agreed.0, "{first} {second}");
        assert_eq!(crossed.1.len() + crossed.0.len(), 1, "{first} {second}");
        assert_eq!(agreed.1, [""; 0], "{first} {second}");
    }
}

#[test]
fn policy_of_the_greatest_size_is_analysed_to_the_end() {
    let text: String = (0..1024)
        .map(|n: u32| {
            let conditions = format!(
                "port = \"{}-{}\"\nfrom = \"10.{}.{}.0/24\"\nuser = {}",
                1 + n % 500,
                2000 + n,
                n / 256,
                n % 256,
                n % 7
            );
            rule(
                &format!("r{n}"),
                "in",
                if n.is_multiple_of(2) { "allow" } else { "deny" },
                &conditions,
            )
        })
        .collect();
    assert_eq!(found(&format!("version = 1\n{text}")), (vec![], vec![]));
}

#[test]
fn rule_with_a_refused_condition_shadows_nothing() {
    let text = "version = 1\n".to_owned()
        + &rule("unread", "in", "deny", "domain = \"example.org\"")
        + &rule("ssh", "in", "deny", "port = 22");
    let invalid = parse(&text).unwrap_err();
    assert_eq!(invalid.diagnostics.len(), 1, "{invalid}");
}

#[test]
fn long_list_of_covering_rules_is_cut() {
    let mut all: Vec<_> = (0..10)
        .map(|n| format!("port = \"{}-{}\"", 1 + n * 10, 10 + n * 10))
        .collect();
    all.push("port = \"5-95\"".to_owned());
    let all: Vec<_> = all
        .iter()
        .map(|conditions| ("deny", conditions.as_str()))
        .collect();
    let said = parse(&rules(&all)).unwrap_err().to_string();
    assert!(said.contains("`r7` (line 39) and 2 more"), "{said}");
}
