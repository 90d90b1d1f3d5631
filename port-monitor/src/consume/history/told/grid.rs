//! A table of a few columns, each as wide as what is in it.

use jiff::tz::TimeZone;

use crate::{
    base::time::LocalClock,
    consume::lines::{
        cell::Cell,
        layout::shrink,
        table::{DIM, RESET},
        width::{MARK_WIDTH, NARROWEST},
    },
};

/// A table that is written when all of it is known.
#[derive(Debug)]
pub(super) struct Grid {
    width: Option<usize>,
    color: bool,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// A table with these headings, for a terminal of `width` columns, or for none.
    pub(super) fn new(width: Option<usize>, color: bool, headings: &[&str]) -> Self {
        let headings = headings.iter().map(|heading| heading.to_uppercase());
        Self {
            width,
            color,
            rows: vec![headings.collect()],
        }
    }

    /// Adds a row. What comes from outside is escaped when it is written.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes it, and remarks below it. On a terminal the widest columns are cut where all
    /// would not fit.
    pub(super) fn write(&self, out: &mut Vec<u8>, remarks: &[String]) {
        let mut clock = LocalClock::new(TimeZone::UTC);
        let widths = self.widths(&mut clock);
        for row in &self.rows {
            out.extend_from_slice(&[b' '; MARK_WIDTH]);
            let last = row.len().saturating_sub(1);
            for (at, (text, width)) in row.iter().zip(&widths).enumerate() {
                let mut cell = Cell::new(out, *width, &mut clock);
                cell.name(text.as_bytes());
                let gap = width.saturating_sub(cell.width()) + 1;
                if at < last {
                    out.extend(std::iter::repeat_n(b' ', gap));
                }
            }
            out.push(b'\n');
        }
        let (dim, reset) = if self.color { (DIM, RESET) } else { ("", "") };
        for remark in remarks {
            out.extend_from_slice(format!("# {dim}{remark}{reset}\n").as_bytes());
        }
    }

    fn widths(&self, clock: &mut LocalClock) -> Vec<usize> {
        let mut widths = vec![0; self.rows.first().map_or(0, Vec::len)];
        let mut scratch = Vec::new();
        for row in &self.rows {
            for (width, text) in widths.iter_mut().zip(row) {
                scratch.clear();
                let mut cell = Cell::new(&mut scratch, usize::MAX, clock);
                cell.name(text.as_bytes());
                *width = cell.width().max(*width);
            }
        }
        if let Some(width) = self.width {
            shrink(&mut widths, width.max(NARROWEST) - MARK_WIDTH);
        }
        widths
    }
}
