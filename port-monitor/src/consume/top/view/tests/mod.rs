//! Screens, of worlds that are small, crowded, empty or hostile.

mod chosen;
mod empty;

use std::sync::Arc;

use ratatui::{Terminal, backend::TestBackend};

use super::{
    export::{Form, export},
    *,
};
use crate::{
    consume::{
        Lines, Sink as _,
        consumer::{Overview, Stats},
        lines::json::Json,
        lines::sample::{
            NOON_NS, accepted, closed, comm, connected, header, listening, loss, summary, violation,
        },
        top::{
            Input, Press, Recorded as Recording, Rule, Told, Wish,
            model::Recorded,
            replay::{Bar, Move},
        },
    },
    events::{
        decode::Action,
        record::{Field, Item, Process, Record},
    },
};

const SIZES: [(u16, u16); 4] = [(40, 12), (80, 24), (120, 40), (200, 60)];

fn ui() -> Ui {
    Ui::new(Box::new(|_| Ok(Arc::new(|_: &Record| true))))
}

fn model(records: impl IntoIterator<Item = Record>) -> Model {
    let mut model = Model::default();
    model.take(Item::Header(&header()));
    for record in records {
        model.take(Item::Event(&record));
    }
    let stats = Stats {
        wall_ns: NOON_NS + 9_000_000_000,
        seen: 12,
        ..Stats::default()
    };
    model.hear(&Overview {
        began_ns: NOON_NS,
        stats,
        standings: Vec::new(),
    });
    model.tick(&stats);
    model
}

/// One of each kind.
fn small() -> Model {
    let ids = [1, 2, 3, 4, 5];
    let records = [connected(), violation(), accepted(), closed(), listening()];
    model(ids.into_iter().zip(records).map(|(id, mut record)| {
        record.event.id = id;
        record
    }))
}

fn crowded() -> Model {
    model((0..70_u32).map(|number| {
        let mut record = if number % 9 == 0 {
            violation()
        } else {
            connected()
        };
        record.event.id = number.into();
        record.wall_ns += i128::from(number) * 100_000_000;
        record.event.remote_ip = std::net::Ipv4Addr::from(0x0a00_0000 + number % 40).into();
        if let Some(owner) = &mut record.event.owner {
            owner.pid += number % 30;
        }
        record
    }))
}

/// Names that would take the terminal over.
fn hostile() -> Model {
    let mut record = connected();
    if let Some(owner) = &mut record.event.owner {
        owner.process_comm = comm(b"\x1b[2Jx\n\xff\xe2\x80\xae");
        owner.comm = owner.process_comm;
    }
    record.process = Arc::new(Process {
        user: Some("\u{202e}nna\x1b]0;t\x07".into()),
        unit: Some("日本\n語.service".into()),
        exe: Field::Known("/tmp/\x1b[31m".into()),
        ..(*record.process).clone()
    });
    let mut of_peer = violation();
    of_peer.event.id = 7;
    if let Some(judged) = &mut of_peer.judgement {
        judged.rule = Some("\x1b[5mrule\r".into());
    }
    model([record, of_peer])
}

fn screen(ui: &mut Ui, model: &Model, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut look = Look::new(false, TimeZone::UTC);
    terminal
        .draw(|frame| draw(frame, ui, model, &mut look, 0))
        .unwrap();
    terminal.backend().to_string()
}

fn press(ui: &mut Ui, keys: &str) {
    for key in keys.chars() {
        let press = if key == '\n' {
            Press::Enter
        } else {
            Press::Char(key)
        };
        ui.take(Input::Key(press));
    }
}

/// Every view of a world, one below the other.
fn all_views(model: &Model, size: (u16, u16)) -> String {
    let mut ui = ui();
    let views = (1..=View::ALL.len()).map(|view| {
        press(&mut ui, &view.to_string());
        screen(&mut ui, model, size)
    });
    views.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_view_of_every_world_on_every_size_of_screen() {
    let worlds = [
        ("empty", Model::default()),
        ("small", small()),
        ("crowded", crowded()),
        ("hostile", hostile()),
    ];
    for (name, model) in &worlds {
        for (width, height) in SIZES {
            let screens = all_views(model, (width, height));
            insta::assert_snapshot!(format!("{name}_{width}x{height}"), screens);
        }
    }
}

#[test]
fn help_and_details_on_a_small_and_a_wide_screen() {
    let model = small();
    for size in [(40, 12), (80, 24), (120, 40)] {
        let mut ui = ui();
        press(&mut ui, "?");
        let mut screens = vec![screen(&mut ui, &model, size)];
        press(&mut ui, "?t");
        screen(&mut ui, &model, size);
        for keys in ["j\n", "\nj\n", "\nj\n", "\nj\n", "\n5j\n"] {
            press(&mut ui, keys);
            // A row is chosen when it is drawn.
            screen(&mut ui, &model, size);
            press(&mut ui, "\n");
            screens.push(screen(&mut ui, &model, size));
        }
        let name = format!("over_{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, screens.join("\n"));
    }
}

/// What a recording cannot tell is said on every view that lacks it.
#[test]
fn a_recording_that_is_played_on_a_small_and_a_wide_screen() {
    let mut model = model([connected(), violation()]);
    model.recorded = Some(Recorded {
        name: "run\x1b[2J.jsonl".to_owned(),
        unknown: 3,
        end: Some(Told {
            seen: 9,
            filtered: 4,
            lost: 1,
        }),
        ..Recorded::default()
    });
    if let Some(header) = &mut model.header {
        header.policy = None;
    }
    for size in [(40, 12), (80, 24), (120, 40)] {
        let mut ui = ui();
        let mut screens = Vec::new();
        for (keys, passed_s, is_playing) in [
            ("1", 0, true),
            ("5", 3_700, true),
            ("6", 7_200, false),
            ("7", 90_000, false),
            ("1T12:0x", 5, true),
        ] {
            ui.set_bar(Bar {
                begin_ns: NOON_NS,
                end_ns: NOON_NS + 90_000_000_000_000,
                now_ns: NOON_NS + passed_s * 1_000_000_000,
                speed: 200,
                is_playing,
                is_behind: passed_s == 5,
            });
            press(&mut ui, keys);
            screens.push(screen(&mut ui, &model, size));
        }
        let name = format!("replay_{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, screens.join("\n"));
    }
}

#[test]
fn what_is_exported_is_what_is_shown_as_a_run_and_a_history_write_it() {
    let world = small();
    let mut ui = Ui::new(Box::new(|_| {
        Ok(Arc::new(|record: &Record| record.event.remote_port != 443))
    }));
    press(&mut ui, "/x\n1t");
    screen(&mut ui, &world, (200, 60));
    let rows = connection_sheet(&world, &ui).in_order(&ui.lists[0], &world);
    let json = export(&ui, &world, Form::Json, &TimeZone::UTC);
    let (mut lines, mut sink) = (Lines::default(), Json::new());
    sink.write(&mut lines, Item::Header(&header()));
    for row in &rows {
        sink.write(&mut lines, Item::Event(&row.record));
    }
    assert!(rows.len() > 1 && json.rows == rows.len());
    assert_eq!(json.text, lines.as_bytes());
    let csv = export(&ui, &world, Form::Csv, &TimeZone::UTC);
    let csv = String::from_utf8(csv.text).unwrap();
    assert_eq!(csv.lines().count(), 1 + rows.len());
    assert!(csv.starts_with("dir,") || csv.contains(",pid,"), "{csv}");
    assert!(
        csv.contains("10.0.0.9,23,") && !csv.contains(",443,"),
        "{csv}"
    );
    // Groups have their sums.
    for (view, name, value) in [
        ("2", "process", "\"nc\""),
        ("3", "port", "23"),
        ("4", "remote", "\"10.0.0.9\""),
        ("6", "rule", "\"no-telnet\""),
    ] {
        press(&mut ui, view);
        let rows = export(&ui, &world, Form::Json, &TimeZone::UTC);
        let text = String::from_utf8(rows.text).unwrap();
        assert!(text.contains(&format!("\"{name}\":{value}")), "{text}");
        assert!(text.lines().count() == rows.rows && text.contains("\"connections\":1"));
        let text = export(&ui, &world, Form::Csv, &TimeZone::UTC).text;
        assert_eq!(text.split(|&byte| byte == b'\n').count(), rows.rows + 2);
    }
}

#[test]
fn a_recording_that_goes_on_is_in_the_head() {
    let world = small();
    let mut ui = ui();
    for (error, expected) in [
        (None, "  RECORDING 7 "),
        (Some("disk full".to_owned()), "  RECORDING FAILED 7 "),
    ] {
        ui.set_recorded(Some(Recording {
            name: "run.jsonl".to_owned(),
            taken: 7,
            missing: 0,
            error,
        }));
        let shown = screen(&mut ui, &world, (80, 24));
        assert!(shown.lines().next().unwrap().contains(expected), "{shown}");
    }
}

#[test]
fn a_rule_lies_over_the_view_with_nothing_hostile_in_it() {
    let world = small();
    let rule = Rule {
        id: 2,
        allows: true,
        toml: "version = 1\n\n[[rule]]\nname = \"\x1b[2Jx\"\nexe = \"\u{202e}\"\n".to_owned(),
    };
    for size in [(40, 12), (80, 24)] {
        let mut ui = ui();
        ui.show_rule(rule.clone());
        let mut screens = vec![screen(&mut ui, &world, size)];
        press(&mut ui, "E");
        screens.push(screen(&mut ui, &world, size));
        press(&mut ui, "w");
        screens.push(screen(&mut ui, &world, size));
        let name = format!("rule_{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, screens.join("\n"));
    }
    // A group has none.
    let mut ui = ui();
    press(&mut ui, "2");
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "P");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(shown.contains("a rule is of one connection"), "{shown}");
}

#[test]
fn addresses_are_joined_to_networks_and_these_open_as_their_connections() {
    let world = crowded();
    for size in [(40, 12), (80, 24), (120, 40)] {
        let mut ui = ui();
        press(&mut ui, "N");
        let name = format!("networks_{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, screen(&mut ui, &world, size));
    }
    let mut ui = ui();
    press(&mut ui, "N");
    screen(&mut ui, &world, (80, 24));
    let rows = export(&ui, &world, Form::Csv, &TimeZone::UTC);
    assert!(
        String::from_utf8(rows.text)
            .unwrap()
            .contains("\n10.0.0.0/24,")
    );
    press(&mut ui, "\n");
    assert_eq!(ui.filter, "remote:10.0.0.0/24 ");
    press(&mut ui, "rN");
    press(&mut ui, "N");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(!shown.contains("/24"), "{shown}");
}

#[test]
fn a_click_on_the_bar_of_a_recording_is_a_time_and_elsewhere_none() {
    let world = small();
    let mut ui = ui();
    let bar = Bar {
        begin_ns: NOON_NS,
        end_ns: NOON_NS + 1_000,
        now_ns: NOON_NS,
        speed: 1,
        is_playing: true,
        is_behind: false,
    };
    ui.set_bar(bar);
    let shown = screen(&mut ui, &world, (80, 24));
    let (from, to, row) = ui.bar_place.unwrap();
    // Behind a quotation mark.
    let begin = shown.lines().nth(row.into()).unwrap();
    let begin = begin.chars().position(|c| c == '●');
    assert_eq!(begin, Some(usize::from(from) + 1));
    let mut click = |column, row| ui.take(Input::Click(column, row));
    let to_ns = |ns| Some(Wish::Move(Move::To(ns)));
    assert_eq!(click(from, row), to_ns(bar.begin_ns));
    assert_eq!(click(to - 1, row), to_ns(bar.end_ns));
    let cells = i128::from(to - from - 1);
    assert_eq!(click(from + 20, row), to_ns(bar.begin_ns + 20_000 / cells));
    for (column, row) in [(from - 1, row), (to, row), (from, row - 1), (from, row + 1)] {
        assert_eq!(click(column, row), None);
    }
}

#[test]
fn where_nothing_is_played_there_is_no_other_time() {
    let world = small();
    let mut ui = ui();
    for key in [".", ",", "(", ")", "{", "}", "T"] {
        press(&mut ui, key);
        let shown = screen(&mut ui, &world, (80, 24));
        assert!(
            shown.contains("only a recording has other times"),
            "{shown}"
        );
    }
    press(&mut ui, "j");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(!shown.contains("only a recording"), "{shown}");
}

#[test]
fn nothing_of_any_size_of_screen_goes_wrong() {
    let model = hostile();
    for width in 1..60 {
        for height in 1..16 {
            let mut ui = ui();
            for keys in ["", "?", "?7", "1j\n"] {
                press(&mut ui, keys);
                screen(&mut ui, &model, (width, height));
            }
        }
    }
}

#[test]
fn the_chosen_row_stays_with_its_connection() {
    let mut world = small();
    let (mut ui, size) = (ui(), (80, 24));
    screen(&mut ui, &world, size);
    press(&mut ui, "j");
    screen(&mut ui, &world, size);
    let chosen = ui.lists[0].chosen.clone().unwrap();
    for id in 100..110 {
        let mut record = connected();
        record.event.id = id;
        record.wall_ns += 20_000_000_000;
        world.take(Item::Event(&record));
    }
    screen(&mut ui, &world, size);
    assert_eq!(ui.lists[0].chosen, Some(chosen));
    assert_eq!(ui.lists[0].at, 11);
}

#[test]
fn an_order_that_is_held_stays_and_what_is_new_comes_last() {
    let mut world = small();
    let (mut ui, size) = (ui(), (80, 24));
    press(&mut ui, "o");
    screen(&mut ui, &world, size);
    let held = ui.lists[0].held.clone().unwrap();
    let mut record = connected();
    record.event.id = 100;
    record.wall_ns += 9_000_000_000;
    world.take(Item::Event(&record));
    screen(&mut ui, &world, size);
    let order = ui.lists[0].held.clone().unwrap();
    assert_eq!(order.get(..held.len()), Some(&held[..]));
    assert_eq!(order.last(), Some(&RowId::Connection(100)));
}

#[test]
fn a_click_on_a_heading_sorts_and_the_next_one_turns_it_round() {
    let world = small();
    let (mut ui, size) = (ui(), (80, 24));
    screen(&mut ui, &world, size);
    let &(from, _, number) = &ui.lists[0].headings[2];
    let row = ui.lists[0].heading_row;
    ui.take(Input::Click(from, row));
    assert_eq!(ui.lists[0].column, Some(number));
    assert!(!ui.lists[0].is_reversed);
    screen(&mut ui, &world, size);
    ui.take(Input::Click(from, row));
    assert!(ui.lists[0].is_reversed);
    ui.take(Input::Click(5, row + 2));
    screen(&mut ui, &world, size);
    assert_eq!(ui.lists[0].at, 1);
}

#[test]
fn a_group_opens_as_its_connections() {
    let world = small();
    let (mut ui, size) = (ui(), (80, 24));
    press(&mut ui, "2g");
    screen(&mut ui, &world, size);
    press(&mut ui, "j");
    screen(&mut ui, &world, size);
    press(&mut ui, "\n");
    assert_eq!(ui.view, View::Connections);
    assert!(ui.filter.starts_with("pid:"), "{}", ui.filter);
}

#[test]
fn a_filter_keeps_the_groups_of_the_connections_that_it_keeps() {
    let world = small();
    let mut ui = Ui::new(Box::new(|text| {
        let parsed: Result<u16, _> = text.trim().parse();
        let port = parsed.map_err(|_| text.to_owned())?;
        Ok(Arc::new(move |record: &Record| {
            record.event.remote_port == port
        }))
    }));
    press(&mut ui, "/443\n");
    for (view, kept, left_out) in [
        ("2", "curl", "sshd"),
        ("3", "https", "telnet"),
        ("4", "93.184.216.34", "10.0.0.9"),
    ] {
        press(&mut ui, view);
        let shown = screen(&mut ui, &world, (80, 24));
        assert!(shown.contains(kept) && !shown.contains(left_out), "{shown}");
    }
}

#[test]
fn what_this_view_lacks_is_told_wherever_it_was_lost() {
    let mut world = small();
    world.tick(&Stats {
        queue_full: 3,
        ..Stats::default()
    });
    world.take(Item::Loss(&loss()));
    let mut ui = ui();
    press(&mut ui, "7");
    let shown = screen(&mut ui, &world, (120, 40));
    assert!(
        shown.contains(&format!(" {} lost (7) ", 3 + loss().lost)),
        "{shown}"
    );
    assert!(shown.contains("view too slow 3"), "{shown}");
    // A service's own count is not known here, and not told as none.
    world.hear(&Overview::default());
    let shown = screen(&mut ui, &world, (120, 40));
    assert!(
        shown.contains("5 taken here") && !shown.contains("seen 0"),
        "{shown}"
    );
}

#[test]
fn the_end_of_a_run_is_on_the_screen() {
    let mut world = small();
    world.take(Item::Summary(&summary()));
    let first = screen(&mut ui(), &world, (80, 24));
    assert!(first.lines().next().unwrap().contains("ENDED"), "{first}");
}

#[test]
fn a_denied_attempt_tells_why_it_failed_and_which_rule_denies_it() {
    let mut record = violation();
    record.event.action = Action::Failed { errno: Some(1) };
    let world = model([record]);
    let mut ui = ui();
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "j");
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "\n");
    let told = screen(&mut ui, &world, (80, 24));
    assert!(
        told.contains("EPERM") && told.contains("no-telnet"),
        "{told}"
    );
}

#[test]
fn ports_are_numbers_alone_where_that_is_wanted() {
    let (world, mut ui) = (small(), ui());
    assert!(screen(&mut ui, &world, (120, 40)).contains(":443 https"));
    press(&mut ui, "n");
    let shown = screen(&mut ui, &world, (120, 40));
    assert!(
        shown.contains("93.184.216.34:443 ") && !shown.contains("https"),
        "{shown}"
    );
    press(&mut ui, "r");
    assert!(screen(&mut ui, &world, (120, 40)).contains(":443 https"));
}

/// What the service tells of itself is apart from what came here, and nothing of it takes the
/// terminal over.
#[test]
fn the_account_of_a_service_is_below_that_of_what_came_here() {
    let mut world = small();
    let report = serde_json::json!({
        "version": "0.1.0\u{1b}[2J", "pid": 812, "host": "web1", "kernel": "6.12", "backend": "fentry",
        "blind_spots": [], "unproven": [], "began": "2026-11-30T08:00:01.5Z",
        "events": {"seen": 70, "filtered": 3, "lost": {
            "ring_full": 4, "program_skipped": 5, "undecodable": 6, "owner_late": 7}},
        "consumers": [{"name": "history", "delivered": 45, "taken": 40, "hidden": 0,
            "dropped": {"queue_full": 1, "failed": 3, "unfinished": 1}, "waiting": 2,
            "room": 32768, "error": "disk\nfull"}],
    });
    world.hear_of_service(serde_json::from_value(report).unwrap());
    let mut ui = ui();
    press(&mut ui, "7");
    let shown = screen(&mut ui, &world, (120, 40));
    for line in [
        "events        seen 12,",
        "service       port-monitor 0.1.0\\x1b[2J, pid 812, since 2026-11-30T08:00:01Z",
        "its events    seen 70, filtered for all 3",
        "its losses    ring full 4, program skipped 5, undecodable 6, owner late 7",
        "history       delivered 45 = taken 40 + hidden 0 + dropped 5; 2 of 32768 waiting; failed: disk\\nfull",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
}
