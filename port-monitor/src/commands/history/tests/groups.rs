//! Connections counted by what they have in common.

use super::*;

/// The keys and counts of the groups.
fn counts(place: &Place, line: &str) -> Vec<String> {
    let told = place.told(&format!("{line} -o csv"));
    let rows = told.lines().skip(1);
    rows.map(|row| row.split(',').take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

/// With three connections of curl, two of nc and one of nobody.
fn place() -> Place {
    let place = Place::empty();
    let mut judged = at(&closed(), 3, 2 * SECOND);
    judged.judgement = Some(Judgement::of(Verdict::Allow, Some("web".into())));
    let mut defaulted = at(&violation(), 5, 4 * SECOND);
    if let Some(judgement) = &mut defaulted.judgement {
        judgement.rule = None;
    }
    place.run(
        0,
        3 * HOUR,
        &[
            at(&closed(), 1, 0),
            at(&closed(), 2, SECOND),
            judged,
            at(&violation(), 4, 3 * SECOND),
            defaulted,
            at(&ownerless(), 6, 5 * SECOND),
        ],
        &[],
    );
    place
}

#[test]
fn table_has_the_greatest_first_and_the_foot_says_what_is_missing() {
    assert_eq!(
        place().told("--by process"),
        "  PROCESS COUNT FAILED VIOLATIONS OUT  IN   FIRST               LAST\n\
         \u{20} curl    3     0      0          3.6K 252K 2026-11-22 11:59:52 2026-11-22 11:59:54\n\
         \u{20} nc      2     2      2          0    0    2026-11-22 12:00:04 2026-11-22 12:00:05\n\
         \u{20} -       1     0      0          0    0    2026-11-22 12:00:06 2026-11-22 12:00:06\n\
         # nobody watched since 2026-11-22 15:00:01 (not running)\n"
    );
}

#[test]
fn connections_are_counted_by_each_thing_they_have() {
    let place = place();
    for (by, groups) in [
        ("process", &["curl 3", "nc 2", " 1"][..]),
        ("exe", &["/usr/bin/curl 5", " 1"]),
        ("user", &["ann 5", " 1"]),
        ("unit", &["session-2.scope 5", " 1"]),
        ("container", &[" 6"]),
        ("service", &["443 https 4", "23 telnet 2"]),
        ("remote", &["93.184.216.34 4", "10.0.0.9 2"]),
        ("rule", &[" 3", "(default) 1", "no-telnet 1", "web 1"]),
    ] {
        assert_eq!(counts(&place, &format!("--by {by}")), groups, "{by}");
    }
}

#[test]
fn groups_are_sorted_and_limited_as_asked_for() {
    let place = place();
    for (line, groups) in [
        ("--by process --sort failed", &["nc 2", " 1", "curl 3"][..]),
        ("--by process --sort violations --limit 1", &["nc 2"]),
        ("--by process --sort bytes --limit 1", &["curl 3"]),
        ("--by process --sort last", &[" 1", "nc 2", "curl 3"]),
        ("--by process --sort first", &[" 1", "nc 2", "curl 3"]),
        ("--by process --sort name", &[" 1", "curl 3", "nc 2"]),
        ("--by remote --comm nc", &["10.0.0.9 2"]),
        ("--by process --violations --since 1d", &["nc 2"]),
    ] {
        assert_eq!(counts(&place, line), groups, "{line}");
    }
}

#[test]
fn sums_are_numbers_in_json_and_csv() {
    let place = place();
    assert_eq!(
        place.told("--by process --limit 1 -o json"),
        "{\"process\":\"curl\",\"connections\":3,\"failed\":0,\"violations\":0,\
         \"bytes_sent\":3702,\"bytes_received\":258048,\
         \"first\":\"2026-11-22T11:59:52.876543211Z\",\
         \"last\":\"2026-11-22T11:59:54.876543211Z\"}\n"
    );
    assert_eq!(
        place.told("--by rule --sort violations --limit 1 -o csv"),
        "rule,connections,failed,violations,bytes_sent,bytes_received,first,last\n\
         (default),1,1,1,0,0,2026-11-22T12:00:05.000000000Z,2026-11-22T12:00:05.000000000Z\n"
    );
}

#[test]
fn what_counts_cannot_have_is_refused() {
    let place = place();
    let said = "--fields chooses columns of connections: sums have their own";
    assert_eq!(place.refused("--by user --fields pid"), said);
    for (line, said) in [("--sort bytes", "--by <KEY>"), ("--by domain", "rule")] {
        let refusal = place.refused(line);
        assert!(refusal.contains(said), "{refusal}");
    }
}
