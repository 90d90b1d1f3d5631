//! The table as text, column by column.

use port_monitor_common::{counters::Hook, event::ClosedBy, site::Site, tcp_state::TcpState};
use proptest::prelude::*;
use unicode_width::UnicodeWidthStr as _;

use crate::{
    consume::lines::{
        fields::FIELDS,
        json::any,
        layout::{blind, wrapped},
        sample::{
            accepted, closed, comm, connected, header, listening, loss, ownerless, port, sshd,
            summary, violation,
        },
        table::*,
    },
    events::{
        decode::{Action, Close, Direction},
        record::{Account, Dropped, Failed, HookCount},
    },
};

fn options(width: Option<usize>) -> Options {
    Options {
        width,
        color: false,
        verbose: true,
        aggregate: false,
        fields: Vec::new(),
        zone: TimeZone::UTC,
    }
}

fn text(options: Options, items: &[Item<'_>]) -> String {
    let mut table = Table::new(options);
    let mut lines = Lines::default();
    for item in items {
        table.write(&mut lines, *item);
    }
    String::from_utf8(lines.bytes).unwrap()
}

fn row(width: Option<usize>, record: &Record) -> String {
    text(options(width), &[Item::Event(record)])
}

/// The last column, at full width.
fn result_of(record: &Record) -> String {
    column("result", record)
}

/// One column, at full width.
fn column(name: &str, record: &Record) -> String {
    let fields = FIELDS.iter().filter(|field| field.name == name);
    let options = Options {
        fields: fields.collect(),
        ..options(None)
    };
    text(options, &[Item::Event(record)])
}

#[test]
fn the_peer_is_a_column_on_request() {
    let mut record = connected();
    assert_eq!(column("peer", &record), "  -\n");
    record.peer = Some(sshd());
    assert_eq!(column("peer", &record), "  812/sshd\n");
    let mut hostile = (*sshd()).clone();
    hostile.comm = comm(b"\x1b[2J");
    record.peer = Some(std::sync::Arc::new(hostile));
    assert_eq!(column("peer", &record), "  812/\\x1b[2J\n");
}

#[test]
fn a_process_is_named_and_its_thread_on_request() {
    let mut record = connected();
    let owner = record.event.owner.as_mut().unwrap();
    owner.comm = comm(b"worker-3");
    owner.process_comm = comm(b"server");
    assert_eq!(column("process", &record), "  server\n");
    assert_eq!(column("thread", &record), "  worker-3\n");
    record.event.owner.as_mut().unwrap().process_comm = comm(b"");
    assert_eq!(column("process", &record), "  -\n");
}

#[test]
fn the_table_at_100_columns() {
    let (connected, violation, accepted) = (connected(), violation(), accepted());
    let items = [
        Item::Header(&header()),
        Item::Event(&connected),
        Item::Event(&violation),
        Item::Event(&accepted),
        Item::Loss(&loss()),
        Item::Summary(&summary()),
    ];
    let expected = "\
# port-monitor 0.1.0 on kernel 6.12.0, backend fentry
# policy policy.toml
# cannot see: accepts of threads already waiting
  TIME      DIR PID    PROCESS   LOCAL              REMOTE                    RESULT
  12:00:01  ->  1469   curl      10.0.0.5:49152     93.184.216.34:443 https   ok 12ms
! 12:00:02  ->  2211   nc        10.0.0.5:40310     10.0.0.9:23 telnet        refused  no-telnet
  12:00:03  <-  812    sshd      10.0.0.5:22 ssh    10.0.0.7:53122            ok
# 12:00:10  17 events lost (ring full), 20 so far
# seen 412 = shown 400 + filtered 12 + lost 0 in 10.0s
# 1 violation
";
    assert_eq!(text(options(Some(100)), &items), expected);
}

#[test]
fn eighty_columns_hold_the_essentials() {
    let (connected, violation, ownerless) = (connected(), violation(), ownerless());
    let items = [
        Item::Event(&connected),
        Item::Event(&violation),
        Item::Event(&ownerless),
    ];
    let expected = [
        "  12:00:01 ->  1469   curl     10.0.0.5:49152  93.184.216.34:443 https ok 12ms",
        "! 12:00:02 ->  2211   nc       10.0.0.5:40310  10.0.0.9:23 telnet      refused  no-telnet",
        "  12:00:01 ->  ?      ?        10.0.0.5:*      93.184.216.34:443 https syn",
    ];
    let text = text(options(Some(80)), &items);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn narrow_terminals_do_without_this_host_s_end_then_the_pid_then_the_time() {
    let rows = [79, 63, 56, 40].map(|width| row(Some(width), &connected()));
    assert_eq!(
        rows.concat().lines().collect::<Vec<_>>(),
        [
            "  12:00:01 ->  1469   curl     93.184.216.34:443 https ok 12ms",
            "  12:00:01 ->  curl     93.184.216.34:443 https ok 12ms",
            "  ->  curl     93.184.216.34:443 https ok 12ms",
            "  ->  curl     93.184.216…:443 ok 12ms",
        ]
    );
}

#[test]
fn the_table_follows_its_terminal() {
    let connected = connected();
    let mut table = Table::new(options(Some(80)));
    let mut lines = Lines::default();
    table.resize(&mut lines, 85);
    assert!(lines.is_empty(), "the columns are where they were");
    table.resize(&mut lines, 40);
    table.write(&mut lines, Item::Event(&connected));
    assert_eq!(
        str::from_utf8(lines.as_bytes())
            .unwrap()
            .lines()
            .collect::<Vec<_>>(),
        [
            "  DIR PROCESS  REMOTE          RESULT",
            "  ->  curl     93.184.216…:443 ok 12ms",
        ]
    );
    assert_eq!(lines.events(), 1);
}

#[test]
fn everything_but_a_rule_fits_forty_columns() {
    let (connected, accepted, closed) = (connected(), accepted(), closed());
    let listening = listening();
    let mut header = header();
    header.blind_spots = vec!["accepts of threads that were waiting at the start".into(); 5];
    let (loss, summary) = (loss(), summary());
    let items = [
        Item::Header(&header),
        Item::Event(&connected),
        Item::Event(&accepted),
        Item::Event(&closed),
        Item::Event(&listening),
        Item::Loss(&loss),
        Item::Summary(&summary),
    ];
    for verbose in [false, true] {
        for width in 40..120 {
            let options = Options {
                verbose,
                ..options(Some(width))
            };
            for line in text(options, &items).lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
    }
}

#[test]
fn the_head_counts_what_cannot_be_seen_unless_asked() {
    let mut header = header();
    let head = |header: &Header, verbose| {
        let options = Options {
            verbose,
            ..options(None)
        };
        text(options, &[Item::Header(header)])
    };
    let title = "# port-monitor 0.1.0 on kernel 6.12.0, backend fentry";
    assert!(
        head(&header, false)
            .starts_with(&format!("{title}; 1 blind spot, see port-monitor doctor\n"))
    );
    assert!(head(&header, true).contains("\n# cannot see: accepts of threads already waiting\n"));
    let mut spots = header.blind_spots.clone();
    spots.push("x".into());
    assert_eq!(
        blind(&spots, false).0,
        "; 2 blind spots, see port-monitor doctor"
    );
    header.blind_spots.clear();
    assert!(head(&header, false).starts_with(&format!("{title}\n")));
}

#[test]
fn words_wrap_and_none_is_lost() {
    let parts = |text: &'static str, room| wrapped(text, room).collect::<Vec<_>>();
    assert_eq!(parts("one two three", 7), ["one two", "three"]);
    assert_eq!(parts("one two three", 6), ["one", "two", "three"]);
    assert_eq!(
        parts("extraordinary is one", 6),
        ["extraordinary", "is one"]
    );
    assert_eq!(parts("µµ µµ", 4), ["µµ", "µµ"]);
    assert_eq!(parts("", 4), [""]);
}

#[test]
fn a_process_without_a_name_has_a_dash() {
    let mut record = connected();
    if let Some(owner) = &mut record.event.owner {
        owner.process_comm = comm(b"");
    }
    assert_eq!(column("process", &record), "  -\n");
}

#[test]
fn wide_terminals_show_user_and_unit_or_container() {
    let text = row(Some(150), &connected()) + &row(Some(150), &accepted());
    assert!(text.contains("ann        session-2.scope"), "{text}");
    assert!(text.contains("root       docker:3f4e0c9a2b1d "), "{text}");
    let text = row(Some(110), &connected());
    assert!(text.contains(" curl      ann "), "{text}");
}

#[test]
fn long_cells_are_cut_and_the_columns_still_line_up() {
    let mut record = connected();
    if let Some(owner) = &mut record.event.owner {
        owner.pid = 4_194_304;
        owner.process_comm = comm(b"systemd-resolve");
    }
    record.event.local_ip = "192.168.100.200".parse().unwrap();
    record.event.remote_ip = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
    record.ports.remote = Some(port(443, Some("https"), false));
    assert_eq!(
        row(Some(80), &record),
        "  12:00:01 ->  4194304 system… 192.168.…:49152 [2001:db8:1234:56…]:443 ok 12ms\n"
    );
}

#[test]
fn rows_fit_the_terminal() {
    let mut record = connected();
    record.event.remote_ip = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
    record.event.local_ip = record.event.remote_ip;
    for error in [None, Some(111), Some(113), Some(99), Some(4095)] {
        record.event.action = Action::Failed { errno: error };
        for width in (40..82).chain([99, 100, 109, 110, 149, 150, 200]) {
            let row = row(Some(width), &record);
            assert!(row.trim_end().width() <= width, "{width}: {row}");
        }
    }
}

#[test]
fn nothing_is_cut_when_the_output_is_no_terminal() {
    let mut record = connected();
    if let Some(owner) = &mut record.event.owner {
        owner.process_comm = comm(b"systemd-resolve");
    }
    record.event.remote_ip = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
    let row = row(None, &record);
    assert!(row.contains(" systemd-resolve "), "{row}");
    assert!(
        row.contains(" [2001:db8:1234:5678:9abc:def0:1234:5678]:443 https ok"),
        "{row}"
    );
}

#[test]
fn link_local_addresses_carry_their_zone_and_others_do_not() {
    let mut record = connected();
    record.event.ifindex = Some(3);
    record.event.local_ip = "fe80::1".parse().unwrap();
    record.event.remote_ip = "::1".parse().unwrap();
    let row = row(None, &record);
    assert!(row.contains(" [fe80::1%3]:49152 "), "{row}");
    assert!(row.contains(" [::1]:443 https "), "{row}");
}

#[test]
fn a_service_is_named_at_the_far_end_only_where_it_can_be_one() {
    let mut record = accepted();
    record.ports.remote = Some(port(40310, Some("registered"), true));
    record.event.remote_port = 40310;
    assert!(!row(None, &record).contains("registered"));
    record.ports.remote = Some(port(873, Some("rsync"), false));
    record.event.remote_port = 873;
    assert!(row(None, &record).contains(":873 rsync "));
}

#[test]
fn every_outcome_has_its_word() {
    let mut record = connected();
    let mut word = |action| {
        record.event.action = action;
        result_of(&record).trim().to_owned()
    };
    let failed = |errno| Action::Failed { errno: Some(errno) };
    let connected = |handshake_us| Action::Connected {
        handshake_us: Some(handshake_us),
    };
    assert_eq!(word(Action::Connect), "syn");
    assert_eq!(word(Action::Accept), "ok");
    let found = |state| Action::Preexisting {
        direction: Direction::Inbound,
        state,
        duration_ns: None,
    };
    assert_eq!(word(found(TcpState::ESTABLISHED)), "open");
    let aged = Action::Preexisting {
        direction: Direction::Inbound,
        state: TcpState::ESTABLISHED,
        duration_ns: Some(63_000_000_000),
    };
    assert_eq!(word(aged), "open 63s");
    assert_eq!(word(found(TcpState::SYN_SENT)), "syn");
    assert_eq!(word(found(TcpState::LISTEN)), "listening");
    assert_eq!(word(Action::Listen), "listening");
    assert_eq!(word(Action::Unlisten), "closed");
    assert_eq!(word(Action::Connected { handshake_us: None }), "ok");
    assert_eq!(word(connected(812)), "ok 812µs");
    assert_eq!(word(connected(3_450)), "ok 3.4ms");
    assert_eq!(word(connected(999_999)), "ok 999ms");
    assert_eq!(word(connected(1_250_000)), "ok 1.2s");
    assert_eq!(word(connected(63_000_000)), "ok 63s");
    assert_eq!(word(failed(111)), "refused");
    assert_eq!(word(failed(110)), "timed out");
    assert_eq!(word(failed(104)), "reset");
    assert_eq!(word(failed(101)), "unreachable");
    assert_eq!(word(failed(113)), "unreachable");
    assert_eq!(word(failed(99)), "EADDRNOTAVAIL");
    assert_eq!(word(failed(4095)), "errno 4095");
    assert_eq!(word(Action::Failed { errno: None }), "closed");
}

#[test]
fn a_listener_is_shown_without_a_peer() {
    let row = row(None, &listening());
    assert!(row.contains("  o   812 "), "{row}");
    assert!(row.contains(" 10.0.0.5:22 ssh    -  "), "{row}");
    assert!(row.trim_end().ends_with("listening"), "{row}");
}

#[test]
fn an_end_tells_duration_bytes_and_what_was_not_orderly() {
    let mut record = closed();
    let mut word = |change: fn(&mut Close)| {
        if let Action::Close(close) = &mut record.event.action {
            change(close);
        }
        result_of(&record).trim().to_owned()
    };
    assert_eq!(word(|_| {}), "8.1s 1.2K out 84K in");
    let older = word(|close| close.duration_ns = None);
    assert_eq!(older, "? 1.2K out 84K in");
    let large = |close: &mut Close| {
        close.duration_ns = Some(950_000);
        close.bytes_sent = 1_023;
        close.bytes_received = u64::MAX;
    };
    assert_eq!(word(large), "950µs 1023 out 15E in");
    let reset = |close: &mut Close| {
        close.bytes_received = 1 << 20;
        close.closed_by = ClosedBy::PeerReset;
    };
    assert_eq!(word(reset), "950µs 1023 out 1.0M in reset by peer");
    assert!(word(|close| close.closed_by = ClosedBy::LocalReset).ends_with(" in reset"));
    assert!(word(|close| close.closed_by = ClosedBy::Timeout).ends_with(" in timed out"));
}

#[test]
fn a_violation_of_the_default_says_so() {
    let mut record = violation();
    if let Some(judgement) = &mut record.judgement {
        judgement.rule = None;
    }
    assert_eq!(result_of(&record), "! refused  (default)\n");
}

#[test]
fn every_field_can_be_chosen_and_knows_what_it_does_not_know() {
    for record in [connected(), accepted(), violation(), ownerless()] {
        for field in FIELDS {
            let options = Options {
                fields: vec![field],
                ..options(None)
            };
            let line = text(options, &[Item::Event(&record)]);
            assert!(line.trim_end().len() > 2, "{}: {line:?}", field.name);
        }
    }
    let names = [
        "ppid",
        "unit",
        "exe",
        "rule",
        "class",
        "local_port",
        "owner",
    ];
    let options = Options {
        fields: FIELDS
            .iter()
            .filter(|field| names.contains(&field.name))
            .collect(),
        ..options(None)
    };
    let line = text(options, &[Item::Event(&ownerless())]);
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(cells, ["?", "?", "?", "*", "well-known", "-", "?"]);
}

#[test]
fn colour_starts_after_the_mark() {
    let options = Options {
        color: true,
        verbose: true,
        ..options(None)
    };
    let (violation, ownerless) = (violation(), ownerless());
    let text = text(
        options,
        &[
            Item::Event(&violation),
            Item::Event(&ownerless),
            Item::Loss(&loss()),
        ],
    );
    let starts: Vec<_> = text
        .lines()
        .map(|line| line.split_at(line.find('1').unwrap()).0)
        .collect();
    assert_eq!(starts, ["! \x1b[3", "  \x1b[33m", "# \x1b[2m"]);
    assert!(text.lines().all(|line| line.ends_with(RESET)));
}

#[test]
fn an_account_that_does_not_add_up_is_shown_by_hook() {
    let mut summary = summary();
    summary.hooks[0] = (
        Hook::Connect.name(),
        HookCount {
            hit: 201,
            filtered: 10,
            reserve_failed: 4,
            submitted: 186,
            skipped: 2,
        },
    );
    summary.lost_at_output = 3;
    summary.command_status = Some(137);
    summary.accept_preattach = 1;
    summary.failures = vec![Failed {
        site: Site::Remember,
        errno: 7,
        count: 2,
    }];
    let expected = "\
# seen 415 = shown 400 + filtered 12 + lost 9 in 10.0s
# lost: ring full 4, program skipped 2, undecodable 0, output 3, owner late 0
# the account does not add up, by hook:
#   connect: hit 201, filtered 10, ring full 4, submitted 186, skipped 2
#   accept: hit 112, filtered 0, ring full 0, submitted 112, skipped 0
#   outcome: hit 100, filtered 0, ring full 0, submitted 100, skipped 0
#   received 402, hidden 2
# 1 violation
# 1 accept seen by the second hook only
# entered 1002 = not ours 588 + gave up 0 + seen 415
# failed in the kernel: remember, E2BIG, 2 times
# kernel table full 2 times: outcomes, ends or owners are missing
# command killed by signal 9
";
    assert_eq!(text(options(None), &[Item::Summary(&summary)]), expected);
}

#[test]
fn several_consumers_have_an_account_each() {
    let mut summary = summary();
    summary.consumers.push((
        "record",
        Account {
            delivered: 402,
            taken: 12,
            hidden: 0,
            dropped: Dropped {
                queue_full: 300,
                failed: 89,
                unfinished: 1,
            },
            error: Some("write run.jsonl: No space left on device".to_owned()),
        },
    ));
    let expected = "\
# seen 412 = shown 400 + filtered 12 + lost 0 in 10.0s
# output: delivered 402 = taken 400 + hidden 2 + dropped 0
# record: delivered 402 = taken 12 + hidden 0 + dropped 390
# record dropped: queue full 300, failed 89, unfinished 1
# record failed: write run.jsonl: No space left on device
# 1 violation
";
    assert_eq!(text(options(None), &[Item::Summary(&summary)]), expected);
}

#[test]
fn wide_characters_keep_the_columns_in_line() {
    let mut record = connected();
    if let Some(owner) = &mut record.event.owner {
        owner.process_comm = comm("日本語日本".as_bytes());
    }
    let plain = row(Some(100), &connected());
    let wide = row(Some(100), &record);
    let column = |row: &str| row.split("10.0.0.5").next().map(str::width);
    assert!(wide.contains(" 日本語日… "), "{wide}");
    assert_eq!(column(&wide), column(&plain));
}

proptest! {
    #[test]
    fn what_rows_begin_with_is_remembered_and_changes_nothing(records in any::records()) {
        for width in [None, Some(80), Some(200)] {
            let items: Vec<_> = records.iter().map(Item::Event).collect();
            let each: String = records.iter().map(|record| row(width, record)).collect();
            prop_assert_eq!(text(options(width), &items), each);
        }
    }
}
