//! A few columns of sums or facts, as a table, as JSON lines or as CSV.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Grid, csv};
use crate::{
    base::time::{LocalClock, Rfc3339, local},
    consume::{
        history::read::{By, Key, Sums},
        lines::cell::Cell,
    },
    ports::services,
};

/// A column: its name in JSON and CSV, and its heading in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: &'static str,
    /// The heading.
    pub heading: &'static str,
}

/// A column whose heading is its name.
pub const fn column(name: &'static str) -> Column {
    Column {
        name,
        heading: name,
    }
}

const fn headed(name: &'static str, heading: &'static str) -> Column {
    Column { name, heading }
}

/// The columns of [`sums`].
pub const SUMS: [Column; 7] = [
    headed("connections", "count"),
    column("failed"),
    column("violations"),
    headed("bytes_sent", "out"),
    headed("bytes_received", "in"),
    column("first"),
    column("last"),
];

/// What is in a column: for people, and for programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    text: String,
    value: Value,
}

impl Fact {
    /// A number.
    pub fn number(number: u64) -> Self {
        Self {
            text: number.to_string(),
            value: json!(number),
        }
    }

    /// A text; `-` where there is none.
    pub fn text(text: Option<String>) -> Self {
        Self {
            value: json!(text),
            text: text.unwrap_or_else(|| "-".to_owned()),
        }
    }

    /// A time, ns since the Unix epoch, which people are told in their zone.
    pub fn time(wall_ns: i128, zone: &TimeZone) -> Self {
        Self {
            text: local(wall_ns, zone),
            value: json!(Rfc3339(wall_ns)),
        }
    }

    /// So many bytes.
    pub fn bytes(bytes: u64) -> Self {
        let mut text = Vec::new();
        let mut clock = LocalClock::new(TimeZone::UTC);
        Cell::new(&mut text, usize::MAX, &mut clock).size(bytes);
        Self {
            text: String::from_utf8_lossy(&text).into_owned(),
            value: json!(bytes),
        }
    }

    /// A text for people, and a number for programs.
    pub fn both(text: String, number: u64) -> Self {
        Self {
            text,
            value: json!(number),
        }
    }

    /// What connections have in common.
    pub fn key(key: &Key) -> Self {
        Self::text(match key {
            Key::Nothing => None,
            Key::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Key::Uid(uid) => Some(uid.to_string()),
            Key::Port(port) => Some(match services::lookup(*port).0 {
                Some((name, _)) => format!("{port} {name}"),
                None => port.to_string(),
            }),
            Key::Ip(ip) => Some(ip.to_string()),
            Key::Default => Some("(default)".to_owned()),
        })
    }
}

/// What connections add up to, in the columns of [`SUMS`].
pub fn sums(sums: &Sums, zone: &TimeZone) -> [Fact; 7] {
    let Sums {
        count,
        failed,
        violations,
        sent,
        received,
        first_ns,
        last_ns,
    } = *sums;
    [
        Fact::number(count),
        Fact::number(failed),
        Fact::number(violations),
        Fact::bytes(sent),
        Fact::bytes(received),
        Fact::time(first_ns, zone),
        Fact::time(last_ns, zone),
    ]
}

/// What connections may have in common, by the word of `--by`.
pub const fn word(by: By) -> &'static str {
    match by {
        By::Process => "process",
        By::Exe => "exe",
        By::User => "user",
        By::Unit => "unit",
        By::Container => "container",
        By::Service => "service",
        By::Remote => "remote",
        By::Rule => "rule",
    }
}

/// In what form a sheet is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SheetForm {
    /// A table, for a terminal of so many columns or for none.
    Table {
        /// The columns of the terminal.
        width: Option<usize>,
        /// Whether to colour it.
        color: bool,
    },
    /// JSON lines.
    Json,
    /// CSV, with a line of names.
    Csv,
}

/// Columns and rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// What each row has.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<Fact>>,
}

impl Sheet {
    /// The sheet in a form. Only a table has the remarks.
    pub fn write(self, form: SheetForm, remarks: &[String]) -> Vec<u8> {
        let mut out = Vec::new();
        match form {
            SheetForm::Table { width, color } => {
                let headings: Vec<_> = self.columns.iter().map(|column| column.heading).collect();
                let mut grid = Grid::new(width, color, &headings);
                for row in self.rows {
                    grid.row(row.into_iter().map(|fact| fact.text));
                }
                grid.write(&mut out, remarks);
            }
            SheetForm::Json => self.write_json(&mut out),
            SheetForm::Csv => self.write_csv(&mut out),
        }
        out
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        for row in &self.rows {
            for (number, (column, fact)) in self.columns.iter().zip(row).enumerate() {
                out.push(if number == 0 { b'{' } else { b',' });
                out.extend_from_slice(format!("\"{}\":{}", column.name, fact.value).as_bytes());
            }
            out.extend_from_slice(b"}\n");
        }
    }

    fn write_csv(&self, out: &mut Vec<u8>) {
        let names = self.columns.iter().map(|column| column.name.as_bytes());
        csv::line(out, names);
        for row in &self.rows {
            let texts = row.iter().map(|fact| match &fact.value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                number => number.to_string(),
            });
            let texts: Vec<String> = texts.collect();
            csv::line(out, texts.iter().map(String::as_bytes));
        }
    }
}
