//! What a table of some width has room for.

use crate::consume::lines::fields::{FIELDS, Field, Shown};

/// The columns of a table `width` wide when none are asked for.
pub(crate) fn default_fields(width: usize) -> Vec<&'static Field> {
    FIELDS
        .iter()
        .filter(|field| match field.shown {
            Shown::Always => true,
            Shown::From(from) => width >= from,
            Shown::OnRequest => false,
        })
        .collect()
}

/// How much cannot be seen, as the end of the first line, and what of it has a line of its
/// own.
pub(crate) fn blind(blind_spots: &[String], verbose: bool) -> (String, &[String]) {
    if verbose {
        return (String::new(), blind_spots);
    }
    let count = match blind_spots.len() {
        0 => String::new(),
        1 => "; 1 blind spot, see port-monitor doctor".to_owned(),
        count => format!("; {count} blind spots, see port-monitor doctor"),
    };
    (count, &[])
}

/// Takes from the widest columns what is too much for so many in all, with the spaces
/// between them.
pub(crate) fn shrink(widths: &mut [usize], room: usize) {
    /// What a cut name still says something in.
    const LEAST: usize = 5;
    let gaps = widths.len().saturating_sub(1);
    loop {
        let total: usize = widths.iter().sum();
        let widest = widths.iter_mut().max();
        match widest {
            Some(widest) if total + gaps > room && *widest > LEAST => *widest -= 1,
            _ => return,
        }
    }
}

/// The text in parts that fit, as far as its words do.
pub(crate) fn wrapped(text: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        if text.chars().count() <= room {
            return Some(text);
        }
        let limit = text.char_indices().nth(room);
        let (within, beyond) = text.split_at(limit.map_or(text.len(), |(at, _)| at));
        let space = if beyond.starts_with(' ') {
            Some(within.len())
        } else {
            within.rfind(' ').filter(|&space| space > 0)
        };
        let Some(space) = space.or_else(|| text.find(' ')) else {
            return Some(text);
        };
        let (part, after) = text.split_at(space);
        rest = Some(after.trim_start());
        Some(part.trim_end())
    })
}
