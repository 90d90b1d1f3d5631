//! The table: one event a line for people, `#` before everything that is not an
//! event, `!` before a violation, so that `grep '^!'` finds them. Rows that repeat
//! faster than a person reads are one line that ends in `x 412`.

mod lead;
mod repeats;

use std::io::Write as _;

use jiff::tz::TimeZone;

use self::{
    lead::{Lead, Leads},
    repeats::{Group, Repeats},
};
use super::{
    Due, Lines, Sink,
    cell::Cell,
    fields::{FIELDS, Field, Shown, broken_rule},
    time::LocalClock,
};
use crate::{
    record::{Header, Item, Judgement, Loss, LossCause, Record, Summary},
    sanitize::Escaped,
};

/// The narrowest terminal the table is laid out for; narrower ones wrap.
const NARROW: usize = 80;
/// From this width on the columns are as wide as names usually are.
pub(super) const NORMAL: usize = 100;
/// From this width on the columns have room for IPv6 and long names.
pub(super) const WIDE: usize = 150;

/// The mark and the space after it.
const MARK_WIDTH: usize = 2;

pub(super) const RED: &str = "\x1b[31m";
pub(super) const YELLOW: &str = "\x1b[33m";
pub(super) const DIM: &str = "\x1b[2m";
pub(super) const RESET: &str = "\x1b[0m";

/// How the table looks.
#[derive(Clone, Debug)]
pub struct Options {
    /// Columns of the terminal; `None` when the output is none, and nothing is
    /// cut.
    pub width: Option<usize>,
    /// Whether to colour lines.
    pub color: bool,
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

/// Writes the table.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    /// How many of them, from the first one on, are the owner's.
    leading: usize,
    leads: Leads,
    width: Option<usize>,
    color: bool,
    clock: LocalClock,
    has_policy: bool,
    /// `None` where every event is a row.
    repeats: Option<Repeats>,
}

impl Table {
    /// A table that looks as `options` say.
    pub fn new(options: Options) -> Self {
        let Options {
            width,
            color,
            aggregate,
            mut fields,
            zone,
        } = options;
        let width = width.map(|width| width.max(NARROW));
        let layout_width = width.unwrap_or(NORMAL);
        if fields.is_empty() {
            fields = default_fields(layout_width);
        }
        let column_width = |field: &'static Field| {
            let [narrow, normal, wide] = field.widths;
            match layout_width {
                ..NORMAL => narrow,
                NORMAL..WIDE => normal,
                WIDE.. => wide,
            }
        };
        // What the first column would follow, were it not the first.
        let mut end = MARK_WIDTH - 1;
        let columns = fields.into_iter().map(|field| {
            end += 1 + column_width(field);
            Column { field, end }
        });
        let columns: Vec<_> = columns.collect();
        let others = columns.split_last().map_or(&[][..], |(_, others)| others);
        let leading = others.iter().take_while(|column| column.field.is_owners);
        Self {
            leading: leading.count(),
            leads: Leads::new(),
            columns,
            width,
            color,
            clock: LocalClock::new(zone),
            has_policy: false,
            repeats: aggregate.then(Repeats::default),
        }
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

    fn comment(&mut self, out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
        self.line(out, b'#', Some(DIM), |_, out| {
            // Writing into a Vec cannot fail.
            let _ = out.write_fmt(text);
        });
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
            ..
        } = self;
        let (leading, others) = columns.split_at(*leading);
        let lead = Lead::of(record, leads, |text| {
            write_cells(leading, *width, clock, (text, MARK_WIDTH), write)
        });
        out.extend_from_slice(&lead.text);
        let others = others.split_last().map_or(&[][..], |(_, others)| others);
        let position = write_cells(others, *width, clock, (out, lead.end), write);
        // The rule is what a violation is about: rather a wrapped line than
        // a rule nobody can read.
        self.rest_of_cells(out, position, !is_violation(record), write);
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
            &mut self.clock,
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
        let mut cell = Cell::new(out, budget, &mut self.clock);
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
        self.comment(
            out,
            format_args!("port-monitor {version} on kernel {kernel}, backend {backend}"),
        );
        if let Some(policy) = policy {
            let policy = Escaped(policy.as_bytes());
            self.comment(out, format_args!("policy {policy}"));
        }
        for blind_spot in blind_spots {
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
        self.line(out, b' ', None, |table, out| {
            table.cells(out, true, |cell, field| {
                cell.put(&field.name.to_ascii_uppercase());
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
        key.extend_from_slice(record.event.action.name().as_bytes());
        if is_violation(record) {
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
            let (undecodable, output) = (summary.undecodable, summary.dropped);
            let rows = || summary.hooks.iter().map(|(_, count)| count);
            let ring: u64 = rows().map(|count| count.reserve_failed).sum();
            let skipped: u64 = rows().map(|count| count.skipped).sum();
            self.comment(
                out,
                format_args!(
                    "lost: ring full {ring}, program skipped {skipped}, undecodable \
                     {undecodable}, output {output}"
                ),
            );
        }
        if !summary.adds_up() {
            self.hooks(out, summary);
        }
        if self.has_policy || summary.violations > 0 {
            let violations = plural(summary.violations, "violation");
            self.comment(out, format_args!("{} {violations}", summary.violations));
        }
        self.remarks(out, summary);
    }

    /// The rows behind an account that does not add up.
    fn hooks(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        self.comment(out, format_args!("the account does not add up, by hook:"));
        for (hook, count) in &summary.hooks {
            self.comment(
                out,
                format_args!(
                    "  {}: hit {}, filtered {}, ring full {}, submitted {}, skipped {}",
                    hook.name(),
                    count.hit,
                    count.filtered,
                    count.reserve_failed,
                    count.submitted,
                    count.skipped
                ),
            );
        }
        let (received, hidden) = (summary.received, summary.hidden);
        self.comment(out, format_args!("  received {received}, hidden {hidden}"));
    }

    /// What is worth a line only when it happened.
    fn remarks(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        let preattach = summary.accept_preattach;
        if preattach > 0 {
            let accepts = plural(preattach, "accept");
            self.comment(
                out,
                format_args!("{preattach} {accepts} seen by the second hook only"),
            );
        }
        let table_full = summary.table_full;
        if table_full > 0 {
            let times = plural(table_full, "time");
            self.comment(
                out,
                format_args!(
                    "kernel table full {table_full} {times}: outcomes, ends or owners are missing"
                ),
            );
        }
        match summary.command_status {
            None => {}
            Some(status @ 129..) => {
                let signal = status - 128;
                self.comment(out, format_args!("command killed by signal {signal}"));
            }
            Some(status) => {
                self.comment(out, format_args!("command exited with status {status}"));
            }
        }
    }
}

impl Sink for Table {
    fn write(&mut self, lines: &mut Lines, item: Item<'_>) {
        let out = &mut lines.bytes;
        match item {
            Item::Header(header) => self.header(out, header),
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
}

/// Writes cells that others follow, from a position on; returns the position after them.
fn write_cells(
    columns: &[Column],
    width: Option<usize>,
    clock: &mut LocalClock,
    (out, mut position): (&mut Vec<u8>, usize),
    write: impl Fn(&mut Cell<'_>, &'static Field),
) -> usize {
    for column in columns {
        let room = column.end.saturating_sub(position);
        let budget = width.map_or(usize::MAX, |_| room);
        let mut cell = Cell::new(out, budget, clock);
        write(&mut cell, column.field);
        position += cell.width();
        let gap = (column.end + 1).saturating_sub(position).max(1);
        push_spaces(out, gap);
        position += gap;
    }
    position
}

fn is_violation(record: &Record) -> bool {
    let judgement = record.judgement.as_ref();
    judgement.is_some_and(Judgement::is_violation)
}

/// The mark and the colour of an event's line.
fn look(record: &Record) -> (u8, Option<&'static str>) {
    if is_violation(record) {
        (b'!', Some(RED))
    } else if record.event.owner.is_none() {
        (b' ', Some(YELLOW))
    } else {
        (b' ', None)
    }
}

/// The columns of a table `width` wide when none are asked for.
fn default_fields(width: usize) -> Vec<&'static Field> {
    FIELDS
        .iter()
        .filter(|field| match field.shown {
            Shown::Always => true,
            Shown::From(from) => width >= from,
            Shown::OnRequest => false,
        })
        .collect()
}

/// A cause of loss as tables spell it.
pub(super) const fn loss_cause(cause: LossCause) -> &'static str {
    match cause {
        LossCause::RingFull => "ring full",
        LossCause::ProgramSkipped => "program skipped",
        LossCause::OutputSlow => "output too slow",
        LossCause::Undecodable => "undecodable",
    }
}

pub(super) fn push_spaces(out: &mut Vec<u8>, count: usize) {
    const SPACES: [u8; 32] = [b' '; 32];
    let end = out.len() + count;
    while out.len() < end {
        // A copy of fixed length is quicker than one of just so many.
        out.extend_from_slice(&SPACES);
    }
    out.truncate(end);
}

/// `noun`, with an s unless there is one of it.
pub(super) fn plural(count: u64, noun: &'static str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{noun}{s}")
}

#[cfg(test)]
mod tests;
