//! Connections over time, drawn: with blocks on a terminal, or as SVG.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::sheet::{Column, Fact, Sheet, SheetForm, column};
use crate::{
    base::time::local,
    consume::history::read::{Spans, Tally, Watched},
};

/// Columns of a terminal that the numbers take at most.
const NUMBERS: usize = 48;
/// The width of the plot where there is no terminal.
const BLOCKS: usize = 50;

/// Connections over time. Times are in ns since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Plot<'a> {
    /// The spans of time.
    pub spans: Spans,
    /// What began in each.
    pub tallies: &'a [Tally],
    /// When nobody watched.
    pub watched: &'a Watched,
    /// From when on connections were asked for.
    pub since_ns: i128,
    /// Until when.
    pub until_ns: i128,
    /// Where people live.
    pub zone: &'a TimeZone,
}

impl Plot<'_> {
    /// What the blocks mean.
    pub fn legend(&self) -> String {
        let seconds = self.spans.step_ns / 1_000_000_000;
        let (number, unit) = match seconds {
            0..60 => (seconds, "s"),
            60..3_600 => (seconds / 60, "m"),
            3_600..86_400 => (seconds / 3_600, "h"),
            _ => (seconds / 86_400, "d"),
        };
        format!("each line is {number}{unit}: █ connections, ░ attempts that failed")
    }

    /// A row for each span; in a table with blocks.
    pub fn sheet(&self, form: SheetForm) -> Sheet {
        let names = ["time", "connections", "failed", "violations"];
        let mut columns: Vec<Column> = names.map(column).to_vec();
        columns.push(Column {
            name: "unwatched_seconds",
            heading: "",
        });
        let room = match form {
            SheetForm::Table {
                width: Some(width), ..
            } => width.saturating_sub(NUMBERS).max(8),
            _ => BLOCKS,
        };
        let rows = self.each().map(|(from_ns, tally)| {
            let unwatched_ns = self.unwatched_ns(from_ns);
            let is_dark = unwatched_ns > 0 && unwatched_ns == self.asked_ns(from_ns);
            let blocks = if is_dark && tally.connections == 0 {
                "nobody watched".to_owned()
            } else {
                self.blocks(tally, room)
            };
            let seconds = u64::try_from(unwatched_ns / 1_000_000_000).unwrap_or(0);
            vec![
                Fact::time(from_ns, self.zone),
                Fact::number(tally.connections),
                Fact::number(tally.failed),
                Fact::number(tally.violations),
                Fact::both(blocks, seconds),
            ]
        });
        Sheet {
            columns,
            rows: rows.collect(),
        }
    }

    fn each(&self) -> impl Iterator<Item = (i128, &Tally)> {
        let Spans {
            from_ns, step_ns, ..
        } = self.spans;
        let mut next = from_ns;
        self.tallies.iter().map(move |tally| {
            let from = next;
            next += step_ns;
            (from, tally)
        })
    }

    fn most(&self) -> u64 {
        let counts = self.tallies.iter().map(|tally| tally.connections);
        counts.max().unwrap_or(0).max(1)
    }

    fn blocks(&self, tally: &Tally, room: usize) -> String {
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        let length = |count: u64| count.saturating_mul(room).div_ceil(self.most());
        let all = length(tally.connections);
        let failed = length(tally.failed).min(all);
        let repeat = |block: &str, times: u64| block.repeat(usize::try_from(times).unwrap_or(0));
        repeat("█", all - failed) + &repeat("░", failed)
    }

    /// How much of the span that begins then was asked for.
    fn asked_ns(&self, from_ns: i128) -> i128 {
        let end = (from_ns + self.spans.step_ns).min(self.until_ns);
        (end - from_ns.max(self.since_ns)).max(0)
    }

    /// How long of that nobody watched.
    fn unwatched_ns(&self, from_ns: i128) -> i128 {
        let first = from_ns.max(self.since_ns);
        let last = first + self.asked_ns(from_ns);
        let gaps = self.watched.gaps.iter().map(|gap| {
            let began = gap.began_ns.unwrap_or(first).max(first);
            let ended = gap.ended_ns.unwrap_or(last).min(last);
            (ended - began).max(0)
        });
        gaps.sum::<i128>().min(last - first)
    }
}

/// The drawing: a bar for each span, its lower part what failed; grey where nobody watched.
pub fn svg(plot: &Plot<'_>) -> String {
    const BAR: usize = 18;
    const HEIGHT: u64 = 240;
    let (left, top) = (60, 20);
    let width = left + BAR * plot.tallies.len() + 20;
    let most = plot.most();
    let height = |count: u64| count.saturating_mul(HEIGHT).div_ceil(most);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"320\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"4\" y=\"{}\">{most}</text>\n<text x=\"4\" y=\"{}\">0</text>\n",
        top + 12,
        HEIGHT + top
    );
    let mut rect = |x: usize, y: u64, height: u64, fill: &str, title: &str| {
        let width = BAR - 2;
        // Writing into a String cannot fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\">\
             <title>{title}</title></rect>"
        );
    };
    for (number, (from_ns, tally)) in plot.each().enumerate() {
        let x = left + BAR * number;
        let time = local(from_ns, plot.zone);
        if plot.unwatched_ns(from_ns) > 0 {
            rect(
                x,
                top,
                HEIGHT,
                "#ddd",
                &format!("{time}: nobody watched all of it"),
            );
        }
        let (all, failed) = (height(tally.connections), height(tally.failed));
        let title = format!(
            "{time}: {} connections, {} failed",
            tally.connections, tally.failed
        );
        rect(x, top + HEIGHT - all, all, "#3070b0", &title);
        rect(x, top + HEIGHT - failed, failed, "#c03020", &title);
    }
    let (first, last) = (
        local(plot.spans.from_ns, plot.zone),
        local(plot.until_ns, plot.zone),
    );
    let _ = write!(
        svg,
        "<text x=\"{left}\" y=\"{}\">{first}</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{last}</text>\n\
         <text x=\"{left}\" y=\"{}\">connections (blue), of them failed (red), nobody watched \
         (grey)</text>\n</svg>\n",
        HEIGHT + top + 18,
        width - 20,
        HEIGHT + top + 18,
        HEIGHT + top + 40
    );
    svg
}
