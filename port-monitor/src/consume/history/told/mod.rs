//! How connections out of a history are told: as a table, as JSON lines, as CSV.

mod csv;
mod grid;
mod json;
pub mod plot;
pub mod sheet;
mod table;

use jiff::tz::TimeZone;

use super::read::Watched;
pub use csv::Csv;
use grid::Grid;
pub use json::Json;
pub use table::Table;

use crate::{
    base::time::local,
    consume::{
        join::{Connection, State},
        lines::{
            cell::Cell,
            fields::{FIELDS, Field, unended},
        },
    },
    events::decode::{Action, Direction},
};

/// Columns of the table of a run that a history has nothing for.
const NOT_KEPT: [&str; 5] = ["tid", "thread", "ppid", "peer", "cpu"];

/// Gaps that are told one by one.
const TOLD_GAPS: usize = 3;

/// The columns that a history has something for.
pub fn fields() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| is_kept(field))
}

/// Whether a history has something for the column.
pub fn is_kept(field: &Field) -> bool {
    !NOT_KEPT.contains(&field.name)
}

/// Writes what a column says of a connection. A row is a whole connection, not one of its
/// events: DIR says who opened it, and RESULT how far it has come.
fn cell<M>(cell: &mut Cell<'_>, field: &'static Field, kept: &Connection<M>) {
    let record = &kept.record;
    match field.name {
        "dir" => cell.put(match record.event.direction() {
            Direction::Outbound => "->",
            Direction::Inbound => "<-",
        }),
        "result" => match kept.state {
            State::Attempted | State::Failed | State::Closed => (field.extract)(cell, record),
            State::Open => unended(cell, record, "open"),
            State::CutOff => unended(cell, record, "cut off"),
            State::PushedOut => unended(cell, record, "pushed out"),
        },
        "handshake" => match kept.handshake_us {
            Some(handshake_us) => cell.number(handshake_us),
            None if matches!(record.event.action, Action::Connected { .. }) => cell.unknown(),
            None => cell.none(),
        },
        _ => (field.extract)(cell, record),
    }
}

/// What is missing from a span of time, a sentence each.
pub fn missing(watched: &Watched, zone: &TimeZone) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let few = watched.gaps.len().saturating_sub(TOLD_GAPS);
    if few > 0 {
        told.push(format!(
            "nobody watched in {few} spans of time before these"
        ));
    }
    for gap in watched.gaps.iter().skip(few) {
        let time = |ns: i128| local(ns, zone);
        let span = match (gap.began_ns, gap.ended_ns) {
            (None, None) => "ever".to_owned(),
            (None, Some(ended)) => format!("before {}", time(ended)),
            (Some(began), None) => format!("since {}", time(began)),
            (Some(began), Some(ended)) => format!("from {} to {}", time(began), time(ended)),
        };
        told.push(format!("nobody watched {span} ({})", gap.cause));
    }
    for (cause, lost) in &watched.lost {
        let cause = cause.replace('_', " ");
        told.push(format!("events that are missing: {lost} ({cause})"));
    }
    told
}
