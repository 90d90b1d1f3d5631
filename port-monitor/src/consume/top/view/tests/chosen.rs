//! What is done with the chosen row.

use super::*;
use crate::consume::top::copied;

#[test]
fn a_row_is_copied_as_its_columns_tell_it_and_left_out_by_its_address() {
    let (world, mut ui) = (small(), ui());
    assert_eq!(copied(&ui, &world), None);
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "/curl\n");
    ui.list().marked = Some(RowId::Connection(1));
    let row = copied(&ui, &world).unwrap();
    assert!(row.starts_with("-> 1469 curl "), "{row}");
    assert!(row.contains("93.184.216.34:443 https"), "{row}");
    screen(&mut ui, &world, (80, 24));
    ui.list().chosen = Some(RowId::Connection(1));
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "re");
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "e");
    assert!(ui.filter.starts_with("!remote:"), "{}", ui.filter);
    // A row that is gone is not copied.
    ui.list().marked = Some(RowId::Connection(99));
    assert_eq!(copied(&ui, &world), None);
    press(&mut ui, "4");
    screen(&mut ui, &world, (80, 24));
    let row = copied(&ui, &world).unwrap();
    assert!(!row.is_empty());
}

#[test]
fn a_row_is_copied_with_the_ports_as_they_are_shown() {
    let (world, mut ui) = (small(), ui());
    screen(&mut ui, &world, (80, 24));
    ui.list().marked = Some(RowId::Connection(1));
    press(&mut ui, "n");
    let row = copied(&ui, &world).unwrap();
    assert!(
        row.contains("93.184.216.34:443 ") && !row.contains("https"),
        "{row}"
    );
}

/// Rows come and go below what is told of one of them.
#[test]
fn the_connection_that_is_told_all_about_is_copied_and_left_out_wherever_its_row_is() {
    let (mut world, mut ui) = (model([connected()]), ui());
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "\n");
    let id = connected().event.id;
    assert_eq!(ui.overlay, Some(Overlay::Detail(id)));
    let mut later = connected();
    later.event.id = id + 1;
    later.event.remote_ip = std::net::Ipv4Addr::new(192, 0, 2, 9).into();
    later.wall_ns += 1_000_000_000;
    world.take(Item::Event(&later));
    screen(&mut ui, &world, (80, 24));
    assert_eq!(ui.list().marked, Some(RowId::Connection(id + 1)));
    ui.take(Input::Key(Press::Char('c')));
    assert_eq!(ui.overlay, Some(Overlay::Detail(id)));
    let row = copied(&ui, &world).unwrap();
    assert!(row.contains("93.184.216.34:443"), "{row}");
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "e");
    assert_eq!(ui.filter, "!remote:93.184.216.34 ");
    assert_eq!(ui.overlay, None);
}

#[test]
fn nothing_that_is_copied_takes_a_terminal_over_or_has_any_length() {
    let (world, mut ui) = (hostile(), ui());
    for id in [connected().event.id, 7] {
        screen(&mut ui, &world, (80, 24));
        ui.list().marked = Some(RowId::Connection(id));
        let row = copied(&ui, &world).unwrap();
        assert!(!row.chars().any(char::is_control), "{row:?}");
        assert!(!row.contains('\u{202e}'), "{row:?}");
    }
    let mut record = connected();
    record.process = Arc::new(Process {
        unit: Some("語".repeat(100_000).into()),
        ..(*record.process).clone()
    });
    let world = model([record]);
    screen(&mut ui, &world, (80, 24));
    ui.list().marked = Some(RowId::Connection(connected().event.id));
    let row = copied(&ui, &world).unwrap();
    assert!(row.contains("語語") && row.len() < 4096, "{}", row.len());
}

#[test]
fn arrows_open_a_group_and_close_it_again() {
    let (world, mut ui) = (small(), ui());
    press(&mut ui, "/x\n2");
    screen(&mut ui, &world, (80, 24));
    ui.take(Input::Key(Press::Right));
    assert_eq!(ui.view, View::Connections);
    assert!(ui.filter.starts_with("pid:"), "{}", ui.filter);
    screen(&mut ui, &world, (80, 24));
    ui.take(Input::Key(Press::Left));
    assert_eq!((ui.view, &*ui.filter), (View::Processes, "x"));
    // What was typed since is not taken away.
    screen(&mut ui, &world, (80, 24));
    press(&mut ui, "\n/y\n");
    let typed = ui.filter.clone();
    ui.take(Input::Key(Press::Left));
    assert_eq!((ui.view, &ui.filter), (View::Connections, &typed));
}

#[test]
fn arrows_bring_columns_into_sight_that_a_narrow_screen_has_no_room_for() {
    let (world, mut ui) = (small(), ui());
    let usual = screen(&mut ui, &world, (40, 12));
    assert!(
        usual.contains("PROCESS") && !usual.contains("OUT"),
        "{usual}"
    );
    for _ in 0..30 {
        ui.take(Input::Key(Press::Right));
    }
    let aside = screen(&mut ui, &world, (40, 12));
    assert!(aside.contains("OUT") && aside.contains("STATE"), "{aside}");
    assert!(!aside.contains("PROCESS"), "{aside}");
    for _ in 0..30 {
        ui.take(Input::Key(Press::Left));
    }
    assert_eq!(screen(&mut ui, &world, (40, 12)), usual);
    // Nothing is further right on a screen that has all of them.
    let wide = screen(&mut ui, &world, (200, 60));
    ui.take(Input::Key(Press::Right));
    assert_eq!(screen(&mut ui, &world, (200, 60)), wide);
}

#[test]
fn all_about_a_listener_says_who_came() {
    let port = listening().event.local_port;
    let came = (1..=12_u8).map(|number| {
        let mut record = accepted();
        record.event.id = number.into();
        record.event.local_port = port;
        let address = [10, 0, 0, number.min(10)];
        record.event.remote_ip = std::net::Ipv4Addr::from(address).into();
        record
    });
    let mut listener = listening();
    listener.event.id = 99;
    let (world, mut ui) = (model(came.chain([listener])), ui());
    press(&mut ui, "5");
    screen(&mut ui, &world, (80, 40));
    press(&mut ui, "\n");
    let told = screen(&mut ui, &world, (80, 40));
    assert!(
        told.contains("came      10.0.0.10, 3 times, last "),
        "{told}"
    );
    assert!(told.contains("and 2 more addresses"), "{told}");
}

/// However long the list is, and however little of it is on the screen.
#[test]
fn who_walks_through_a_list_comes_by_each_row_in_its_order() {
    let world = crowded();
    for size in [(40, 12), (80, 24), (120, 100)] {
        let mut ui = ui();
        screen(&mut ui, &world, size);
        let all = connection_sheet(&world, &ui).in_order(&ui.lists[0], &world);
        assert_eq!(all.len(), 70);
        for keys in ["j", "k"] {
            let mut seen = Vec::new();
            for _ in &all {
                seen.push(ui.lists[0].marked.clone().unwrap());
                press(&mut ui, keys);
                screen(&mut ui, &world, size);
            }
            if keys == "k" {
                seen.reverse();
            }
            let expected = all.iter().map(|row| RowId::Connection(row.id()));
            assert!(seen.into_iter().eq(expected), "{size:?} {keys}");
        }
    }
}
