//! What keys do to what is looked at.

use super::{words::complete, *};

fn ui() -> Ui {
    Ui::new(Box::new(|text| {
        if text.contains("bad") {
            return Err("bad word".to_owned());
        }
        let pid = text.trim().strip_prefix("pid:").map(str::to_owned);
        Ok(Arc::new(move |record: &Record| {
            let owner = record.event.owner.as_ref();
            pid.is_none() || owner.map(|owner| owner.pid.to_string()) == pid
        }))
    }))
}

fn typed(ui: &mut Ui, text: &str) -> Option<Wish> {
    let keys = text.chars().map(|c| Input::Key(Press::Char(c)));
    keys.fold(None, |wish, key| ui.take(key).or(wish))
}

#[test]
fn what_is_typed_into_the_filter_is_no_command() {
    let mut ui = ui();
    assert_eq!(typed(&mut ui, "/qq2?"), None);
    assert_eq!(ui.filter, "qq2?");
    assert_eq!((ui.view, &ui.overlay), (View::Connections, &None));
    ui.take(Input::Key(Press::Enter));
    assert_eq!(typed(&mut ui, "q"), Some(Wish::Quit));
}

#[test]
fn a_filter_that_is_wrong_leaves_the_one_before_and_escape_brings_it_back() {
    let mut ui = ui();
    let mut record = crate::consume::lines::sample::connected();
    typed(&mut ui, "/pid:1469");
    assert!(ui.keeps(&record));
    ui.take(Input::Key(Press::Enter));
    typed(&mut ui, "/ bad");
    assert_eq!(ui.problem.as_deref(), Some("bad word"));
    if let Some(owner) = &mut record.event.owner {
        owner.pid = 7;
    }
    assert!(!ui.keeps(&record));
    ui.take(Input::Key(Press::Esc));
    assert_eq!((ui.filter.as_str(), &ui.problem), ("pid:1469", &None));
}

#[test]
fn escape_never_quits_and_takes_one_thing_away_at_a_time() {
    let mut ui = ui();
    typed(&mut ui, "v/x");
    ui.take(Input::Key(Press::Enter));
    typed(&mut ui, "?");
    let escape = Input::Key(Press::Esc);
    assert_eq!(ui.take(escape), None);
    assert_eq!((&ui.overlay, ui.filter.as_str()), (&None, "x"));
    assert_eq!(ui.take(escape), None);
    assert!(ui.filter.is_empty() && ui.only_violations);
    assert_eq!(ui.take(escape), None);
    assert!(!ui.only_violations);
    assert_eq!(ui.take(escape), None);
}

#[test]
fn tab_completes_a_word_that_is_certain() {
    assert_eq!(complete("com"), "comm:");
    assert_eq!(complete("dir:in remote-"), "dir:in remote-port:");
    assert_eq!(complete("p"), "p");
    assert_eq!(complete("x !com"), "x !comm:");
    assert_eq!(complete(""), "");
    assert_eq!(complete("curl"), "curl");
}

#[test]
fn what_a_row_is_about_is_left_out_by_a_word_more() {
    let mut ui = ui();
    typed(&mut ui, "e");
    assert_eq!(ui.said(), Some("there is no word that leaves this out"));
    ui.list().marked = Some(RowId::Connection(7));
    ui.list().remote = Some(std::net::IpAddr::from([192, 0, 2, 1]));
    typed(&mut ui, "e");
    assert_eq!(ui.filter, "!remote:192.0.2.1 ");
    for (key, word) in [
        (Key::Process(Some((8, 9))), "!pid:8"),
        (Key::Service(true, Some(443)), "!remote-port:443"),
        (Key::Service(false, Some(22)), "!local-port:22"),
        (
            Key::Network([10, 0, 0, 0].into(), 24),
            "!remote:10.0.0.0/24",
        ),
        (Key::Rule(Some("web".into()), true), "!rule:=web"),
        (Key::Rule(None, false), "!rule:=default"),
    ] {
        ui.list().marked = Some(RowId::Group(key));
        ui.set_filter("x".to_owned());
        typed(&mut ui, "e");
        assert_eq!(ui.filter, format!("x {word} "));
    }
    ui.list().marked = Some(RowId::Group(Key::Process(None)));
    assert_eq!(typed(&mut ui, "e"), None);
    assert_eq!(ui.filter, "x !rule:=default ");
}

#[test]
fn counts_are_begun_anew_by_two_presses_in_a_row_alone() {
    let mut ui = ui();
    assert_eq!(typed(&mut ui, "xjx"), None);
    assert_eq!(typed(&mut ui, "x"), Some(Wish::Clear));
    assert_eq!(typed(&mut ui, "x"), None);
    ui.take(Input::Click(0, 0));
    assert_eq!(typed(&mut ui, "x"), None);
    assert_eq!(ui.said(), Some("x once more begins all counts anew"));
}

#[test]
fn a_recording_counts_from_its_beginning_however_often_that_is_asked() {
    let mut ui = ui();
    ui.set_bar(Bar {
        begin_ns: 0,
        end_ns: 1,
        now_ns: 0,
        speed: 1,
        is_playing: false,
        is_behind: false,
    });
    for _ in 0..3 {
        assert_eq!(typed(&mut ui, "x"), None);
        let said = ui.said();
        assert_eq!(said, Some("a recording counts from its beginning on"));
    }
}

#[test]
fn connections_are_grouped_one_way_after_the_other_and_then_not() {
    let mut ui = ui();
    let mut next = || {
        typed(&mut ui, "a");
        ui.view
    };
    let views = [(); 6].map(|()| next());
    let expected = [
        View::Processes,
        View::Remotes,
        View::Services,
        View::Policy,
        View::Connections,
        View::Processes,
    ];
    assert_eq!(views, expected);
}

#[test]
fn a_row_is_copied_where_one_is_chosen() {
    let mut ui = ui();
    assert_eq!(typed(&mut ui, "c"), None);
    assert_eq!(ui.said(), Some("no row is chosen"));
    ui.list().marked = Some(RowId::Connection(7));
    assert_eq!(typed(&mut ui, "c"), Some(Wish::Copy));
}
