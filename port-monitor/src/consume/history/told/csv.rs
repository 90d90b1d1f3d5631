//! A history as CSV (RFC 4180, but for lines that end in a newline alone).

use jiff::tz::TimeZone;

use super::{cell, fields};
use crate::{
    base::time::LocalClock,
    consume::{
        join::Connection,
        lines::{cell::Cell, fields::Field},
    },
};

/// Columns that other ones say as well, and better for a program.
const COMPOSED: [&str; 3] = ["time", "local", "remote"];

/// Writes CSV.
#[derive(Debug)]
pub struct Csv {
    fields: Vec<&'static Field>,
    clock: LocalClock,
}

impl Csv {
    /// CSV of these columns; of all that there are, where none are named.
    pub fn new(named: Vec<&'static Field>, zone: TimeZone) -> Self {
        let all = || fields().filter(|field| !COMPOSED.contains(&field.name));
        Self {
            fields: if named.is_empty() {
                all().collect()
            } else {
                named
            },
            clock: LocalClock::new(zone),
        }
    }

    /// Writes the names of the columns.
    pub fn begin(&self, out: &mut Vec<u8>) {
        let names = self.fields.iter().map(|field| field.name.as_bytes());
        line(out, names);
    }

    /// Writes the line of a connection. What is not there, or could not be found out, is empty.
    pub fn connection<M>(&mut self, out: &mut Vec<u8>, kept: &Connection<M>) {
        let values: Vec<Vec<u8>> = self
            .fields
            .iter()
            .map(|field| {
                let mut text = Vec::new();
                let room = usize::MAX;
                let mut value = Cell::new(&mut text, room, &mut self.clock).without_signs();
                cell(&mut value, field, kept);
                text
            })
            .collect();
        line(out, values.iter().map(|value| &value[..]));
    }
}

/// Writes a line, with quotes where a reader would go wrong without.
pub(super) fn line<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]>) {
    for (number, value) in values.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        if !value.iter().any(|byte| b",\"\r\n".contains(byte)) {
            out.extend_from_slice(value);
            continue;
        }
        out.push(b'"');
        for byte in value {
            if *byte == b'"' {
                out.push(b'"');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
    out.push(b'\n');
}
