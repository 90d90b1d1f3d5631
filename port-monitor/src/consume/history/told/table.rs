//! A history as a table for people: the columns of a run's.

use jiff::{civil::Date, tz::TimeZone};

use super::cell;
use crate::{
    base::time::date,
    consume::{
        history::read::Kept,
        join::State,
        lines::{
            fields::Field,
            table::{self, Options, plural},
        },
    },
};

/// Writes the table.
#[derive(Debug)]
pub struct Table {
    rows: table::Table,
    zone: TimeZone,
    day: Option<Date>,
    connections: u64,
    failed: u64,
    violations: u64,
}

impl Table {
    /// A table for a terminal of `width` columns, or for none; of these columns, or of those
    /// that there is room for.
    pub fn new(
        width: Option<usize>,
        color: bool,
        fields: Vec<&'static Field>,
        zone: TimeZone,
    ) -> Self {
        let options = Options {
            width,
            color,
            verbose: false,
            aggregate: false,
            fields,
            zone: zone.clone(),
        };
        Self {
            rows: table::Table::new(options),
            zone,
            day: None,
            connections: 0,
            failed: 0,
            violations: 0,
        }
    }

    /// Writes the names of the columns.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.rows.heading(out);
    }

    /// Writes the row of a connection, and the day before the first one of that.
    pub fn connection(&mut self, out: &mut Vec<u8>, kept: &Kept) {
        let day = date(kept.began_ns, &self.zone);
        if self.day.replace(day) != Some(day) {
            self.rows.comment(out, format_args!("{day}"));
        }
        self.connections += 1;
        self.failed += u64::from(kept.state == State::Failed);
        self.violations += u64::from(kept.record.is_violation());
        self.rows
            .row_of(out, &kept.record, |text, field| cell(text, field, kept));
    }

    /// Writes the foot: how many there were, and what is missing.
    pub fn end(&mut self, out: &mut Vec<u8>, missing: &[String]) {
        let (count, connections) = (self.connections, plural(self.connections, "connection"));
        let (failed, violations) = (self.failed, plural(self.violations, "violation"));
        self.rows.comment(
            out,
            format_args!(
                "{count} {connections}, {failed} failed, {} {violations}",
                self.violations
            ),
        );
        for sentence in missing {
            self.rows.comment(out, format_args!("{sentence}"));
        }
    }
}
