//! A file that is there stays as it is without a word.

use std::{fs, sync::Arc};

use super::*;
use crate::{
    consume::{
        consumer::{Consumer as _, Needs, Stats},
        lines::sample::{connected, header, violation},
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

#[test]
fn a_recording_has_what_came_between_its_beginning_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    let (shared, mut ui) = (Shared::default(), ui());
    let mut top = Top::new(shared.clone(), Needs::EVENTS);
    top.take(Item::Header(&header()));
    top.take(Item::Event(&connected()));
    let lost = |queue_full| Stats {
        queue_full,
        ..Stats::default()
    };
    top.tick(&lost(5));
    begin(&shared, &mut ui, &path, None);
    // What was lost before is missing from nothing.
    top.tick(&lost(5));
    top.take(Item::Event(&violation()));
    top.tick(&lost(7));
    assert_eq!(typed(&mut ui, "R"), Some(Wish::EndRecording));
    let ended = shared.end_recording().unwrap();
    ui.set_recorded(shared.recording());
    assert_eq!((ended.taken, ended.missing, &ended.error), (1, 0, &None));
    top.take(Item::Event(&connected()));
    let text = fs::read_to_string(&path).unwrap();
    let actions: Vec<_> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["event"]["action"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(actions, ["start", "failed", "loss"]);
    assert!(text.contains("\"lost\":2"), "{text}");
    // Behind what is there another one comes after a word alone.
    begin(&shared, &mut ui, &path, Some("n"));
    assert_eq!(shared.recording(), None);
    begin(&shared, &mut ui, &path, Some("y"));
    top.take(Item::Event(&connected()));
    drop(shared.end_recording());
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 5);
}
