//! Patterns of names as one automaton that reads bytes: what the kernel side can run
//! without going back. Pure.

use std::collections::{BTreeSet, HashMap};

use port_monitor_common::groups::{FIRST_ROW, LAST_ROW, NO_ROW, ROWS, Row};

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// `?`: one character.
    One,
    /// `*`: any text.
    Any,
}

/// A place in one of the patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    pattern: usize,
    part: usize,
    /// What `?` matched may go on: a character has several bytes.
    within: bool,
}

type Places = BTreeSet<Place>;

/// The rows for these patterns; empty for none, `None` where there would be too many.
pub(crate) fn rows(patterns: &[String]) -> Option<Vec<Row>> {
    if patterns.is_empty() {
        return Some(Vec::new());
    }
    let patterns: Vec<Vec<Part>> = patterns.iter().map(|pattern| parts(pattern)).collect();
    let mut begin = Places::new();
    for pattern in 0..patterns.len() {
        add(&patterns, pattern, 0, false, &mut begin);
    }
    let mut known: HashMap<Places, u16> = HashMap::new();
    // The first row is like that of `begin`, but for the `_` that systemd writes there.
    let mut states = vec![Places::new(), begin.clone(), Places::new()];
    let mut rows: Vec<Row> = Vec::new();
    let kinds = kinds(&patterns);
    while let Some(places) = states.get(rows.len()).cloned() {
        let is_first = rows.len() == usize::from(FIRST_ROW);
        let mut row = [NO_ROW; 256];
        for bytes in &kinds {
            let next = match bytes.as_slice() {
                [b'_'] if is_first => begin.clone(),
                bytes => step(&patterns, &places, bytes[0]),
            };
            let number = match known.get(&next) {
                _ if next.is_empty() => NO_ROW,
                Some(&known) => known,
                None if states.len() == ROWS => return None,
                None => {
                    let number = u16::try_from(states.len()).ok()?;
                    states.push(next.clone());
                    known.insert(next, number);
                    number
                }
            };
            for byte in bytes {
                row[usize::from(*byte)] = number;
            }
        }
        let is_last = rows.len() == usize::from(LAST_ROW);
        if is_last || is_end(&patterns, &places) {
            row[0] = LAST_ROW;
        }
        rows.push(row);
    }
    Some(rows)
}

/// The bytes of names, those together that lead to the same from everywhere.
fn kinds(patterns: &[Vec<Part>]) -> Vec<Vec<u8>> {
    let mut kinds: HashMap<(bool, Option<u8>), Vec<u8>> = HashMap::new();
    for byte in 1..=u8::MAX {
        let written = patterns.iter().flatten();
        let is_written = byte == b'_' || written.into_iter().any(|part| *part == Part::Byte(byte));
        let kind = (goes_on(byte), is_written.then_some(byte));
        kinds.entry(kind).or_default().push(byte);
    }
    kinds.into_values().collect()
}

/// It is the second byte of a character, or a later one.
fn goes_on(byte: u8) -> bool {
    matches!(byte, 0x80..0xc0)
}

fn parts(pattern: &str) -> Vec<Part> {
    let part = |byte| match byte {
        b'*' => Part::Any,
        b'?' => Part::One,
        byte => Part::Byte(byte),
    };
    let mut parts: Vec<Part> = pattern.bytes().map(part).collect();
    parts.dedup_by(|next, before| *next == Part::Any && *before == Part::Any);
    parts
}

/// Adds a place, and the one behind a star that matches nothing.
fn add(patterns: &[Vec<Part>], pattern: usize, part: usize, within: bool, places: &mut Places) {
    places.insert(Place {
        pattern,
        part,
        within,
    });
    if patterns[pattern].get(part) == Some(&Part::Any) {
        places.insert(Place {
            pattern,
            part: part + 1,
            within,
        });
    }
}

fn step(patterns: &[Vec<Part>], places: &Places, byte: u8) -> Places {
    let goes_on = goes_on(byte);
    let mut next = Places::new();
    for place in places {
        let &Place {
            pattern,
            part,
            within,
        } = place;
        if within && goes_on {
            next.insert(*place);
        }
        match patterns[pattern].get(part) {
            Some(Part::Any) => add(patterns, pattern, part, false, &mut next),
            Some(Part::One) if !goes_on => add(patterns, pattern, part + 1, true, &mut next),
            Some(Part::Byte(wanted)) if *wanted == byte => {
                add(patterns, pattern, part + 1, false, &mut next);
            }
            Some(Part::One | Part::Byte(_)) | None => {}
        }
    }
    next
}

fn is_end(patterns: &[Vec<Part>], places: &Places) -> bool {
    places
        .iter()
        .any(|place| place.part == patterns[place.pattern].len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::host::groups::automaton::*;
    use crate::host::units;

    /// What the kernel side does.
    fn run(rows: &[Row], name: &str) -> bool {
        let mut row = FIRST_ROW;
        for byte in name.bytes().chain([0; 2]) {
            let Some(next) = rows.get(usize::from(row)) else {
                return false;
            };
            row = next[usize::from(byte)];
        }
        row == LAST_ROW
    }

    #[test]
    fn no_pattern_matches_nothing() {
        assert!(!run(&rows(&[]).unwrap(), "web.service"));
    }

    #[test]
    fn many_patterns_have_room_and_too_many_are_refused() {
        let patterns: Vec<_> = (0..100).map(|n| format!("worker{n}@*.service")).collect();
        assert!(rows(&patterns).is_some());
        let stars: Vec<_> = ('a'..='p').map(|letter| format!("*{letter}*")).collect();
        assert_eq!(rows(&stars), None);
    }

    proptest! {
        #[test]
        fn the_automaton_agrees_with_the_matching_of_policies(
            patterns in prop::collection::vec("[ab_é*?]{1,6}", 1..4),
            name in "[ab_éü]{1,7}",
        ) {
            let rows = rows(&patterns).unwrap();
            let unit = units::unescaped(&name);
            let expected = patterns.iter().any(|pattern| units::matches(pattern, unit));
            prop_assert_eq!(run(&rows, &name), expected);
        }
    }
}
