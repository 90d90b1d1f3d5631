//! What `history` tells of a history, and what it refuses.

mod groups;
mod questions;

use std::{path::PathBuf, time::Duration};

use clap::Parser as _;
use jiff::tz::TimeZone;
use port_monitor_common::policy::Verdict;
use serde_json::Value;
use tempfile::TempDir;

use crate::commands::{history::*, policy};
use crate::{
    cli::{Cli, Command},
    consume::{
        consumer::{Consumer as _, Kinds},
        history::{History, Keep},
        lines::{
            json::tests::Validator,
            sample::{
                NOON_NS, accepted, closed, comm, connected, header, ownerless, summary, violation,
            },
        },
    },
    events::{
        decode::Action,
        record::{Item, Judgement, Loss, LossCause, Record, Summary},
    },
};

const SECOND: i128 = 1_000_000_000;
const HOUR: i128 = 3_600 * SECOND;

const KEEP: Keep = Keep {
    age: Duration::from_hours(24 * 365),
    bytes: 1 << 30,
};

/// A directory with a history.
struct Place {
    dir: TempDir,
}

/// `record`, of connection `id`, so many ns after noon.
fn at(record: &Record, id: u64, ns: i128) -> Record {
    let mut record = record.clone();
    record.event.id = id;
    record.wall_ns = NOON_NS + ns;
    record.event.ts_ns = 5_000_000_000 + u64::try_from(ns).unwrap();
    record
}

impl Place {
    /// With a connection of curl at noon, one of nc that was denied a minute later, and two
    /// hours after noon one that a peer has opened and that is open. An hour later nobody
    /// watches any more.
    fn new() -> Self {
        let place = Self::empty();
        let mut attempt = at(&connected(), 1, 0);
        attempt.event.action = Action::Connect;
        place.run(
            0,
            3 * HOUR,
            &[
                attempt,
                at(&connected(), 1, 12_345_000),
                at(&closed(), 1, 8_123_456_789),
                at(&violation(), 2, 60 * SECOND),
                at(&accepted(), 3, 2 * HOUR),
            ],
            &[],
        );
        place
    }

    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("history.db")
    }

    /// A run from and to so many ns after noon, that is told this.
    fn run(&self, began: i128, ended: i128, records: &[Record], losses: &[Loss]) {
        let mut history = History::open(&self.path(), Kinds::ALL, KEEP).unwrap();
        let mut header = header();
        header.wall_ns = NOON_NS + began;
        history.take(Item::Header(&header));
        for record in records {
            history.take(Item::Event(record));
        }
        for loss in losses {
            history.take(Item::Loss(loss));
        }
        history.settle();
        let wall_ns = NOON_NS + ended;
        let summary = Summary {
            wall_ns,
            ..summary()
        };
        history.take(Item::Summary(&summary));
    }

    /// What `history` with these arguments says four hours after noon, in UTC.
    fn told(&self, line: &str) -> String {
        self.try_tell(line).unwrap()
    }

    fn refused(&self, line: &str) -> String {
        self.try_tell(line).unwrap_err()
    }

    fn try_tell(&self, line: &str) -> Result<String, String> {
        let path = self.path();
        let words = ["port-monitor", "history"].into_iter();
        let words = words.chain(line.split(' ').filter(|word| !word.is_empty()));
        let words = words.chain(["--file", path.to_str().unwrap()]);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::History(args)) = cli.command else {
            panic!("{line} is no history");
        };
        let here = Here {
            now_ns: NOON_NS + 4 * HOUR,
            zone: TimeZone::UTC,
        };
        let mut out = Vec::new();
        match run_at(&args, &here, &mut out) {
            Ok(code) => assert_eq!(code, ExitCode::Ok),
            Err(failure) => return Err(format!("{:#}", failure.error)),
        }
        Ok(String::from_utf8(out).unwrap())
    }

    /// The ids of the connections that are told.
    fn ids(&self, line: &str) -> Vec<u64> {
        let told = self.told(&format!("{line} -o csv --fields id"));
        let ids = told.lines().skip(1);
        ids.map(|id| u64::from_str_radix(id, 16).unwrap()).collect()
    }
}

#[test]
fn table_has_a_row_for_each_connection_and_says_what_is_missing() {
    assert_eq!(
        Place::new().told(""),
        "  TIME      DIR PID    PROCESS   LOCAL              REMOTE                    RESULT\n\
         # 2026-11-22\n\
         \u{20} 12:00:01  ->  1469   curl      10.0.0.5:49152     93.184.216.34:443 https   8.1s \
         1.2K out 84K in\n\
         ! 12:01:01  ->  2211   nc        10.0.0.5:40310     10.0.0.9:23 telnet        refused  \
         no-telnet\n\
         \u{20} 14:00:01  <-  812    sshd      10.0.0.5:22 ssh    10.0.0.7:53122            cut \
         off\n\
         # 3 connections, 1 failed, 1 violation\n\
         # nobody watched since 2026-11-22 15:00:01 (not running)\n"
    );
}

#[test]
fn a_table_tells_each_day_and_what_was_carried_by_what_has_no_end() {
    let place = Place::empty();
    let mut open = at(&closed(), 1, 0);
    if let Action::Close(so_far) = open.event.action {
        open.event.action = Action::Progress(so_far);
    }
    place.run(0, SECOND, &[open, at(&connected(), 2, 13 * HOUR)], &[]);
    let told = place.told("--fields dir,result");
    let rows: Vec<_> = told.lines().collect();
    assert_eq!(
        rows[1..5],
        [
            "# 2026-11-22",
            "  ->  cut off 8.1s 1.2K out 84K in",
            "# 2026-11-23",
            "  ->  cut off",
        ]
    );
}

#[test]
fn what_is_open_is_told_beside_the_monitor_that_watches_it() {
    let begun = |before: i128| {
        let place = Place::empty();
        let mut history = History::open(&place.path(), Kinds::ALL, KEEP).unwrap();
        let mut header = header();
        header.wall_ns = NOON_NS + 4 * HOUR - before;
        history.take(Item::Header(&header));
        (place, history)
    };
    let (place, mut history) = begun(20 * SECOND);
    // So many are written at once.
    for id in 1..=1_000 {
        history.take(Item::Event(&at(&accepted(), id, i128::from(id))));
    }
    assert_eq!(place.ids("--open").len(), 1_000);
    assert_eq!(
        place.told("--limit 1 --fields dir,result"),
        "  DIR RESULT\n# 2026-11-22\n  <-  open\n# 1 connection, 0 failed, 0 violations\n"
    );
    drop(history);
    // It has not told of itself for too long.
    let (place, _history) = begun(40 * SECOND);
    let told = place.told("");
    let foot = "# nobody watched since 2026-11-22 15:59:21 (cut off)\n";
    assert!(told.ends_with(foot), "{told}");
}

#[test]
fn csv_quotes_what_would_be_taken_apart() {
    let place = Place::empty();
    let mut odd = at(&connected(), 1, 0);
    if let Some(owner) = &mut odd.event.owner {
        owner.process_comm = comm(b"a \"b\", c");
    }
    place.run(0, SECOND, &[odd, at(&ownerless(), 2, 5)], &[]);
    assert_eq!(
        place.told("-o csv --fields timestamp,process,remote_port"),
        "timestamp,process,remote_port\n\
         2026-11-22T12:00:01.000000000Z,\"a \"\"b\"\", c\",443\n\
         2026-11-22T12:00:01.000000005Z,,443\n"
    );
    let all = place.told("-o csv");
    let columns: Vec<_> = all.lines().map(|line| line.split(',').count()).collect();
    // One comma more is within the quotes.
    assert_eq!(columns, [33, 34, 33]);
}

#[test]
fn json_lines_are_valid_and_have_what_is_kept() {
    let place = Place::new();
    let validator = Validator::new();
    let told = place.told("-o json");
    let lines: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        assert_eq!(validator.check(line), Ok(()), "{line:#}");
    }
    let said = |line: &Value| {
        let action = line["event"]["action"].as_str().unwrap().to_owned();
        let state = line["port_monitor"]["connection_state"].as_str().unwrap();
        format!("{action} {state}")
    };
    let said: Vec<_> = lines.iter().map(said).collect();
    assert_eq!(said, ["close closed", "failed failed", "accept cut-off"]);
    let first = &lines[0];
    assert_eq!(first["@timestamp"], "2026-11-22T12:00:01.000000000Z");
    assert_eq!(first["port_monitor"]["handshake_us"], 12_345);
    assert_eq!(first["source"]["bytes"], 1_234);
    assert_eq!(lines[1]["rule"]["ruleset"], "policy.toml");
    for absent in ["/process/thread", "/process/start", "/port_monitor/cpu"] {
        assert_eq!(first.pointer(absent), None, "{absent}");
    }
}

#[test]
fn a_policy_is_learned_from_what_was_kept() {
    let place = Place::new();
    let recording = place.dir.path().join("events.jsonl");
    std::fs::write(&recording, place.told("-o json")).unwrap();
    let words = [
        "port-monitor",
        "policy",
        "learn",
        recording.to_str().unwrap(),
    ];
    let cli = Cli::try_parse_from(words).unwrap();
    let Some(Command::Policy(args)) = cli.command else {
        panic!("no policy");
    };
    let mut learned = Vec::new();
    policy::run(&args, &mut learned).unwrap();
    let learned = String::from_utf8(learned).unwrap();
    for rule in ["/usr/bin/curl", "/usr/sbin/sshd", "https", "telnet"] {
        assert!(learned.contains(rule), "no {rule} in {learned}");
    }
}

#[test]
fn filters_are_those_of_a_run() {
    let place = Place::new();
    for (line, ids) in [
        ("", &[1, 2, 3][..]),
        ("--violations", &[2]),
        ("--failed", &[2]),
        ("--open", &[]),
        ("--pid 812,2211", &[2, 3]),
        ("--user ann", &[1, 2]),
        ("--user 0", &[3]),
        ("--comm curl,sshd", &[1, 3]),
        ("--port 22-23,443", &[1, 2, 3]),
        ("-P ssh", &[3]),
        ("--local-port ssh", &[3]),
        ("-R https", &[1]),
        ("--remote 10.0.0.0/8", &[2, 3]),
        ("--remote 10.0.0.7,93.184.216.0/24", &[1, 3]),
        ("--remote ::/0", &[]),
        ("--direction in", &[3]),
        ("--direction out --remote 10.0.0.0/8", &[2]),
        ("-4", &[1, 2, 3]),
        ("-6", &[]),
        ("--unit session-2.scope", &[1, 2]),
        ("--cgroup /system.slice", &[3]),
        ("--limit 2", &[2, 3]),
        ("--limit 1 --comm curl,nc", &[2]),
        ("--since 3h", &[3]),
        ("--since 2026-11-22T12:01:01", &[2, 3]),
        ("--until 2026-11-22T12:01:01Z", &[1]),
        ("--since today --until 2026-11-22T15:00+02:00", &[1, 2]),
        ("--since yesterday --until today", &[]),
    ] {
        assert_eq!(place.ids(line), ids, "{line}");
    }
}

#[test]
fn networks_of_ipv6_hold_no_ipv4() {
    let place = Place::empty();
    let mut v6 = at(&connected(), 1, 0);
    v6.event.local_ip = "2001:db8::1".parse().unwrap();
    v6.event.remote_ip = "a00::7".parse().unwrap();
    place.run(0, SECOND, &[v6, at(&accepted(), 2, 5)], &[]);
    for (line, ids) in [
        ("--remote 10.0.0.0/8", &[2][..]),
        ("--remote a00::/16", &[1]),
        ("--remote ::/0", &[1]),
        ("--remote 0.0.0.0/0", &[2]),
        ("-6", &[1]),
        ("-4", &[2]),
    ] {
        assert_eq!(place.ids(line), ids, "{line}");
    }
}

#[test]
fn more_than_a_page_comes_once_and_in_order() {
    let place = Place::empty();
    let records: Vec<_> = (1..=4_500)
        .map(|id| at(&violation(), id, i128::from(id % 1_500 * 10)))
        .collect();
    place.run(0, SECOND, &records, &[]);
    for (line, first) in [("", 1), ("--violations", 1), ("--limit 4100", 401)] {
        let mut ids = place.ids(line);
        let count = 4_501 - first;
        assert_eq!(ids.len(), usize::try_from(count).unwrap(), "{line}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), usize::try_from(count).unwrap(), "{line}");
        let told = place.told(&format!("{line} -o csv --fields timestamp"));
        assert!(told.lines().skip(1).is_sorted(), "{line}");
    }
}

#[test]
fn gaps_and_losses_of_the_time_that_was_asked_for_are_told() {
    let place = Place::empty();
    let loss = |ns| Loss {
        wall_ns: NOON_NS + ns,
        lost: 17,
        total: 17,
        cause: LossCause::RingFull,
    };
    place.run(0, HOUR, &[at(&violation(), 1, 0)], &[loss(5)]);
    place.run(2 * HOUR, 3 * HOUR, &[], &[loss(2 * HOUR)]);
    let missing = |line: &str| {
        let told = place.told(line);
        let remarks = told.lines().filter(|line| line.starts_with("# "));
        let remarks = remarks.skip_while(|line| !line.contains(" connection"));
        remarks.skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let (gap, since) = (
        "# nobody watched from 2026-11-22 13:00:01 to 2026-11-22 14:00:01 (not running)",
        "# nobody watched since 2026-11-22 15:00:01 (not running)",
    );
    assert_eq!(
        missing(""),
        [gap, since, "# events that are missing: 34 (ring full)"]
    );
    assert_eq!(
        missing("--since 2h --until 2026-11-22T15:00"),
        ["# events that are missing: 17 (ring full)"]
    );
    assert_eq!(
        missing("--since yesterday --until 2026-11-22T12:30"),
        [
            "# nobody watched before 2026-11-22 12:00:01 (before all that is in the history)",
            "# events that are missing: 17 (ring full)"
        ]
    );
    let none: [&str; 0] = [];
    assert_eq!(
        missing("--since 2026-11-22T12:10 --until 2026-11-22T12:30"),
        none
    );
}

#[test]
fn what_a_history_cannot_tell_is_refused() {
    let place = Place::new();
    for (line, said) in [
        (
            "--events failed",
            "--events: a history keeps connections, not each event of them: use --failed, --open \
             or --direction",
        ),
        (
            "--fields pid,tid",
            "--fields tid: a history does not keep that",
        ),
        (
            "-o json --fields pid",
            "--fields chooses columns: drop it, or -o json, whose lines carry all",
        ),
        (
            "--since 1h --until 2h",
            "--since 2026-11-22 15:00:01 is not before --until 2026-11-22 14:00:01: nothing is \
             between them",
        ),
        (
            "--user no-such-user-here",
            "unknown user `no-such-user-here`: give a name of this host or a uid",
        ),
    ] {
        assert_eq!(place.refused(line), said);
    }
    for (line, said) in [
        ("--limit 0", "0 is not in 1..=4294967295"),
        ("--since soon", "`soon` is not a time"),
        ("--open --failed", "cannot be used with"),
    ] {
        let refusal = place.refused(line);
        assert!(refusal.contains(said), "{refusal}");
    }
}
