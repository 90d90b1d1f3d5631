//! An audit as a table: a listener a line, `!` before one that breaks the policy,
//! `#` before everything that is none.

use std::{fmt, io::Write as _, time::Duration};

use jiff::tz::TimeZone;

use super::{Audit, Listed, has_known_uses};
use crate::{
    base::{sanitize::Escaped, time::LocalClock},
    consume::{
        lines::{
            cell::Cell,
            fields,
            layout::{blind, shrink, wrapped},
            table::{DIM, RED, RESET, YELLOW, loss_cause, plural, push_spaces},
            width::{MARK_WIDTH, NARROWEST, NORMAL},
        },
        listeners::uses::{AuditedListener, Scope},
    },
    events::record::{Header, Loss},
};

/// A column: its heading, its width on a terminal of 80 columns and on a wider
/// one, and what it shows.
struct Column {
    heading: &'static str,
    widths: [usize; 2],
    write: fn(&mut Cell<'_>, &Audit<'_>, &AuditedListener),
}

const fn column(
    heading: &'static str,
    widths: [usize; 2],
    write: fn(&mut Cell<'_>, &Audit<'_>, &AuditedListener),
) -> Column {
    Column {
        heading,
        widths,
        write,
    }
}

/// What every table begins with.
const LISTENER: [Column; 5] = [
    column("SCOPE", [8, 8], |cell, _, listener| {
        cell.put(listener.scope().name());
    }),
    column("LOCAL", [16, 24], |cell, _, listener| {
        fields::local(cell, &listener.record);
    }),
    column("PID", [6, 7], |cell, _, listener| {
        fields::pid(cell, &listener.record);
    }),
    column("PROCESS", [8, 12], |cell, _, listener| {
        fields::process(cell, &listener.record);
    }),
    column("OWNER", [9, 16], |cell, _, listener| owner(cell, listener)),
];
const USES: [Column; 3] = [
    column("ACCEPTS", [7, 7], accepts),
    column("PEERS", [5, 5], peers),
    column("LAST", [4, 5], last),
];
const UNUSED: [Column; 1] = [column("OPEN FOR", [8, 8], open_for)];
const VERDICT: [Column; 1] = [column("VERDICT", [7, 7], verdict)];
/// What narrow terminals do without, first to last.
const DISPENSABLE: [&str; 6] = ["OWNER", "PEERS", "LAST", "PID", "ACCEPTS", "PROCESS"];
/// What the address can spare before that.
const SPARE: usize = 4;

/// Writes the table.
#[derive(Debug)]
pub(super) struct TableForm {
    pub(super) width: Option<usize>,
    pub(super) verbose: bool,
    color: bool,
    clock: LocalClock,
}

impl TableForm {
    pub(super) const fn new(width: Option<usize>, color: bool, zone: TimeZone) -> Self {
        Self {
            width,
            verbose: false,
            color,
            clock: LocalClock::new(zone),
        }
    }

    /// What is audited, and how.
    pub(super) fn header(&mut self, out: &mut Vec<u8>, header: &Header, watch: Option<Duration>) {
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
        if let Some(watch) = watch {
            let span = Span(watch);
            self.comment(out, format_args!("watching for {span}, or until Ctrl-C"));
        }
    }

    /// A gap, when it is noticed.
    pub(super) fn loss(&mut self, out: &mut Vec<u8>, loss: &Loss) {
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

    /// The listeners, and what is to be said of them.
    pub(super) fn audit(&mut self, out: &mut Vec<u8>, audit: &Audit<'_>) {
        let middle = match audit.listing.listed {
            Listed::Used => &USES[..],
            Listed::Unused => &UNUSED[..],
        };
        let columns = self.lay_out(middle);
        self.row(out, (b' ', None), &columns, |cell, column| {
            cell.name(column.heading.as_bytes());
        });
        let mut netns = audit
            .listeners
            .iter()
            .map(|listener| listener.record.event.netns_ino);
        let first = netns.next();
        let is_several = netns.any(|other| Some(other) != first);
        let mut last = None;
        for listener in &audit.listeners {
            let netns = listener.record.event.netns_ino;
            if is_several && last.replace(netns) != Some(netns) {
                self.comment(out, format_args!("network namespace {netns}"));
            }
            let look = if listener.is_violation() {
                (b'!', Some(RED))
            } else if listener.record.event.owner.is_none() {
                (b' ', Some(YELLOW))
            } else {
                (b' ', None)
            };
            self.row(out, look, &columns, |cell, column| {
                (column.write)(cell, audit, listener);
            });
        }
        self.totals(out, audit);
        self.remarks(out, audit);
    }

    fn totals(&mut self, out: &mut Vec<u8>, audit: &Audit<'_>) {
        let totals = &audit.totals;
        let open = totals.open.iter().sum();
        let listeners = plural(open, "listener");
        let [any, public, private, loopback] = totals.open;
        let names = Scope::ALL.map(Scope::name);
        let [any_name, public_name, private_name, loopback_name] = names;
        self.comment(
            out,
            format_args!(
                "{open} {listeners}: {any} {any_name}, {public} {public_name}, {private} \
                 {private_name}, {loopback} {loopback_name}"
            ),
        );
        if audit.listing.listed == Listed::Unused {
            let span = Span(audit.summary.duration);
            let listed = audit.listeners.len();
            self.comment(out, format_args!("{listed} unused in {span}"));
        }
        if totals.closed > 0 {
            let (closed, listeners) = (totals.closed, plural(totals.closed, "listener"));
            let hint = if audit.listing.with_closed {
                ""
            } else {
                " (--all lists them)"
            };
            self.comment(
                out,
                format_args!("{closed} {listeners} closed meanwhile{hint}"),
            );
        }
        if audit.header.policy.is_some() {
            let count = audit.summary.violations;
            let violations = plural(count, "violation");
            self.comment(out, format_args!("{count} {violations}"));
        }
    }

    /// What makes the table less than the whole truth.
    fn remarks(&mut self, out: &mut Vec<u8>, audit: &Audit<'_>) {
        let (totals, summary) = (&audit.totals, &audit.summary);
        if audit
            .listeners
            .iter()
            .any(|listener| listener.uses.is_shared)
        {
            self.comment(
                out,
                format_args!("~ counts the accepts of all sockets at that address together"),
            );
        }
        let mut remark = |count: u64, noun, text: &str| {
            if count > 0 {
                let noun = plural(count, noun);
                self.comment(out, format_args!("{count} {noun}{text}"));
            }
        };
        let unknown = if audit.listing.watch.is_some() {
            totals.unknown_use
        } else {
            0
        };
        remark(
            unknown,
            "listener",
            " without a known port: whether they were used is not known",
        );
        remark(
            totals.strays,
            "accept",
            " at sockets that are not known: counted at no listener",
        );
        remark(
            totals.forgotten,
            "closed listener",
            " forgotten: there were too many",
        );
        remark(
            summary.lost(),
            "event",
            " lost: accept counts are lower bounds, and listeners may be missing",
        );
        remark(
            summary.table_full(),
            "time",
            " a kernel table was full: owners or ends are missing",
        );
        if !summary.adds_up() {
            self.comment(
                out,
                format_args!("the account does not add up: see `port-monitor -o json audit`"),
            );
        }
    }

    fn comment(&mut self, out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
        let style = if self.color { DIM } else { "" };
        let reset = if self.color { RESET } else { "" };
        let text = text.to_string();
        let room = self
            .terminal()
            .map_or(usize::MAX, |width| width - MARK_WIDTH);
        for part in wrapped(&text, room) {
            // Writing into a Vec cannot fail.
            let _ = writeln!(out, "# {style}{part}{reset}");
        }
    }

    /// Columns of the terminal, if it is one.
    fn terminal(&self) -> Option<usize> {
        self.width.map(|width| width.max(NARROWEST))
    }

    /// The columns that have room, and how wide they are.
    fn lay_out(&self, middle: &'static [Column]) -> Vec<(&'static Column, usize)> {
        let columns = LISTENER.iter().chain(middle).chain(&VERDICT);
        let is_wide = self.width.is_none_or(|width| width >= NORMAL);
        let mut columns: Vec<_> = columns
            .map(|column| (column, column.widths[usize::from(is_wide)]))
            .collect();
        let Some(room) = self.terminal().map(|width| width - MARK_WIDTH) else {
            return columns;
        };
        for heading in DISPENSABLE {
            let total: usize = columns.iter().map(|(_, width)| width + 1).sum();
            if total > room + 1 + SPARE {
                columns.retain(|(column, _)| column.heading != heading);
            }
        }
        let mut widths: Vec<_> = columns.iter().map(|(_, width)| *width).collect();
        shrink(&mut widths, room);
        for ((_, width), shrunk) in columns.iter_mut().zip(widths) {
            *width = shrunk;
        }
        columns
    }

    /// Writes a line of cells after its mark. A cell that is too long takes from
    /// the next one's room; the columns after that line up again.
    fn row(
        &mut self,
        out: &mut Vec<u8>,
        (mark, style): (u8, Option<&str>),
        columns: &[(&Column, usize)],
        write: impl Fn(&mut Cell<'_>, &Column),
    ) {
        let style = style.filter(|_| self.color);
        out.extend_from_slice(&[mark, b' ']);
        out.extend_from_slice(style.unwrap_or_default().as_bytes());
        let (mut position, mut end) = (MARK_WIDTH, MARK_WIDTH - 1);
        let mut columns = columns.iter().peekable();
        while let Some((column, width)) = columns.next() {
            end += 1 + width;
            // The rule of a violation comes last, and is never cut.
            let is_cut = self.width.is_some() && columns.peek().is_some();
            let budget = if is_cut {
                end.saturating_sub(position)
            } else {
                usize::MAX
            };
            let mut cell = Cell::new(out, budget, &mut self.clock);
            write(&mut cell, column);
            position += cell.width();
            if columns.peek().is_some() {
                let gap = (end + 1).saturating_sub(position).max(1);
                push_spaces(out, gap);
                position += gap;
            }
        }
        if style.is_some() {
            out.extend_from_slice(RESET.as_bytes());
        }
        out.push(b'\n');
    }
}

/// The unit or container; else the user.
fn owner(cell: &mut Cell<'_>, listener: &AuditedListener) {
    let process = &listener.record.process;
    if process.unit.is_some() || process.container.is_some() {
        fields::unit(cell, &listener.record);
    } else {
        fields::user(cell, &listener.record);
    }
}

/// Writes a fact of the use; `-` where nobody watched, `?` where it cannot be
/// told.
fn of_uses(
    cell: &mut Cell<'_>,
    audit: &Audit<'_>,
    listener: &AuditedListener,
    write: impl FnOnce(&mut Cell<'_>),
) {
    if audit.listing.watch.is_none() {
        cell.none();
    } else if has_known_uses(listener) {
        write(cell);
    } else {
        cell.unknown();
    }
}

fn accepts(cell: &mut Cell<'_>, audit: &Audit<'_>, listener: &AuditedListener) {
    of_uses(cell, audit, listener, |cell| {
        if listener.uses.is_shared {
            cell.put("~");
        }
        cell.number(listener.uses.accepts);
    });
}

fn peers(cell: &mut Cell<'_>, audit: &Audit<'_>, listener: &AuditedListener) {
    of_uses(cell, audit, listener, |cell| {
        cell.number(listener.uses.peers.count());
        if listener.uses.peers.is_capped() {
            cell.put("+");
        }
    });
}

/// How long before the end the last one came.
fn last(cell: &mut Cell<'_>, audit: &Audit<'_>, listener: &AuditedListener) {
    of_uses(cell, audit, listener, |cell| match listener.uses.last_ns {
        Some(last_ns) => {
            let ns = audit.summary.wall_ns - last_ns;
            let age = Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
            cell.display(&Span(age));
        }
        None => cell.none(),
    });
}

/// How long it was open, as far as that is known.
fn open_for(cell: &mut Cell<'_>, audit: &Audit<'_>, listener: &AuditedListener) {
    cell.display(&Span(audit.watched(listener)));
    if listener.is_older() {
        cell.put("+");
    }
}

fn verdict(cell: &mut Cell<'_>, _: &Audit<'_>, listener: &AuditedListener) {
    if listener.is_violation() {
        fields::rule(cell, &listener.record);
    } else {
        fields::verdict(cell, &listener.record);
    }
    if listener.closed_ns().is_some() {
        cell.put("  closed");
    }
}

/// A span of time in the largest unit that keeps it exact to the half.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{seconds}s"),
            120..7_200 => write!(f, "{}m", seconds / 60),
            7_200..172_800 => write!(f, "{}h", seconds / 3_600),
            _ => write!(f, "{}d", seconds / 86_400),
        }
    }
}
