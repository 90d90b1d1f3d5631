//! Each bad value, and what is said about it.

use insta::assert_snapshot;

use super::{parse, policy, rule};
use crate::policy::Style;

/// What is said about a policy: everything after the summary line.
fn said(text: &str) -> String {
    match parse(text) {
        Ok((_, warnings)) => {
            let warnings = warnings.iter().map(ToString::to_string);
            warnings.collect::<Vec<_>>().join("\n\n")
        }
        Err(invalid) => {
            let said = invalid.to_string();
            let (summary, diagnostics) = said.split_once('\n').unwrap();
            assert!(summary.starts_with("policy.toml: "), "{summary}");
            diagnostics.trim_start().to_owned()
        }
    }
}

/// What is said about each of `texts`.
fn all_said<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let said = texts.into_iter().map(|text| {
        let said = said(text.as_ref());
        assert!(!said.is_empty(), "nothing said about {}", text.as_ref());
        said
    });
    said.collect::<Vec<_>>().join("\n\n---\n\n")
}

/// What is said about a rule of each of these conditions.
fn said_of_rules(direction: &str, conditions: &[&str]) -> String {
    const REST: &str = "version = 1\n[default]\nlisten = { action = \"deny\" }\n\
        [networks]\ninternal = [\"10.0.0.0/8\"]\n[services]\napp-db = \"5432/tcp\"\n";
    all_said(conditions.iter().map(|conditions| {
        let rule = rule("r", direction, "deny", conditions);
        format!("{REST}{rule}")
    }))
}

/// The problems of a policy, warnings too, without their places.
fn problems(text: &str) -> Vec<String> {
    let all = match parse(text) {
        Ok((_, warnings)) => warnings,
        Err(invalid) => invalid.diagnostics,
    };
    all.iter().map(|one| one.problem.to_string()).collect()
}

#[test]
fn one_mistake_is_told_once() {
    const RULES: &str = "[[rule]]\nname = \"a\"\ndirection = \"out\"\naction = \"deny\"\n\
        service = \"mdns-own\"\n[[rule]]\nname = \"b\"\ndirection = \"in\"\naction = \"deny\"\n\
        service = \"mdns-own\"\nfrom = \"lab\"\n[[rule]]\nname = \"c\"\ndirection = \"out\"\n\
        action = \"deny\"\nto = [\"lab\", \"192.0.2.1\"]\nport = 80\n";
    const LAB: &str = "[networks]\nlab = \"10.0.0.0/8\"\n";
    const OWN: &str = "[services]\nmdns-own = \"5353/tcp\"\n";
    for (names, told) in [
        (format!("{LAB}{OWN}"), ""),
        (
            format!("{LAB}[services]\nmdns-own = \"5353/upd\"\n"),
            "not a port with",
        ),
        (format!("{LAB}[services]\nmdns-own = []\n"), "empty list"),
        (
            format!("{LAB}[services]\nmdns-own = 5353\n"),
            "expected text",
        ),
        (
            format!("{LAB}[services]\nmdns-own = \"0/udp\"\n"),
            "port 0 is not",
        ),
        (format!("services = 5\n{LAB}"), "expected a table"),
        (
            format!("{LAB}[service]\nmdns-own = \"5353/tcp\"\n"),
            "unknown key `service`",
        ),
        (
            format!("{OWN}[networks]\nlab = \"64:ff9b::/97x\"\n"),
            "prefix length",
        ),
        (format!("{OWN}[networks]\nlab = []\n"), "empty list"),
        (format!("networks = []\n{OWN}"), "expected a table"),
        (
            format!("{OWN}[network]\nlab = \"10.0.0.0/8\"\n"),
            "unknown key `network`",
        ),
        (
            format!("{OWN}[networks]\nlab = {{ file = 3 }}\n"),
            "expected text",
        ),
        (
            format!("{OWN}[networks]\nlab = {{ files = \"x\" }}\n"),
            "unknown key `files`",
        ),
    ] {
        let text = format!("version = 1\n{names}{RULES}");
        let problems = problems(&text);
        assert_eq!(
            problems.len(),
            usize::from(!told.is_empty()),
            "{names}: {problems:?}"
        );
        assert!(
            problems.iter().all(|one| one.contains(told)),
            "{names}: {problems:?}"
        );
    }
}

#[test]
fn rule_without_a_port_of_its_transport_says_which_of_both_is_missing() {
    let said_of = |conditions: &str, direction: &str| {
        let services = "[services]\nudp-own = \"5353/udp\"\ntcp-own = \"80/tcp\"\n";
        let dns = rule("dns", "out", "deny", "proto = \"udp\"\nport = 53");
        let rule = rule("r", direction, "deny", conditions);
        said(&format!("version = 1\n{services}{dns}{rule}"))
    };
    for (conditions, direction, told) in [
        (
            "service = \"tcp-own\"\nproto = \"udp\"",
            "out",
            "no port of the transport",
        ),
        (
            "service = \"udp-own\"\nproto = \"tcp\"",
            "out",
            "no port of the transport",
        ),
        (
            "service = \"udp-own\"\nproto = \"tcp\"",
            "in",
            "no port of the transport",
        ),
        ("service = \"udp-own\"", "in", "UDP is judged only"),
        ("proto = \"udp\"", "in", "UDP is judged only"),
        ("proto = \"udp\"", "listen", "UDP is judged only"),
    ] {
        let said = said_of(conditions, direction);
        assert!(said.contains(told), "{conditions}: {said}");
        assert_eq!(said.matches("warning").count(), 1, "{conditions}: {said}");
    }
}

#[test]
fn what_other_firewalls_write_is_told_how_it_is_written_here() {
    for (condition, told) in [
        ("port = \"1:1024\"", "write \"1-1024\""),
        ("port = \"22,80\"", "write a list: [22, 80, \"8000-8100\"]"),
        ("port = \"22/tcp\"", "the transport goes under `proto`"),
        ("port = \"ssh\"", "names go under `service`"),
        ("service = \"22\"", "ports go under `port`"),
        (
            "service = \"ssh,https\"",
            "write a list: [\"ssh\", \"https\"]",
        ),
        ("proto = \"icmp\"", "expected tcp or udp"),
        ("user = \"0\"", "`user = 0` is the uid"),
        ("to = \"10.0.0.0-10.0.0.255\"", "is neither a network"),
        (
            "to = \"10.0.0.0/255.0.0.0\"",
            "prefix length is not between 0 and 32",
        ),
        ("to = \"any\"", "is neither a network"),
        (
            "unit = \"ssh.timer\"",
            "write the unit that the processes run in",
        ),
    ] {
        let said = said_of_rules("out", &[condition]);
        assert!(said.contains(told), "{condition}: {said}");
    }
}

#[test]
fn bad_files() {
    assert_snapshot!(all_said([
        "mode = \"observe\"",
        "version = 2",
        "version = \"1\"",
        "version = 1\nmode = \"obsrve\"",
        "version = 1\nrules = []",
        "version = 1\nrule = \"x\"",
        "version = 1\nnetworks = 3",
        "version = 1\n[[rule]]\nname = \"a\"\n",
        "version = 1\nversion = 1",
        "version = 1\n[[rule]\nname = \"a\n",
        "version = 1\nmode = observe",
    ]));
}

#[test]
fn bad_sections() {
    assert_snapshot!(all_said(
        [
            "[default]\ninbound = \"deny\"",
            "[default]\ninbound = { action = \"block\" }",
            "[default]\ninbound = { style = \"drop\" }",
            "[default]\noutbound = { action = \"deny\", style = \"drop\" }",
            "[default]\ninbond = { action = \"deny\" }",
            "[default]\nlisten = { action = \"deny\", loopback = \"filter\" }",
            "[apply]\nestablished = \"kil\"\nconfirm = \"soon\"",
            "[apply]\non_daemon_exit = \"close\"",
            "[apply]\non_daemon_exit = \"open-after-1s\"",
            "[apply]\non_daemon_exit = \"closed-after-soon\"",
            "[apply]\non_daemon_exit = \"open-after-60\"",
            "[apply]\nconfirm = \"-60s\"",
            "[failsafe]\ninbound = [{ service = \"ssh\", to = \"10.0.0.0/8\" }]",
            "[failsafe]\ninbound = [{ servce = \"ssh\" }]",
            "[networks]\nself = [\"10.0.0.0/8\"]",
            "[networks]\n\"10.0.0.1\" = [\"10.0.0.0/8\"]",
            "[networks]\nlab = []",
            "[networks]\nlab = [\"10.0.0.0/33\", \"10.0.0.1/8\", \"lab2\"]",
            "[services]\ndb = [\"5432\", \"70000/tcp\", \"5432/sctp\"]",
        ]
        .map(|section| format!("version = 1\n{section}"))
    ));
}

#[test]
fn bad_ports() {
    assert_snapshot!(said_of_rules(
        "out",
        &[
            "port = 70000",
            "port = 0",
            "port = -1",
            "port = 99999999999999999999",
            "port = \"70000\"",
            "port = \"9000-8000\"",
            "port = \"8000-70000\"",
            "port = \"8000-\"",
            "port = \"+80\"",
            "port = \"wellknown\"",
            "port = \"ssh\"",
            "port = 80.5",
            "port = []",
            "port = [80, 70000, \"x\"]",
            "service = \"htpps\"",
            "service = \"app-bd\"",
            "service = \"no such service at all\"",
            "service = 22",
            "service = \"ssh\"\nport = 22",
            "proto = \"tpc\"",
        ]
    ));
}

#[test]
fn bad_peers() {
    assert_snapshot!(said_of_rules(
        "out",
        &[
            "to = \"intrenal\"",
            "to = \"10.0.0.300\"",
            "to = \"10.0.0.1/8\"",
            "to = \"2001:db8::1/32\"",
            "to = \"10.0.0.0/33\"",
            "to = \"::/129\"",
            "to = \"10.0.0.0/+8\"",
            "to = \"fe80::1%eth0\"",
            "to = 10",
            "from = \"internal\"",
        ]
    ));
    assert_snapshot!(said_of_rules("in", &["to = \"internal\""]));
    assert_snapshot!(said_of_rules("listen", &["from = \"internal\""]));
}

#[test]
fn bad_owners() {
    assert_snapshot!(said_of_rules(
        "out",
        &[
            "user = \"appp\"",
            "user = \"nobody-here\"",
            "user = 4294967295",
            "user = -1",
            "user = 1.5",
            "unit = \"app*\"",
            "unit = \"app.timer\"",
            "unit = \"../app.service\"",
            "unit = \"gone.service\"",
            "exe = \"curl\"",
            "cgroup = \"system.slice\"",
        ]
    ));
}

#[test]
fn bad_rules() {
    let twice =
        rule("web", "out", "allow", "port = 80") + &rule("web", "out", "allow", "port = 81");
    assert_snapshot!(all_said(
        [
            rule("a b", "out", "deny", ""),
            rule("r\\u001b[31m", "out", "deny", ""),
            rule("r", "outbound", "deny", ""),
            rule("r", "out", "reject", ""),
            rule("r", "out", "deny", "alert = \"loud\""),
            rule("r", "out", "deny", "acton = \"deny\""),
            rule("r", "out", "deny", "frequency = 3"),
            rule("r", "out", "deny", "domain = \"example.org\""),
            rule("r", "out", "deny", "comm = \"curl\""),
            rule("r", "out", "deny", "container = \"web\""),
            rule("r", "out", "deny", "except = { user = \"app\" }"),
            rule("r", "out", "deny", "until = 2027-01-31"),
            rule("r", "out", "deny", "until = 2027-01-31T00:00:00"),
            rule("r", "out", "deny", "until = \"tomorrow\""),
            rule("r", "out", "deny", "until = 7"),
            twice,
        ]
        .map(|rules| format!("version = 1\n{rules}"))
    ));
}

#[test]
fn legal_but_without_effect() {
    assert_snapshot!(all_said(
        [
            rule("old", "out", "deny", "until = 2026-01-31T00:00:00Z"),
            rule("quic", "in", "deny", "proto = \"udp\"\nport = 443"),
            rule("web", "out", "allow", "port = 443"),
            rule("app", "in", "deny", "exe = \"/bin/a\""),
        ]
        .map(|rules| format!("version = 1\n{rules}"))
    ));
}

#[test]
fn every_error_is_named_at_once_in_the_order_of_the_text() {
    let text = "version = 3\nmod = \"observe\"\n[networks]\nlab = \"10.0.0.1/8\"\n".to_owned()
        + &rule(
            "r",
            "out",
            "deny",
            "port = 70000\nuser = \"appp\"\nto = \"lab\"",
        )
        + &rule("r", "sideways", "deny", "service = \"htpps\"");
    let invalid = parse(&text).unwrap_err();
    let lines: Vec<_> = invalid
        .diagnostics
        .iter()
        .map(super::Diagnostic::line)
        .collect();
    assert_eq!(lines, [1, 2, 4, 9, 10, 13, 14, 16]);
    assert!(
        invalid
            .to_string()
            .starts_with("policy.toml: 8 errors, nothing was applied\n"),
        "{invalid}"
    );
}

#[test]
fn of_very_many_errors_the_first_are_told_and_the_others_counted() {
    let keys = |count: usize| {
        (0..count).fold("version = 1\n".to_owned(), |text, key| {
            text + "k" + &key.to_string() + " = 1\n"
        })
    };
    let whole = parse(&keys(100)).unwrap_err();
    assert_eq!(whole.diagnostics.len(), 100);
    let invalid = parse(&keys(5_000)).unwrap_err();
    let told = &invalid.diagnostics;
    assert_eq!(
        (told.len(), told[99].line(), told[100].line()),
        (101, 101, 102)
    );
    let more = "there are 4900 more errors from here on: mend those above first";
    assert_eq!(told[100].problem.to_string(), more);
    let said = invalid.to_string();
    assert!(
        said.starts_with("policy.toml: 5000 errors, nothing"),
        "{said}"
    );
}

#[test]
fn column_counts_characters_and_long_files_keep_their_line_numbers() {
    let text = format!("version = 1\n{}mode = \"é\" # é\r\n", "#\n".repeat(5000));
    let invalid = parse(&text).unwrap_err();
    let diagnostic = &invalid.diagnostics[0];
    assert_eq!((diagnostic.line(), diagnostic.column()), (5002, 8));
    assert!(
        diagnostic.to_string().contains("5002 | mode = \"é\" # é"),
        "{diagnostic}"
    );
}

#[test]
fn only_the_coloured_style_has_escape_sequences() {
    let invalid = parse("version = 2").unwrap_err();
    assert!(!invalid.render(Style::Plain).contains('\u{1b}'));
    assert!(invalid.render(Style::Coloured).contains('\u{1b}'));
}

#[test]
fn names_out_of_the_policy_cannot_steer_the_terminal() {
    let escaped = "version = 1\n\"\\u001b[2J\" = 1\n[[rule]]\nname = \"\\u009b31m\"\n";
    // TOML takes these as they are.
    let bare = "version = 1\n# \u{9b}2J\nmode = \"\u{9b}31m\u{202e}\"\n";
    for policy in [escaped, bare] {
        let said = said(policy);
        let steers = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!said.contains(steers), "{said:?}");
    }
    let said = said("version = 1\nmode = \"é\u{80}\"\n");
    assert!(
        said.contains("mode = \"é\u{fffd}\"\n  |        ^^^^"),
        "{said}"
    );
}

#[test]
fn too_many_rules_are_refused() {
    let rules = |count: usize| -> String {
        let rules = (0..count).map(|n| {
            rule(
                &format!("r{n}"),
                "out",
                "deny",
                &format!("port = {}", n + 1),
            )
        });
        format!("version = 1\n{}", rules.collect::<String>())
    };
    assert!(parse(&rules(1024)).is_ok());
    assert!(said(&rules(1025)).contains("1025 rules are more than the 1024 a policy may have"));
}

#[test]
fn network_that_is_named_a_thousand_times_is_held_once() {
    let addresses: Vec<_> = (0..30_000)
        .map(|n| format!("\"10.0.{}.{}\"", n / 256, n % 256))
        .collect();
    let names = vec!["\"n\""; 1000].join(",");
    let text = format!(
        "version = 1\n[networks]\nn = [{}]\n{}",
        addresses.join(","),
        rule("r", "out", "deny", &format!("to = [{names}]"))
    );
    assert_eq!(policy(&text).tables.peers.len(), 7);
}

#[test]
fn more_than_the_tables_hold_is_told_where_it_is_too_much() {
    let uids = |from: usize, to: usize| {
        let uids: Vec<_> = (from..to).map(|uid| uid.to_string()).collect();
        format!("user = [{}]", uids.join(","))
    };
    let text = |most: usize| {
        let first = rule("first", "out", "deny", &uids(0, 40_000));
        let second = rule("second", "out", "deny", &uids(30_000, most));
        format!("version = 1\n{first}{second}")
    };
    assert!(parse(&text(65_536)).is_ok());
    let told = said(&text(65_537));
    assert!(
        told.contains("65537 different users: the kernel's tables hold 65536"),
        "{told}"
    );
    assert!(told.contains("policy.toml:7:"), "{told}");
}
