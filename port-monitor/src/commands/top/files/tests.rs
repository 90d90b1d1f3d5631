//! A file that is there stays as it is without a word.

use std::{fs, sync::Arc};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;
use crate::{
    consume::{
        consumer::{Consumer as _, Needs, Stats},
        lines::sample::{NOON_NS, closed, connected, header, summary, violation},
        top::{Input, Press, Top, Wish},
    },
    events::record::{Item, Record},
};

fn ui() -> Ui {
    Ui::new(Box::new(|_| Ok(Arc::new(|_: &Record| true))))
}

fn typed(ui: &mut Ui, text: &str) -> Option<Wish> {
    for key in text.chars() {
        let press = if key == '\n' {
            Press::Enter
        } else {
            Press::Char(key)
        };
        let wish = ui.take(Input::Key(press));
        if wish.is_some() {
            return wish;
        }
    }
    None
}

/// Answers a question that is open; what is asked then.
fn answered(ui: &mut Ui, text: &str, rows: &Exported) -> Option<Asks> {
    let Some(Wish::Answer(asks, text)) = typed(ui, &format!("{text}\n")) else {
        panic!("nothing was asked");
    };
    if let Some((path, _)) = named(ui, &asks, &text) {
        write(ui, &asks, text, (&path, rows));
    }
    ui.asks().cloned()
}

#[test]
fn a_file_that_is_there_is_overwritten_after_a_word_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    let rows = |text: &str| Exported {
        text: text.as_bytes().to_vec(),
        rows: 1,
    };
    let has = || fs::read_to_string(&path).unwrap();
    let (mut ui, name) = (ui(), path.display().to_string());
    typed(&mut ui, "E");
    assert_eq!(
        answered(&mut ui, "rows.txt", &rows("no")),
        Some(Asks::Export)
    );
    ui.take(Input::Key(Press::Esc));
    typed(&mut ui, "E");
    assert_eq!(answered(&mut ui, &name, &rows("one")), None);
    assert_eq!(has(), "one");
    for (word, expected) in [("n", "one"), ("", "one"), ("y", "two")] {
        typed(&mut ui, "E");
        let asks = answered(&mut ui, &name, &rows("two"));
        assert_eq!(asks, Some(Asks::Overwrite(path.clone())));
        assert_eq!(answered(&mut ui, word, &rows("two")), None);
        assert_eq!(has(), expected);
    }
    // What cannot be written is asked for again, with why.
    typed(&mut ui, "E");
    let nowhere = dir.path().join("none/rows.json").display().to_string();
    assert_eq!(answered(&mut ui, &nowhere, &rows("x")), Some(Asks::Export));
}

fn begin(shared: &Shared, ui: &mut Ui, path: &Path, word: Option<&str>) {
    typed(ui, "R");
    for text in [Some(path.to_str().unwrap()), word].into_iter().flatten() {
        let Some(Wish::Answer(asks, text)) = typed(ui, &format!("{text}\n")) else {
            panic!("nothing was asked");
        };
        record(shared, ui, asks, text);
    }
    ui.set_recorded(shared.recording());
}

/// A view that knows of a connection, and has lost five events.
fn view() -> (Shared, Top) {
    let shared = Shared::default();
    let mut top = Top::new(shared.clone(), Needs::EVENTS);
    top.take(Item::Header(&header()));
    top.take(Item::Event(&connected()));
    top.tick(&lost(5));
    (shared, top)
}

fn lost(queue_full: u64) -> Stats {
    Stats {
        wall_ns: NOON_NS,
        queue_full,
        ..Stats::default()
    }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn actions(lines: &[serde_json::Value]) -> Vec<&str> {
    let actions = lines.iter().map(|line| line["event"]["action"].as_str());
    actions.map(Option::unwrap).collect()
}

#[test]
fn a_recording_has_what_is_open_what_comes_and_its_own_account() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    let ((shared, mut top), mut ui) = (view(), ui());
    begin(&shared, &mut ui, &path, None);
    assert_eq!(shared.recording().unwrap().taken, 0);
    let mut other = violation();
    other.event.id = 7;
    top.take(Item::Event(&other));
    top.tick(&lost(7));
    let stands = shared.recording().unwrap();
    assert_eq!((stands.taken, stands.missing), (2, 2));
    let mut end = closed();
    end.event.id = connected().event.id;
    top.take(Item::Event(&end));
    assert_eq!(typed(&mut ui, "R"), Some(Wish::EndRecording));
    shared.end_recording();
    ui.set_recorded(shared.recording());
    assert_eq!((shared.recording(), shared.ended_recording()), (None, None));
    // What is lost until the end is known is missing too.
    top.tick(&lost(8));
    let ended = shared.ended_recording().unwrap();
    assert_eq!((ended.taken, ended.missing, &ended.error), (3, 3, &None));
    assert_eq!(shared.ended_recording(), None);
    top.take(Item::Event(&connected()));
    let lines = lines(&path);
    let expected = [
        "start",
        "preexisting",
        "failed",
        "loss",
        "close",
        "loss",
        "summary",
    ];
    assert_eq!(actions(&lines), expected);
    assert_eq!(lines[1]["port_monitor"]["state"], "established");
    assert_eq!(
        lines[1]["port_monitor"]["id"],
        lines[4]["port_monitor"]["id"]
    );
    assert_eq!(lines[1]["process"]["pid"], lines[4]["process"]["pid"]);
    let account = &lines[6]["port_monitor"];
    let counts = ["seen", "shown", "filtered", "lost", "violations"].map(|name| &account[name]);
    assert_eq!(counts, [6, 3, 0, 3, 1]);
    assert_eq!(account["adds_up"], true);
}

#[test]
fn a_recording_behind_another_one_comes_after_a_word_and_ends_with_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    let ((shared, mut top), mut ui) = (view(), ui());
    fs::write(&path, "").unwrap();
    begin(&shared, &mut ui, &path, Some("n"));
    assert_eq!(shared.recording(), None);
    // Begun and ended before anything was told.
    begin(&shared, &mut ui, &path, Some("y"));
    shared.end_recording();
    ui.set_recorded(shared.recording());
    begin(&shared, &mut ui, &path, Some("y"));
    top.tick(&lost(5));
    assert!(shared.recording().is_some());
    // The account of the whole run is another one.
    top.take(Item::Summary(&summary()));
    let lines = lines(&path);
    let expected = ["start", "preexisting", "summary"].repeat(2);
    assert_eq!(actions(&lines), expected);
    assert_eq!(lines[5]["port_monitor"]["seen"], 1);
    assert_eq!(shared.ended_recording().unwrap().taken, 1);
}

/// Whoever draws goes on where the file takes nothing.
#[test]
fn a_recording_into_a_pipe_that_nobody_reads_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let (shared, mut top) = view();
    shared.begin_recording(&path).ok().unwrap();
    let (done, goes_on) = std::sync::mpsc::channel();
    let taker = std::thread::spawn(move || {
        for _ in 0..2_000 {
            top.take(Item::Event(&connected()));
        }
        done.send(()).unwrap();
    });
    let soon = std::time::Duration::from_secs(1);
    assert!(goes_on.recv_timeout(soon).is_err(), "nobody took it");
    assert!(shared.recording().is_some());
    shared.end_recording();
    assert!(shared.lock().events() > 0);
    drop(fs::File::open(&path).unwrap());
    taker.join().unwrap();
}
