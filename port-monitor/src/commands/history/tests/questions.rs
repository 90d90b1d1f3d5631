//! Who, what is new, what is unused, and how much over time.

use super::*;
use crate::consume::lines::sample::listening;

/// The first columns of each line of CSV.
fn columns(place: &Place, line: &str, count: usize) -> Vec<String> {
    let told = place.told(&format!("{line} -o csv"));
    let rows = told.lines().skip(1);
    rows.map(|row| row.split(',').take(count).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn who_used_a_port_is_told_with_the_peer() {
    let place = Place::new();
    for (line, talks) in [
        (
            "who 22-443",
            &[
                "curl out 93.184.216.34 1",
                "nc out 10.0.0.9 1",
                "sshd in 10.0.0.7 1",
            ][..],
        ),
        ("who ssh", &["sshd in 10.0.0.7 1"]),
        // The port of a client is no service's.
        ("who 53122,49152", &[]),
        ("who well-known --failed", &["nc out 10.0.0.9 1"]),
        ("who well-known --since 3h", &["sshd in 10.0.0.7 1"]),
        (
            "who well-known --limit 1 --direction out",
            &["curl out 93.184.216.34 1"],
        ),
    ] {
        assert_eq!(columns(&place, line, 4), talks, "{line}");
    }
    assert_eq!(
        place.told("who ssh"),
        "  PROCESS DIRECTION REMOTE   COUNT FAILED VIOLATIONS OUT IN FIRST               LAST\n\
         \u{20} sshd    in        10.0.0.7 1     0      0          0   0  2026-11-22 14:00:01 \
         2026-11-22 14:00:01\n\
         # nobody watched since 2026-11-22 15:00:01 (not running)\n"
    );
}

#[test]
fn new_is_what_was_never_seen_before() {
    let place = Place::empty();
    let mut elsewhere = at(&closed(), 4, 3 * HOUR + 10 * SECOND);
    elsewhere.event.remote_port = 8_443;
    let records = [
        at(&closed(), 1, 10 * SECOND),
        at(&accepted(), 2, 20 * SECOND),
        at(&violation(), 3, 3 * HOUR),
        elsewhere,
    ];
    place.run(0, 4 * HOUR, &records, &[]);
    assert_eq!(
        columns(&place, "new --since 2h", 3),
        [
            "process nc 1",
            "service 8443 pcsync-https 1",
            "service 23 telnet 1",
            "remote 10.0.0.9 1"
        ]
    );
    assert_eq!(
        columns(&place, "new --since 2h --comm curl", 3),
        ["service 8443 pcsync-https 1"]
    );
    let told = place.told("new");
    assert!(
        told.contains("# all of it is new: the history begins 2026-11-22 12:00:01\n"),
        "{told}"
    );
    let told = place.told("new --since 1h");
    assert!(!told.contains("all of it is new"), "{told}");
}

#[test]
fn unused_listeners_are_those_that_nothing_came_in_by() {
    let place = Place::empty();
    let listener = |id, ip: &str, port| {
        let mut record = at(&listening(), id, 0);
        record.event.local_ip = ip.parse().unwrap();
        record.event.local_port = Some(port);
        record
    };
    let mut closed = listener(6, "0.0.0.0", 999);
    closed.event.action = Action::Unlisten;
    let mut elsewhere = at(&accepted(), 9, 30 * SECOND);
    elsewhere.event.local_port = Some(80);
    let records = [
        // Used an hour and a half ago.
        listener(1, "0.0.0.0", 22),
        // Another address than that of the connection.
        listener(2, "127.0.0.1", 22),
        listener(3, "::", 80),
        listener(4, "::1", 80),
        listener(5, "10.0.0.5", 443),
        listener(6, "0.0.0.0", 999),
        closed,
        at(&accepted(), 8, 2 * HOUR + HOUR / 2),
        elsewhere,
        // This host was the client.
        at(&connected(), 10, 40 * SECOND),
    ];
    place.run(0, 4 * HOUR, &records, &[]);
    let unused = |line: &str| columns(&place, line, 2);
    assert_eq!(
        unused("unused --since 1d"),
        ["22 ssh 127.0.0.1", "80 http ::1", "443 https 10.0.0.5"]
    );
    assert_eq!(
        unused("unused --since 2h"),
        [
            "22 ssh 127.0.0.1",
            "80 http ::",
            "80 http ::1",
            "443 https 10.0.0.5"
        ]
    );
    let told = place.told("unused --since 2h");
    let foot = "# 4 of 5 listeners unused since 2026-11-22 14:00:01\n";
    assert!(told.contains(foot), "{told}");
    // Those of a run before are not there any more.
    place.run(5 * HOUR, 6 * HOUR, &[], &[]);
    assert_eq!(unused("unused --since 1d").len(), 0);
}

#[test]
fn stats_are_counts_over_time_and_tell_when_nobody_watched() {
    let place = Place::new();
    let line = "stats --since 2026-11-22T11:00 --until 2026-11-22T16:00";
    let rows = columns(&place, line, 5);
    assert_eq!(rows.len(), 30);
    assert_eq!(rows[5], "2026-11-22T11:50:00.000000000Z 0 0 0 600");
    assert_eq!(rows[6], "2026-11-22T12:00:00.000000000Z 2 1 1 1");
    assert_eq!(rows[18], "2026-11-22T14:00:00.000000000Z 1 0 0 0");
    assert_eq!(rows[29], "2026-11-22T15:50:00.000000000Z 0 0 0 600");
    let told = place.told(line);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines[0],
        "  TIME                CONNECTIONS FAILED VIOLATIONS "
    );
    let with = |time: &str| *lines.iter().find(|line| line.contains(time)).unwrap();
    let (ok, failed) = ("█".repeat(25), "░".repeat(25));
    assert_eq!(
        with("12:00:00"),
        format!("  2026-11-22 12:00:00 2           1      1          {ok}{failed}")
    );
    assert!(with("14:00:00").ends_with(&format!(" {ok}")));
    assert!(with("11:30:00").ends_with(" nobody watched"));
    assert!(told.contains("# each line is 10m: █ connections, ░ attempts that failed\n"));
    let failed = columns(&place, &format!("{line} --failed"), 3);
    assert_eq!(failed[18], "2026-11-22T14:00:00.000000000Z 0 0");
}

#[test]
fn a_drawing_has_a_bar_for_each_span() {
    let place = Place::new();
    let svg = place.dir.path().join("out.svg");
    let line = format!("stats --svg {}", svg.display());
    place.told(&line);
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(
        drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"),
        "{drawn}"
    );
    let bars = |fill: &str| drawn.matches(fill).count();
    // The last 24 hours, and those of them that nobody watched.
    assert_eq!((bars("#3070b0"), bars("#ddd")), (49, 44));
    assert!(
        drawn.contains("2026-11-22 12:00:00: 2 connections, 1 failed"),
        "{drawn}"
    );
    let refused = place.refused("stats --svg /no/such/dir/out.svg");
    assert!(
        refused.starts_with("write /no/such/dir/out.svg: No such file"),
        "{refused}"
    );
}

#[test]
fn sql_names_the_file_and_a_question_that_it_answers() {
    let place = Place::new();
    let told = place.told("sql");
    let path = place.path();
    let (first, command) = told.split_once('\n').unwrap();
    assert_eq!(first, path.to_str().unwrap());
    let question = command.split('"').nth(1).unwrap();
    let db = rusqlite::Connection::open(path).unwrap();
    let process: String = db.query_row(question, [], |row| row.get(1)).unwrap();
    assert_eq!(process, "sshd");
}
