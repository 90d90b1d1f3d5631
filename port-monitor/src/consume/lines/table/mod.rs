//! The table: one event a line for people, `#` before everything that is not an
//! event, `!` before a violation, so that `grep '^!'` finds them. Rows that repeat
//! faster than a person reads are one line that ends in `x 412`.

mod account;
mod lead;
mod repeats;

pub use self::account::account_lines;
use jiff::tz::TimeZone;

use self::{
    lead::{Lead, Leads},
    repeats::{Group, Repeats},
};
use super::{
    cell::{Cell, Endpoints},
    fields::{Field, broken_rule},
};
use crate::{
    base::{sanitize::Escaped, time::LocalClock},
    consume::{
        Due, Lines, Sink,
        lines::{
            layout::{blind, default_fields, shrink, wrapped},
            width::{MARK_WIDTH, NARROWEST, NORMAL},
        },
    },
    events::{
        record::{Header, Item, Loss, LossCause, Record, Ruleset, Summary},
        wire::words::{ConnectionAction, Spelled as _},
    },
};

pub(crate) const RED: &str = "\x1b[31m";
pub(crate) const YELLOW: &str = "\x1b[33m";
pub(crate) const DIM: &str = "\x1b[2m";
pub(crate) const RESET: &str = "\x1b[0m";

/// How the table looks.
#[derive(Clone, Debug)]
pub struct Options {
    /// Columns of the terminal; `None` when the output is none, and nothing is
    /// cut.
    pub width: Option<usize>,
    /// Whether to colour lines.
    pub color: bool,
    /// Whether the head tells all that cannot be seen.
    pub verbose: bool,
    /// Whether rows that repeat become one line when there are many.
    pub aggregate: bool,
    /// The fields to show; empty for the default ones.
    pub fields: Vec<&'static Field>,
    /// The time zone of the times.
    pub zone: TimeZone,
}

/// A column of this table.
#[derive(Debug)]
struct Column {
    field: &'static Field,
    /// The position after its last one; the next column starts one further on.
    end: usize,
}

/// The names of the columns, at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heading {
    Shown,
    LeftOut,
}

/// Writes the table.
#[derive(Debug)]
pub struct Table {
    /// What was asked for; empty for what has room.
    fields: Vec<&'static Field>,
    columns: Vec<Column>,
    /// How many of them, from the first one on, are the owner's.
    leading: usize,
    leads: Leads,
    width: Option<usize>,
    color: bool,
    verbose: bool,
    clock: LocalClock,
    endpoints: Endpoints,
    has_policy: bool,
    heading: Heading,
    /// `None` where every event is a row.
    repeats: Option<Repeats>,
}

impl Table {
    /// A table that looks as `options` say.
    pub fn new(options: Options) -> Self {
        let Options {
            width,
            color,
            verbose,
            aggregate,
            fields,
            zone,
        } = options;
        let mut table = Self {
            fields,
            columns: Vec::new(),
            leading: 0,
            leads: Leads::new(),
            width: None,
            color,
            verbose,
            clock: LocalClock::new(zone),
            endpoints: Endpoints::new(),
            has_policy: false,
            heading: Heading::Shown,
            repeats: aggregate.then(Repeats::default),
        };
        table.lay_out(width);
        table
    }

    /// Leaves the names of the columns out, where few rows come far apart.
    #[must_use]
    pub fn without_heading(self) -> Self {
        Self {
            heading: Heading::LeftOut,
            ..self
        }
    }

    /// Gives every column its place on a terminal of so many columns, or on none.
    fn lay_out(&mut self, width: Option<usize>) {
        self.width = width.map(|width| width.max(NARROWEST));
        let layout_width = self.width.unwrap_or(NORMAL);
        let fields = if self.fields.is_empty() {
            default_fields(layout_width)
        } else {
            self.fields.clone()
        };
        let mut widths: Vec<usize> = fields
            .iter()
            .map(|field| field.width(layout_width))
            .collect();
        if let Some(width) = self.width {
            shrink(&mut widths, width.saturating_sub(MARK_WIDTH));
        }
        // What the first column would follow, were it not the first.
        let mut end = MARK_WIDTH - 1;
        let columns = fields.into_iter().zip(widths).map(|(field, width)| {
            end += 1 + width;
            Column { field, end }
        });
        self.columns = columns.collect();
        let others = self
            .columns
            .split_last()
            .map_or(&[][..], |(_, others)| others);
        let leading = others.iter().take_while(|column| column.field.is_owners);
        self.leading = leading.count();
        self.leads = Leads::new();
    }

    /// Writes one line: the mark, then `body` in `style`. The colour starts after
    /// the mark, so that `grep '^!'` works on coloured output too.
    fn line(
        &mut self,
        out: &mut Vec<u8>,
        mark: u8,
        style: Option<&str>,
        body: impl FnOnce(&mut Self, &mut Vec<u8>),
    ) {
        let style = style.filter(|_| self.color);
        out.extend_from_slice(&[mark, b' ']);
        out.extend_from_slice(style.unwrap_or_default().as_bytes());
        body(self, out);
        if style.is_some() {
            out.extend_from_slice(RESET.as_bytes());
        }
        out.push(b'\n');
    }

    /// Writes what is not an event: on a terminal in as many lines as it takes.
    pub(crate) fn comment(&mut self, out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
        let text = text.to_string();
        let room = self.width.map_or(usize::MAX, |width| width - MARK_WIDTH);
        for part in wrapped(&text, room) {
            self.line(out, b'#', Some(DIM), |_, out| {
                out.extend_from_slice(part.as_bytes());
            });
        }
    }

    /// Writes a row of cells. A cell that is too long takes from the next one's
    /// room; the columns after that line up again.
    fn cells(
        &mut self,
        out: &mut Vec<u8>,
        cut_last: bool,
        write: impl Fn(&mut Cell<'_>, &'static Field),
    ) {
        let position = self.cells_but_last(out, &write);
        self.rest_of_cells(out, position, cut_last, write);
    }

    /// The cells of an event's row.
    fn event_cells(&mut self, out: &mut Vec<u8>, record: &Record) {
        let write = |cell: &mut Cell<'_>, field: &'static Field| (field.extract)(cell, record);
        let Self {
            columns,
            leading,
            leads,
            width,
            clock,
            endpoints,
            ..
        } = self;
        let (leading, others) = columns.split_at(*leading);
        let lead = Lead::of(record, leads, |text| {
            let memory = (&mut *clock, &mut *endpoints);
            write_cells(leading, *width, memory, (text, MARK_WIDTH), write)
        });
        out.extend_from_slice(&lead.text);
        let others = others.split_last().map_or(&[][..], |(_, others)| others);
        let position = write_cells(others, *width, (clock, endpoints), (out, lead.end), write);
        // The rule is what a violation is about: rather a wrapped line than
        // a rule nobody can read.
        self.rest_of_cells(out, position, !record.is_violation(), write);
    }

    /// Writes the last cell after the others, which end at `position`.
    fn rest_of_cells(
        &mut self,
        out: &mut Vec<u8>,
        position: usize,
        cut: bool,
        write: impl Fn(&mut Cell<'_>, &'static Field),
    ) {
        let limit = self.width.filter(|_| cut);
        let budget = limit.map_or(usize::MAX, |limit| limit.saturating_sub(position));
        self.last_cell(out, budget, write);
    }

    /// Writes all cells but the last; returns the position after them.
    fn cells_but_last(
        &mut self,
        out: &mut Vec<u8>,
        write: impl Fn(&mut Cell<'_>, &'static Field),
    ) -> usize {
        let others = self.columns.split_last();
        let others = others.map_or(&[][..], |(_, others)| others);
        write_cells(
            others,
            self.width,
            (&mut self.clock, &mut self.endpoints),
            (out, MARK_WIDTH),
            write,
        )
    }

    /// Writes the last cell; returns how wide it is.
    fn last_cell(
        &mut self,
        out: &mut Vec<u8>,
        budget: usize,
        write: impl Fn(&mut Cell<'_>, &'static Field),
    ) -> usize {
        let Some(last) = self.columns.last() else {
            return 0;
        };
        let mut cell = Cell::new(out, budget, &mut self.clock).remembering(&mut self.endpoints);
        write(&mut cell, last.field);
        cell.cut_to_budget();
        cell.width()
    }

    fn header(&mut self, out: &mut Vec<u8>, header: &Header) {
        let Header {
            version,
            kernel,
            backend,
            blind_spots,
            unproven,
            waiting,
            policy,
            ..
        } = header;
        self.has_policy = policy.is_some();
        let kernel = Escaped(kernel.as_bytes());
        let (count, told) = blind(blind_spots, self.verbose);
        self.comment(
            out,
            format_args!("port-monitor {version} on kernel {kernel}, backend {backend}{count}"),
        );
        if let Some(policy) = policy {
            let policy = Escaped(policy.as_bytes());
            self.comment(out, format_args!("policy {policy}"));
        }
        for blind_spot in told {
            let blind_spot = Escaped(blind_spot.as_bytes());
            self.comment(out, format_args!("cannot see: {blind_spot}"));
        }
        for sentence in unproven {
            let sentence = Escaped(sentence.as_bytes());
            self.comment(out, format_args!("not proven: {sentence}"));
        }
        for group in waiting {
            let group = Escaped(group.as_bytes());
            self.comment(out, format_args!("waiting for {group}"));
        }
        if self.heading == Heading::Shown {
            self.heading(out);
        }
    }

    /// Writes a row of `record` whose cells `write` writes.
    pub(crate) fn row_of(
        &mut self,
        out: &mut Vec<u8>,
        record: &Record,
        write: impl Fn(&mut Cell<'_>, &'static Field),
    ) {
        let (mark, style) = look(record);
        self.line(out, mark, style, |table, out| {
            table.cells(out, !record.is_violation(), write);
        });
    }

    /// Writes the names of the columns.
    pub(crate) fn heading(&mut self, out: &mut Vec<u8>) {
        self.line(out, b' ', None, |table, out| {
            table.cells(out, true, |cell, field| {
                cell.name(field.name.to_ascii_uppercase().as_bytes());
            });
        });
    }

    /// Shows an event at once, or holds it back.
    fn event(&mut self, lines: &mut Lines, record: &Record) {
        let Some(mut repeats) = self.repeats.take() else {
            self.row(lines, record);
            return;
        };
        if repeats.begins_second(record.wall_ns) {
            self.groups(lines, &mut repeats);
        }
        if repeats.is_readable() {
            self.row(lines, record);
        } else if !repeats.add_same(record) {
            let key = self.key(record);
            if repeats.is_full() && !repeats.has(&key) {
                self.groups(lines, &mut repeats);
            }
            repeats.add(record, key);
        }
        self.repeats = Some(repeats);
    }

    fn row(&mut self, lines: &mut Lines, record: &Record) {
        let (mark, style) = look(record);
        self.line(&mut lines.bytes, mark, style, |table, out| {
            table.event_cells(out, record);
        });
        lines.count_event();
    }

    /// What rows that repeat each other have in common: the text of their
    /// columns, and whatever must not be mixed in one line in any columns.
    fn key(&mut self, record: &Record) -> Vec<u8> {
        const END: u8 = 0;
        let close = record.event.action.close();
        let is_timed = close.is_some_and(|close| close.duration_ns.is_some());
        let (mark, _) = look(record);
        let mut key = vec![mark, u8::from(is_timed)];
        key.push(u8::from(record.event.owner.is_none()));
        key.extend_from_slice(
            ConnectionAction::from(record.event.action)
                .word()
                .as_bytes(),
        );
        if record.is_violation() {
            let mut cell = Cell::new(&mut key, usize::MAX, &mut self.clock);
            broken_rule(&mut cell, record);
        }
        for column in &self.columns {
            key.push(END);
            let mut cell = Cell::new(&mut key, usize::MAX, &mut self.clock);
            (column.field.common)(&mut cell, record);
        }
        key
    }

    /// Writes what is held back.
    fn groups(&mut self, lines: &mut Lines, repeats: &mut Repeats) {
        for group in repeats.groups() {
            let Group { record, count, .. } = group;
            if count == 1 {
                self.row(lines, &record);
                continue;
            }
            let (mark, style) = look(&record);
            self.line(&mut lines.bytes, mark, style, |table, out| {
                table.merged_cells(out, &record, count);
            });
            lines.count_events(count);
        }
    }

    /// Writes the cells of a line for `count` rows, and their count. Where there
    /// is little room, the last cell begins earlier; where there is less, it has
    /// words only, or is cut if there are none.
    fn merged_cells(&mut self, out: &mut Vec<u8>, record: &Record, count: u64) {
        let count = format!("  x {count}");
        let position = self.cells_but_last(out, |cell, field| (field.merged)(cell, record));
        let start = out.len();
        let gap = out.iter().rev().take_while(|&&byte| byte == b' ').count();
        let spare = gap.saturating_sub(1);
        let room = self.width.map_or(usize::MAX - spare, |width| {
            width.saturating_sub(position + count.len())
        });
        let mut width = self.last_cell(out, usize::MAX, |cell, field| {
            (field.merged)(cell, record);
        });
        if width > room + spare {
            out.truncate(start);
            width = self.last_cell(out, usize::MAX, |cell, field| {
                (field.common)(cell, record);
            });
        }
        if width == 0 {
            width = self.last_cell(out, room + spare, |cell, field| {
                (field.merged)(cell, record);
            });
        }
        let earlier = spare.min(width.saturating_sub(room));
        out.drain(start - earlier..start);
        out.extend_from_slice(count.as_bytes());
    }

    fn loss(&mut self, out: &mut Vec<u8>, loss: &Loss) {
        let Loss {
            wall_ns,
            lost,
            total,
            cause,
        } = *loss;
        let time = self.clock.time_of_day(wall_ns).to_owned();
        let (events, cause) = (plural(lost, "event"), loss_cause(cause));
        self.comment(
            out,
            format_args!("{time}  {lost} {events} lost ({cause}), {total} so far"),
        );
    }

    fn policy(&mut self, out: &mut Vec<u8>, header: &Header) {
        if let (Some(file), Some(loaded)) = (&header.policy, &header.policy_loaded) {
            let time = self.clock.time_of_day(loaded.wall_ns).to_owned();
            let Ruleset { file, version } = Ruleset::new(file, &loaded.digest);
            let file = Escaped(file.as_bytes());
            self.comment(
                out,
                format_args!("{time}  policy {file} from here on, text {version}"),
            );
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        let (seen, shown) = (summary.seen(), summary.shown);
        let (filtered, lost) = (summary.filtered(), summary.lost());
        let seconds = summary.duration.as_secs_f64();
        self.comment(
            out,
            format_args!(
                "seen {seen} = shown {shown} + filtered {filtered} + lost {lost} in {seconds:.1}s"
            ),
        );
        if lost > 0 {
            let (undecodable, output) = (summary.undecodable, summary.lost_at_output);
            let rows = || summary.hooks.iter().map(|(_, count)| count);
            let ring: u64 = rows().map(|count| count.reserve_failed).sum();
            let skipped: u64 = rows().map(|count| count.skipped).sum();
            self.comment(
                out,
                format_args!(
                    "lost: ring full {ring}, program skipped {skipped}, undecodable \
                     {undecodable}, output {output}, owner late {}",
                    summary.unowned
                ),
            );
        }
        if !summary.adds_up() {
            self.hooks(out, summary);
        }
        self.consumers(out, summary);
        if self.has_policy || summary.violations > 0 {
            let violations = plural(summary.violations, "violation");
            self.comment(out, format_args!("{} {violations}", summary.violations));
        }
        self.remarks(out, summary);
    }
}

impl Sink for Table {
    fn write(&mut self, lines: &mut Lines, item: Item<'_>) {
        let out = &mut lines.bytes;
        match item {
            Item::Header(header) => self.header(out, header),
            Item::Policy(header) => self.policy(out, header),
            Item::Event(record) => self.event(lines, record),
            Item::Loss(loss) => self.loss(out, loss),
            Item::Summary(summary) => self.summary(out, summary),
        }
    }

    fn release(&mut self, lines: &mut Lines, due: Due) {
        if let Some(mut repeats) = self.repeats.take() {
            if repeats.are_due(due) {
                self.groups(lines, &mut repeats);
            }
            self.repeats = Some(repeats);
        }
    }

    fn resize(&mut self, lines: &mut Lines, width: usize) {
        let ends = |table: &Self| table.columns.iter().map(|column| column.end).collect();
        let before: Vec<_> = ends(self);
        self.lay_out(Some(width));
        let after: Vec<_> = ends(self);
        if before != after {
            self.heading(&mut lines.bytes);
        }
    }
}

/// Writes cells that others follow, from a position on; returns the position after them.
fn write_cells(
    columns: &[Column],
    width: Option<usize>,
    (clock, endpoints): (&mut LocalClock, &mut Endpoints),
    (out, mut position): (&mut Vec<u8>, usize),
    write: impl Fn(&mut Cell<'_>, &'static Field),
) -> usize {
    for column in columns {
        let room = column.end.saturating_sub(position);
        let budget = width.map_or(usize::MAX, |_| room);
        let mut cell = Cell::new(out, budget, clock).remembering(endpoints);
        write(&mut cell, column.field);
        position += cell.width();
        let gap = (column.end + 1).saturating_sub(position).max(1);
        push_spaces(out, gap);
        position += gap;
    }
    position
}

/// The mark and the colour of an event's line.
fn look(record: &Record) -> (u8, Option<&'static str>) {
    if record.is_violation() {
        (b'!', Some(RED))
    } else if record.event.owner.is_none() {
        (b' ', Some(YELLOW))
    } else {
        (b' ', None)
    }
}

/// A cause of loss as tables spell it.
pub(crate) const fn loss_cause(cause: LossCause) -> &'static str {
    match cause {
        LossCause::RingFull => "ring full",
        LossCause::ProgramSkipped => "program skipped",
        LossCause::OutputSlow => "output too slow",
        LossCause::Undecodable => "undecodable",
        LossCause::OwnerLate => "owner late",
    }
}

pub(crate) fn push_spaces(out: &mut Vec<u8>, count: usize) {
    const SPACES: [u8; 32] = [b' '; 32];
    let end = out.len() + count;
    while out.len() < end {
        // A copy of fixed length is quicker than one of just so many.
        out.extend_from_slice(&SPACES);
    }
    out.truncate(end);
}

/// `noun`, with an s unless there is one of it.
pub(crate) fn plural(count: u64, noun: &'static str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{noun}{s}")
}

#[cfg(test)]
mod tests;
