//! Lists without rows, and what there is room for.

use super::*;

fn finds_nothing() -> Ui {
    Ui::new(Box::new(|_| Ok(Arc::new(|_: &Record| false))))
}

#[test]
fn a_list_that_a_filter_has_emptied_says_so_and_how_to_undo_it() {
    let world = small();
    for (view, count) in [
        ("1", "4 connections are"),
        ("2", "3 processes are"),
        ("3", "3 services are"),
        ("4", "3 addresses are"),
        ("5", "1 listener is"),
        ("6", "1 rule is"),
    ] {
        let mut ui = finds_nothing();
        press(&mut ui, &format!("{view}/x\n"));
        let shown = screen(&mut ui, &world, (80, 24));
        assert!(shown.contains(&format!("{count} not shown:")), "{shown}");
        assert!(
            shown.contains("- the filter /x keeps none. Esc takes it away."),
            "{shown}"
        );
        assert!(!shown.contains("v shows all again"), "{shown}");
        ui.take(Input::Key(Press::Esc));
        let shown = screen(&mut ui, &world, (80, 24));
        assert!(!shown.contains("not shown"), "{shown}");
    }
    let mut ui = finds_nothing();
    press(&mut ui, "5/x\n");
    insta::assert_snapshot!("emptied_40x12", screen(&mut ui, &world, (40, 12)));
}

#[test]
fn a_list_without_violations_says_which_key_shows_the_others() {
    let world = small();
    let mut ui = ui();
    press(&mut ui, "5v");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(shown.contains("1 listener is not shown:"), "{shown}");
    assert!(shown.contains("v shows all again."), "{shown}");
    assert!(!shown.contains("the filter"), "{shown}");
    press(&mut ui, "v");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(!shown.contains("not shown"), "{shown}");
}

#[test]
fn a_list_in_which_all_have_ended_says_which_key_shows_them() {
    let mut ended = closed();
    ended.wall_ns -= 60_000_000_000;
    let world = model([ended]);
    let mut ui = ui();
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(shown.contains("1 connection is not shown:"), "{shown}");
    assert!(
        shown.contains("- 1 has ended. t shows those too."),
        "{shown}"
    );
    press(&mut ui, "t");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(shown.contains("1 row,") && !shown.contains("not shown"));
}

#[test]
fn a_list_of_nothing_says_whether_flags_may_be_why() {
    let world = Model::default();
    let mut ui = ui();
    press(&mut ui, "5");
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(shown.contains("There is no listener."), "{shown}");
    assert!(!shown.contains("flags"), "{shown}");
    ui.chosen_by_flags();
    let shown = screen(&mut ui, &world, (80, 24));
    assert!(
        shown.contains("The flags that it was started with"),
        "{shown}"
    );
}

#[test]
fn what_became_of_a_connection_is_whole_from_80_columns_on() {
    let world = small();
    for width in 80..=220 {
        let shown = screen(&mut ui(), &world, (width, 24));
        assert!(shown.contains("refused  no-telnet"), "{shown}");
    }
}

#[test]
fn only_columns_in_sight_are_sorted_by() {
    let world = small();
    for (width, columns) in [(40, 4), (80, 6), (120, 9), (200, 13)] {
        let mut ui = ui();
        let mut seen = Vec::new();
        screen(&mut ui, &world, (width, 24));
        for _ in 0..columns {
            press(&mut ui, "s");
            let shown = screen(&mut ui, &world, (width, 24));
            let heading = shown.lines().nth(3).unwrap();
            let at = heading
                .find(['↑', '↓'])
                .unwrap_or_else(|| panic!("{shown}"));
            assert!(!seen.contains(&at), "{shown}");
            seen.push(at);
        }
        // All round.
        press(&mut ui, "s");
        screen(&mut ui, &world, (width, 24));
        let first = ui.lists[0].column;
        press(&mut ui, "<>");
        assert_eq!(ui.lists[0].column, first);
        assert!(seen.is_sorted(), "{seen:?}");
    }
}

#[test]
fn the_help_is_whole_on_narrow_screens_too() {
    for room in [36, 76] {
        let lines = help(room);
        assert!(lines.iter().all(|line| line.chars().count() <= room));
        let text: String = lines.join(" ");
        let words: Vec<_> = text.split_whitespace().collect();
        for binding in KEYS {
            let does: Vec<_> = binding.does.split_whitespace().collect();
            let is_there = words.windows(does.len()).any(|part| part == does);
            assert!(is_there, "{}: {room}", binding.does);
        }
    }
}
