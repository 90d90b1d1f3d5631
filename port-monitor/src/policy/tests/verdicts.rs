//! Rule text and flow to verdict.

use std::path::Path;

use port_monitor_common::policy::{Direction, Transport, Verdict};

use super::{NOW_NS, facts, inbound, outbound, policy, rule};
use crate::policy::{Facts, Policy, Reason};

const ALLOW: &str = "allow";
const DENY: &str = "deny";

/// `rule (or "-") verdict` of one connection.
fn judged(policy: &Policy, facts: &Facts<'_>) -> (String, &'static str) {
    let judgement = policy.judge(facts);
    let verdict = match judgement.verdict {
        Verdict::Allow => ALLOW,
        Verdict::AuditDeny => DENY,
        Verdict::Deny => panic!("a policy that observes denies nothing"),
    };
    (judgement.rule.as_deref().unwrap_or("-").to_owned(), verdict)
}

#[track_caller]
fn assert_judged(policy: &Policy, cases: &[(Facts<'_>, &str, &str)]) {
    for (facts, rule, verdict) in cases {
        assert_eq!(
            judged(policy, facts),
            ((*rule).to_owned(), *verdict),
            "{facts:?}"
        );
    }
}

/// A policy of one deny rule in a world that allows.
fn denying(direction: &str, conditions: &str) -> Policy {
    policy(&format!(
        "version = 1\n{}",
        rule("r", direction, "deny", conditions)
    ))
}

fn as_app(facts: Facts<'_>) -> Facts<'_> {
    Facts {
        uid: Some(1000),
        ..facts
    }
}

#[test]
fn a_listener_is_judged_by_its_port_and_owner_wherever_it_listens() {
    let listener = |port| Facts {
        direction: Direction::Listen,
        ..inbound("0.0.0.0", port)
    };
    let policy = policy(&format!(
        "version = 1\n[default]\nlisten = {{ action = \"deny\" }}\n{}",
        rule("app", "listen", "allow", "port = 8080\nuser = \"app\"")
    ));
    assert_judged(
        &policy,
        &[
            (as_app(listener(8080)), "app", ALLOW),
            (listener(8080), "-", DENY),
            (as_app(listener(22)), "-", DENY),
            (inbound("203.0.113.7", 22), "-", ALLOW),
        ],
    );
}

#[test]
fn sample_policy_judges_as_its_comments_say() {
    let www_data = Facts {
        uid: Some(33),
        ..outbound("10.0.0.9", 5432)
    };
    assert_judged(
        &policy(include_str!("../../../../examples/policy.toml")),
        &[
            (inbound("10.1.2.3", 22), "ssh-internal", ALLOW),
            (inbound("fd00::7", 22), "ssh-internal", ALLOW),
            (inbound("203.0.113.5", 22), "-", DENY),
            (inbound("10.1.2.3", 80), "-", DENY),
            (inbound("10.1.2.3", 23), "no-telnet-in", DENY),
            (outbound("203.0.113.5", 80), "web-out", ALLOW),
            (outbound("203.0.113.5", 443), "web-out", ALLOW),
            (outbound("203.0.113.5", 25), "-", DENY),
            (outbound("10.1.2.3", 23), "no-telnet-out", DENY),
            (outbound("127.0.0.1", 23), "no-telnet-out", DENY),
            (www_data, "postgres-web-only", ALLOW),
            (outbound("10.0.0.9", 5432), "-", DENY),
            (outbound("127.0.0.1", 8080), "-", ALLOW),
            (inbound("::1", 8080), "-", ALLOW),
        ],
    );
}

#[test]
fn first_matching_rule_decides_and_later_ones_do_not() {
    let text = [
        "version = 1\n",
        &rule("one-host", "out", "allow", "to = \"10.0.0.1\""),
        &rule("no-ssh", "out", "deny", "service = \"ssh\""),
    ];
    assert_judged(
        &policy(&text.concat()),
        &[
            (outbound("10.0.0.1", 22), "one-host", ALLOW),
            (outbound("10.0.0.2", 22), "no-ssh", DENY),
            (outbound("10.0.0.2", 80), "-", ALLOW),
            (inbound("10.0.0.2", 22), "-", ALLOW),
        ],
    );
}

#[test]
fn every_way_to_write_a_port_matches_its_ports_only() {
    for (written, inside, outside) in [
        ("port = 8080", vec![8080], vec![8079, 8081]),
        ("port = \"8000-8100\"", vec![8000, 8100], vec![7999, 8101]),
        ("port = [1, \"3-4\"]", vec![1, 3, 4], vec![2, 5]),
        ("port = \"well-known\"", vec![1, 1023], vec![1024]),
        (
            "port = \"registered\"",
            vec![1024, 49151],
            vec![1023, 49152],
        ),
        ("port = \"dynamic\"", vec![49152, 65535], vec![49151]),
        ("service = \"ssh\"", vec![22], vec![23]),
        ("service = [\"http\", \"https\"]", vec![80, 443], vec![81]),
        ("", vec![1, 65535], vec![]),
    ] {
        let policy = denying("in", written);
        for port in inside {
            assert_judged(&policy, &[(inbound("10.0.0.1", port), "r", DENY)]);
        }
        for port in outside {
            assert_judged(&policy, &[(inbound("10.0.0.1", port), "-", ALLOW)]);
        }
    }
}

#[test]
fn every_way_to_write_a_peer_matches_its_peers_only() {
    let networks = "[networks]\nlab = [\"10.0.0.0/8\", \"fc00::/7\"]\nhost = \"10.9.9.9\"\n";
    for (written, inside, outside) in [
        (
            "\"lab\"",
            vec!["10.255.0.1", "::ffff:10.0.0.1", "fd00::1"],
            vec!["11.0.0.1", "fe80::1"],
        ),
        ("\"host\"", vec!["10.9.9.9"], vec!["10.9.9.8"]),
        ("\"192.0.2.0/24\"", vec!["192.0.2.255"], vec!["192.0.3.0"]),
        (
            "\"::ffff:192.0.2.0/120\"",
            vec!["192.0.2.1"],
            vec!["::c000:201"],
        ),
        (
            "\"0.0.0.0/0\"",
            vec!["8.8.8.8", "0.0.0.0"],
            vec!["2001:db8::1"],
        ),
        (
            "\"::/0\"",
            vec!["2001:db8::1", "::"],
            vec!["8.8.8.8", "::ffff:8.8.8.8"],
        ),
        (
            "\"0.0.0.0\"",
            vec!["127.0.0.1", "0.0.0.0"],
            vec!["127.0.0.2"],
        ),
        (
            "\"self\"",
            vec!["127.0.0.1", "127.9.9.9", "::1", "::"],
            vec!["10.0.0.1"],
        ),
        (
            "[\"self\", \"10.0.0.1\"]",
            vec!["::1", "10.0.0.1"],
            vec!["10.0.0.2"],
        ),
    ] {
        let text = rule("r", "out", "deny", &format!("to = {written}"));
        let policy = policy(&format!("version = 1\n{networks}{text}"));
        for peer in inside {
            assert_judged(&policy, &[(outbound(peer, 80), "r", DENY)]);
        }
        for peer in outside {
            assert_judged(&policy, &[(outbound(peer, 80), "-", ALLOW)]);
        }
    }
}

#[test]
fn own_address_is_self_as_loopback_is() {
    let own = Facts {
        peer_is_self: true,
        ..outbound("10.0.0.5", 80)
    };
    assert_judged(&denying("out", "to = \"self\""), &[(own, "r", DENY)]);
}

#[test]
fn owner_conditions_match_the_known_owner_only() {
    let app = Facts {
        uid: Some(1000),
        unit: Some("app.service"),
        cgroup: Some("/system.slice/app.service"),
        exe: Some(Path::new("/usr/bin/app")),
        ..outbound("10.0.0.1", 80)
    };
    let unknown = Facts {
        uid: None,
        unit: None,
        cgroup: None,
        exe: None,
        ..app
    };
    for condition in [
        "user = \"app\"",
        "user = 1000",
        "user = [\"root\", 1000]",
        "unit = \"app.service\"",
        "unit = [\"web.service\", \"app.service\"]",
        "cgroup = \"/system.slice\"",
        "cgroup = \"/system.slice/app.service/\"",
        "exe = \"/usr/bin/app\"",
    ] {
        let policy = denying("out", condition);
        assert_judged(
            &policy,
            &[
                (app, "r", DENY),
                (unknown, "-", ALLOW),
                (outbound("10.0.0.1", 80), "-", ALLOW),
            ],
        );
    }
}

#[test]
fn conditions_of_one_rule_must_all_hold() {
    let policy = denying(
        "out",
        "service = \"ssh\"\nto = \"10.0.0.0/8\"\nuser = \"app\"",
    );
    assert_judged(
        &policy,
        &[
            (as_app(outbound("10.0.0.1", 22)), "r", DENY),
            (as_app(outbound("10.0.0.1", 23)), "-", ALLOW),
            (as_app(outbound("11.0.0.1", 22)), "-", ALLOW),
            (outbound("10.0.0.1", 22), "-", ALLOW),
        ],
    );
}

#[test]
fn default_spares_loopback_unless_told_to_filter_it() {
    let spares = policy("version = 1\n[default]\ninbound = { action = \"deny\" }\n");
    let filters =
        policy("version = 1\n[default]\ninbound = { action = \"deny\", loopback = \"filter\" }\n");
    let own_lan_address = Facts {
        peer_is_self: true,
        ..inbound("10.0.0.5", 80)
    };
    assert_judged(
        &spares,
        &[
            (inbound("127.0.0.1", 80), "-", ALLOW),
            (inbound("::ffff:127.0.0.1", 80), "-", ALLOW),
            (own_lan_address, "-", DENY),
        ],
    );
    assert_judged(&filters, &[(inbound("127.0.0.1", 80), "-", DENY)]);
}

#[test]
fn each_direction_has_its_own_default() {
    let policy = policy(
        "version = 1\n[default]\noutbound = { action = \"deny\" }\nlisten = { action = \"deny\" }\n",
    );
    assert_judged(
        &policy,
        &[
            (inbound("10.0.0.1", 22), "-", ALLOW),
            (outbound("10.0.0.1", 22), "-", DENY),
            (facts(Direction::Listen, "::2", 22), "-", DENY),
        ],
    );
}

#[test]
fn failsafe_comes_before_every_rule() {
    let text = [
        "version = 1\n",
        "[failsafe]\ninbound = [{ service = \"ssh\", from = \"10.0.0.0/8\" }]\n",
        &rule("none-in", "in", "deny", ""),
    ];
    assert_judged(
        &policy(&text.concat()),
        &[
            (inbound("10.0.0.1", 22), "failsafe:inbound:1", ALLOW),
            (inbound("11.0.0.1", 22), "none-in", DENY),
        ],
    );
}

#[test]
fn rule_is_gone_after_its_until() {
    let policy = denying("out", "until = 2026-11-22T01:00:00+01:00");
    let before = Facts {
        now_ns: NOW_NS - 1,
        ..outbound("10.0.0.1", 80)
    };
    assert_judged(
        &policy,
        &[(before, "r", DENY), (outbound("10.0.0.1", 80), "-", ALLOW)],
    );
}

#[test]
fn udp_only_rule_never_matches_tcp() {
    for conditions in ["proto = \"udp\"", "service = \"game\""] {
        let text = rule("r", "out", "deny", conditions);
        let policy = policy(&format!(
            "version = 1\n[services]\ngame = \"27015/udp\"\n{text}"
        ));
        assert_judged(&policy, &[(outbound("10.0.0.1", 27015), "-", ALLOW)]);
        let datagram = Facts {
            transport: Transport::Udp,
            ..outbound("10.0.0.1", 27015)
        };
        assert_judged(&policy, &[(datagram, "r", DENY)]);
    }
}

#[test]
fn rule_of_any_transport_matches_udp_where_another_names_it_and_only_outbound() {
    let [dns, web] = [
        rule(
            "dns",
            "out",
            "allow",
            "service = \"domain\"\nproto = [\"udp\"]",
        ),
        rule("web", "out", "allow", "service = \"https\""),
    ];
    let default = "version = 1\n[default]\noutbound = { action = \"deny\" }\n";
    let judging = policy(&format!("{default}{dns}{web}"));
    let other = policy(&format!("{default}{web}"));
    let udp = |port| Facts {
        transport: Transport::Udp,
        ..outbound("10.0.0.1", port)
    };
    assert_judged(
        &judging,
        &[
            (udp(53), "dns", ALLOW),
            (udp(443), "web", ALLOW),
            (udp(123), "-", DENY),
            (outbound("10.0.0.1", 53), "-", DENY),
        ],
    );
    for (policy, is_judged) in [(&judging, true), (&other, false)] {
        assert_eq!(
            policy.judges(Direction::Outbound, Transport::Udp),
            is_judged
        );
        assert!(!policy.judges(Direction::Inbound, Transport::Udp));
        let unjudged = policy.explain(&udp(123)).reason == Reason::Unjudged;
        assert_eq!(unjudged, !is_judged);
    }
}

#[test]
fn own_service_names_win_over_the_registry() {
    let text = rule("r", "out", "deny", "service = \"ssh\"");
    let policy = policy(&format!(
        "version = 1\n[services]\nssh = [\"2222/tcp\", \"2300-2400/tcp\"]\n{text}"
    ));
    assert_judged(
        &policy,
        &[
            (outbound("10.0.0.1", 2222), "r", DENY),
            (outbound("10.0.0.1", 2350), "r", DENY),
            (outbound("10.0.0.1", 22), "-", ALLOW),
        ],
    );
}
