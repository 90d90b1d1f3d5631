//! Times as they are typed, and recordings as they are found.

use std::{fs, io::Write as _};

use super::*;
use crate::consume::{
    Lines, Sink as _,
    lines::{
        json::Json,
        sample::{NOON_NS, accepted, closed, connected, header, loss, summary},
    },
};
use crate::events::record::Item;

const SECOND_NS: i128 = 1_000_000_000;

fn bar() -> Bar {
    Bar {
        begin_ns: NOON_NS,
        end_ns: NOON_NS + 200 * SECOND_NS,
        now_ns: NOON_NS + 100 * SECOND_NS,
        speed: 1,
        is_playing: true,
        is_behind: false,
    }
}

#[test]
fn a_time_is_typed_as_a_time_of_day_a_span_or_a_part() {
    let noon = jiff::Timestamp::from_nanosecond(NOON_NS).unwrap();
    let time = |seconds: i64| {
        let time = noon + jiff::SignedDuration::from_secs(seconds);
        time.to_zoned(TimeZone::UTC)
            .strftime("%H:%M:%S")
            .to_string()
    };
    let at = |seconds: i128| Ok(Move::To(NOON_NS + seconds * SECOND_NS));
    let read = |text: &str| to_time(text, &bar(), &TimeZone::UTC);
    for (text, expected) in [
        ("0%", at(0)),
        (" 50% ", at(100)),
        ("100%", at(200)),
        ("+90s", Ok(Move::By(90))),
        ("+90", Ok(Move::By(90))),
        ("-5m", Ok(Move::By(-300))),
        ("+2h", Ok(Move::By(7_200))),
        (&time(30), at(30)),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
    for text in [
        "",
        "soon",
        "101%",
        "%",
        "+m",
        "-1d",
        "25:00",
        &time(-60),
        "é",
    ] {
        let Err(problem) = read(text) else {
            panic!("{text} is taken");
        };
        assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}");
    }
}

/// What a run writes.
fn told(items: &[Item<'_>]) -> Vec<u8> {
    let (mut lines, mut json) = (Lines::default(), Json::new());
    for item in items {
        json.write(&mut lines, *item);
    }
    lines.as_bytes().to_vec()
}

fn whole() -> Vec<u8> {
    told(&[
        Item::Header(&header()),
        Item::Event(&connected()),
        Item::Event(&accepted()),
        Item::Loss(&loss()),
        Item::Event(&closed()),
        Item::Summary(&summary()),
    ])
}

fn load_text(text: &[u8], filters: &Filters) -> Result<Recording, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    fs::write(&path, text).unwrap();
    load(&path, filters).map_err(|failure| {
        assert_eq!(failure.code, ExitCode::Usage);
        let text = format!("{:#}", failure.error);
        text.replace(&format!("{}/", dir.path().display()), "")
    })
}

#[test]
fn a_recording_is_the_same_packed_or_not_and_filters_keep_of_it_what_they_ask_for() {
    let text = whole();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&text).unwrap();
    for text in [text, packed.finish().unwrap()] {
        let all = load_text(&text, &Filters::default()).unwrap();
        assert_eq!((all.events(), all.unknown()), (3, 0));
        let mut player = Player::new(all).unwrap();
        player.take(Move::To(i128::MAX));
        player.approach(|| true);
        assert!(player.model().is_over());
        let one = Filters {
            pids: vec![connected().event.owner.unwrap().pid],
            ..Filters::default()
        };
        assert_eq!(load_text(&text, &one).unwrap().events(), 2);
    }
}

/// A policy line is none of a start: nothing is cut off.
#[test]
fn the_policy_may_change_in_the_middle() {
    let mut other = header();
    other.policy = Some("other.toml".to_owned());
    let text = told(&[
        Item::Header(&header()),
        Item::Event(&connected()),
        Item::Policy(&other),
        Item::Event(&closed()),
    ]);
    let recording = load_text(&text, &Filters::default()).unwrap();
    assert_eq!((recording.events(), recording.unknown()), (2, 0));
    let mut player = Player::new(recording).unwrap();
    player.take(Move::To(i128::MAX));
    player.approach(|| true);
    let shown = player.model().header.as_ref().unwrap();
    assert_eq!(shown.policy.as_deref(), Some("other.toml"));
    assert_eq!(shown.host, "web1");
}

#[test]
fn what_is_no_recording_is_one_clear_line() {
    let none = Filters {
        pids: vec![1],
        ..Filters::default()
    };
    let mut cut = whole();
    cut.truncate(cut.len() - 20);
    let lines = String::from_utf8(whole()).unwrap();
    let strange = lines.lines().nth(1).unwrap();
    let strange = strange.replace("\"action\":\"connected\"", "\"action\":\"sleep\"");
    for (text, filters, expected) in [
        (
            &b""[..],
            &Filters::default(),
            "read run.jsonl: no event in it",
        ),
        (
            &cut,
            &Filters::default(),
            "run.jsonl:6: not a line of `-o json`: ",
        ),
        (b"hello\n", &Filters::default(), "run.jsonl:1: not a line"),
        (
            &whole(),
            &none,
            "read run.jsonl: no event in it that the filters keep",
        ),
        (
            strange.as_bytes(),
            &Filters::default(),
            "read run.jsonl: no event in it that can be shown; 1 ",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            &Filters::default(),
            "read run.jsonl: it is compressed: `zstd -dc",
        ),
    ] {
        let problem = load_text(text, filters).err().unwrap();
        assert!(problem.starts_with(expected), "{problem}");
        assert_eq!(problem.lines().count(), 1);
    }
}
