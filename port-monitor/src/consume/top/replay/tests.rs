//! The state at a time is that of the time, however it was reached.

use std::sync::Arc;

use jiff::tz::TimeZone;
use proptest::{collection::vec, prelude::*};
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    consume::{
        lines::{
            json::any::record,
            sample::{NOON_NS, connected, header, listening, loss},
        },
        top::{
            Input, Press, Ui,
            model::Tally,
            view::{Look, draw},
        },
    },
    events::decode::Action,
};

const SECOND_NS: i128 = 1_000_000_000;

/// All that is shown, on every view.
fn shown(player: &Player) -> Vec<String> {
    let mut ui = Ui::new(Box::new(|_| Ok(Arc::new(|_: &Record| true))));
    ui.take(Input::Key(Press::Char('t')));
    let mut look = Look::new(false, TimeZone::UTC);
    let mut terminal = Terminal::new(TestBackend::new(200, 60)).unwrap();
    let views = ('1'..='7').map(|view| {
        ui.take(Input::Key(Press::Char(view)));
        terminal
            .draw(|frame| draw(frame, &mut ui, player.model(), &mut look, 0))
            .unwrap();
        terminal.backend().to_string()
    });
    views.collect()
}

fn recording(entries: Vec<Entry>) -> Recording {
    let mut recording = Recording::new("run.jsonl".to_owned());
    for entry in entries {
        recording.push(entry);
    }
    recording
}

fn player(entries: Vec<Entry>) -> Player {
    let mut player = Player::new(recording(entries)).unwrap();
    player.approach(|| true);
    player
}

fn go_to(player: &mut Player, ns: i128) {
    player.take(Move::To(ns));
    assert!(player.approach(|| true));
}

/// What the start of the run would be by another policy.
fn judged_by_another() -> Header {
    Header {
        policy: Some("other.toml".to_owned()),
        ..header()
    }
}

/// Runs one after the other, with gaps of any length, and clocks that are set back.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let gap_ms = prop_oneof![4 => 0..900_i64, 1 => -5_000..100_000_i64];
    let entry = prop_oneof![
        8 => record().prop_map(|record| Some(Entry::Event(record))),
        1 => Just(Some(Entry::Start(Box::new(header())))),
        1 => Just(Some(Entry::Policy(Box::new(judged_by_another())))),
        1 => Just(Some(Entry::Loss(loss()))),
        1 => Just(Some(Entry::End(0, Told { seen: 7, filtered: 2, lost: 1 }))),
    ];
    vec((entry, gap_ms, 0..12_u64), 2..60).prop_map(|all| {
        let mut wall_ns = NOON_NS;
        let of_each = all.into_iter().filter_map(|(entry, gap_ms, id)| {
            wall_ns += i128::from(gap_ms) * 1_000_000;
            let mut entry = entry?;
            match &mut entry {
                Entry::Start(header) | Entry::Policy(header) => header.wall_ns = wall_ns,
                Entry::Event(record) => {
                    record.wall_ns = wall_ns;
                    record.event.id = id;
                }
                Entry::Loss(loss) => loss.wall_ns = wall_ns,
                Entry::End(at_ns, _) => *at_ns = wall_ns,
            }
            Some(entry)
        });
        of_each.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_time_is_the_same_played_stepped_to_and_jumped_to(
        entries in entries(),
        percent in 0..=100_u8,
        moves in vec(0..=100_u8, 0..6),
        speed in 0..SPEEDS.len(),
        step_ms in 1..5_000_u64,
    ) {
        let new = || player(entries.clone());
        let mut jumped = new();
        let (begin, end) = (jumped.begin_ns(), jumped.end_ns());
        let at = |percent: u8| begin + (end - begin) * i128::from(percent) / 100;
        let wanted = at(percent);
        go_to(&mut jumped, wanted);
        let expected = shown(&jumped);
        // All over the place first, with states kept on the way.
        let mut strayed = new();
        for percent in moves {
            go_to(&mut strayed, at(percent));
        }
        go_to(&mut strayed, end);
        go_to(&mut strayed, wanted);
        prop_assert_eq!(&shown(&strayed), &expected);
        // Played, at any speed and in any slices, and as slowly as can be.
        let mut played = new();
        for _ in 0..speed {
            played.take(Move::Speed(Way::Forth));
        }
        while played.bar().now_ns < wanted {
            let left = u64::try_from(wanted - played.bar().now_ns).unwrap();
            let slice = Duration::from_millis(step_ms * 10);
            let slice = slice.min(Duration::from_nanos(left / u64::from(played.bar().speed)));
            if slice.is_zero() {
                break;
            }
            played.pass(slice);
            while !played.approach(|| false) {}
        }
        go_to(&mut played, wanted);
        prop_assert_eq!(&shown(&played), &expected);
        // By steps, of which each has an event of its own.
        let mut stepped = new();
        while stepped.neighbour(Way::Forth) <= wanted && stepped.target_ns < end {
            stepped.take(Move::Step(Way::Forth));
            stepped.approach(|| true);
        }
        go_to(&mut stepped, wanted);
        prop_assert_eq!(&shown(&stepped), &expected);
    }
}

fn events(count: u64) -> Vec<Entry> {
    let mut entries = vec![Entry::Start(Box::new(header()))];
    entries.extend((0..count).map(|id| {
        let mut record = connected();
        record.event.id = id;
        record.wall_ns = NOON_NS + i128::from(id + 1) * SECOND_NS;
        Entry::Event(record)
    }));
    entries
}

#[test]
fn time_goes_on_as_fast_as_is_wished_and_stops_at_the_end() {
    let mut player = player(events(100));
    let begin_ns = player.bar().begin_ns;
    player.pass(Duration::from_secs(2));
    player.approach(|| true);
    assert_eq!(player.bar().now_ns - begin_ns, 2 * SECOND_NS);
    player.take(Move::Speed(Way::Forth));
    player.pass(Duration::from_secs(2));
    player.approach(|| true);
    assert_eq!((player.bar().now_ns - begin_ns) / SECOND_NS, 6);
    player.take(Move::Toggle);
    player.pass(Duration::from_secs(9));
    assert_eq!((player.bar().now_ns - begin_ns) / SECOND_NS, 6);
    player.take(Move::Toggle);
    for _ in 0..20 {
        player.take(Move::Speed(Way::Forth));
    }
    assert_eq!(player.bar().speed, 1_000);
    player.pass(Duration::from_secs(1));
    player.approach(|| true);
    let bar = player.bar();
    assert_eq!((bar.now_ns, bar.is_playing), (bar.end_ns, false));
    assert_eq!(player.model().events(), 100);
    // From the end it begins again.
    player.take(Move::Toggle);
    player.approach(|| true);
    let bar = player.bar();
    assert_eq!((bar.now_ns, bar.is_playing), (bar.begin_ns, true));
}

#[test]
fn a_step_is_one_event_there_and_back() {
    let mut player = player(events(5));
    for taken in [1, 2, 3] {
        player.take(Move::Step(Way::Forth));
        player.approach(|| true);
        assert_eq!(player.model().events(), taken);
    }
    player.take(Move::Step(Way::Back));
    player.approach(|| true);
    assert_eq!(player.model().events(), 2);
    assert!(!player.bar().is_playing);
    for _ in 0..9 {
        player.take(Move::Step(Way::Back));
        player.approach(|| true);
    }
    assert_eq!(player.bar().now_ns, player.bar().begin_ns);
}

#[test]
fn a_far_time_is_reached_in_slices_of_which_each_shows_how_far_it_is() {
    let mut player = player(events(3_000));
    player.take(Move::To(i128::MAX));
    assert!(!player.approach(|| false));
    let bar = player.bar();
    assert!(bar.is_behind && bar.begin_ns < bar.now_ns && bar.now_ns < bar.end_ns);
    while !player.approach(|| false) {}
    let bar = player.bar();
    assert_eq!((bar.is_behind, bar.now_ns), (false, bar.end_ns));
    assert!(!player.kept.is_empty() && player.kept.len() <= KEPT_STATES);
}

#[test]
fn what_was_open_at_the_end_of_a_run_is_not_open_in_the_next_one() {
    let mut entries = events(3);
    let told = Told {
        seen: 3,
        ..Told::default()
    };
    let mut listener = listening();
    listener.event.id = 77;
    listener.wall_ns = NOON_NS + 3 * SECOND_NS;
    entries.push(Entry::Event(listener));
    entries.push(Entry::End(NOON_NS + 4 * SECOND_NS, told));
    let mut again = header();
    again.wall_ns = NOON_NS + 9 * SECOND_NS;
    entries.push(Entry::Start(Box::new(again)));
    let mut player = player(entries);
    go_to(&mut player, NOON_NS + 5 * SECOND_NS);
    assert!(player.model().is_over());
    assert_eq!(player.model().total.open, 3);
    go_to(&mut player, NOON_NS + 9 * SECOND_NS);
    assert!(!player.model().is_over());
    let Tally { all, open, .. } = player.model().total;
    assert_eq!((all, open), (3, 0));
    let open = player.model().connections();
    assert_eq!(open.filter(|row| row.state.is_open()).count(), 0);
}

/// Also where a jump goes back over the change.
#[test]
fn the_policy_is_that_of_the_time() {
    let mut entries = events(3);
    let mut other = judged_by_another();
    other.wall_ns = NOON_NS + 4 * SECOND_NS;
    entries.push(Entry::Policy(Box::new(other)));
    let mut player = player(entries);
    for (second, policy) in [(3, "policy.toml"), (5, "other.toml"), (3, "policy.toml")] {
        go_to(&mut player, NOON_NS + second * SECOND_NS);
        let header = player.model().header.as_ref().unwrap();
        assert_eq!(header.policy.as_deref(), Some(policy));
    }
}

#[test]
fn a_gap_of_years_takes_no_time() {
    let mut entries = events(2);
    let mut late = connected();
    late.event.id = 99;
    late.event.action = Action::Connect;
    late.wall_ns = NOON_NS + 40 * 365 * 86_400 * SECOND_NS;
    entries.push(Entry::Event(late));
    let mut player = player(entries);
    player.take(Move::To(i128::MAX));
    let mut slices = 0;
    while !player.approach(|| false) {
        slices += 1;
    }
    assert_eq!(slices, 0);
    assert_eq!(player.model().events(), 3);
}
