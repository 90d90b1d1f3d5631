//! What is on the screen. Pure: what is known and what is looked at, into a buffer.

mod bar;
mod connections;
mod detail;
mod empty;
pub mod export;
mod foot;
mod groups;
mod health;
mod sheet;
mod spark;

use std::collections::HashSet;

use jiff::tz::TimeZone;
use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    widgets::{Block, Clear, Widget as _},
};

use self::{sheet::Sheet, spark::spark};
use super::{
    keys::KEYS,
    model::{Group, GroupedBy, Mark, Model, SECONDS, Second, joined},
    ui::{List, Overlay, Ports, Remotes, RowId, Ui, View},
};
use crate::{
    base::{sanitize::Escaped, time::LocalClock},
    consume::{
        join::Connection,
        lines::{cell::Cell, layout::wrapped},
    },
};

/// What a screen can show.
#[derive(Debug)]
pub struct Look {
    /// It has colours, and they are wanted.
    pub has_color: bool,
    clock: LocalClock,
}

impl Look {
    /// With colours or without, times in `zone`.
    pub const fn new(has_color: bool, zone: TimeZone) -> Self {
        Self {
            has_color,
            clock: LocalClock::new(zone),
        }
    }
}

/// A screen that is drawn.
struct Screen<'a> {
    has_color: bool,
    /// Ports have no names.
    has_numbers: bool,
    clock: &'a mut LocalClock,
}

impl Screen<'_> {
    /// The lines that frame a list.
    fn bar(&self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.has_color {
            style.fg(Color::Cyan)
        } else {
            style.add_modifier(Modifier::UNDERLINED)
        }
    }

    fn alarm(&self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.has_color {
            style.fg(Color::Red)
        } else {
            style
        }
    }
}

/// Draws the screen. `since` is how many events have come since what is shown was frozen.
pub fn draw(frame: &mut Frame<'_>, ui: &mut Ui, model: &Model, look: &mut Look, since: u64) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let mut screen = Screen {
        has_color: look.has_color,
        has_numbers: ui.ports == Ports::Numbers,
        clock: &mut look.clock,
    };
    let [title, strip, tabs, body, foot] = parts(area);
    let body = bar::draw(&mut screen, body, buffer, ui);
    write_title(&mut screen, title, buffer, ui, model, since);
    if strip.height > 0 {
        let style = Style::new();
        line(
            buffer,
            strip,
            0,
            &strip_text(model, strip.width.into()),
            style,
        );
    }
    write_tabs(&screen, tabs, buffer, ui);
    draw_view(&mut screen, body, buffer, ui, model);
    foot::write(&screen, foot, buffer, ui);
    if let Some(overlay) = ui.overlay.clone() {
        let (title, lines) = match overlay {
            Overlay::Help => {
                let room = usize::from(area.width.saturating_sub(FRAME));
                ("Keys".to_owned(), help(room))
            }
            Overlay::Text(title, lines) => (title, lines),
            Overlay::Rule(rule) => ("A rule, not applied".to_owned(), rule_lines(&rule.toml)),
            Overlay::Detail(id) => match model.connection(id) {
                Some(row) => detail::lines(row, model, screen.clock),
                None => (
                    "Gone".to_owned(),
                    vec!["Nothing is known of this connection any more.".to_owned()],
                ),
            },
        };
        lay_over(&screen, area, buffer, ui, (&title, &lines));
    }
}

/// Title, strip, tabs, body and foot. Where there is little room, the strip goes first.
fn parts(area: Rect) -> [Rect; 5] {
    let at = |y: u16, height: u16| {
        let y = y.min(area.height);
        let height = height.min(area.height - y);
        Rect {
            y: area.y + y,
            height,
            ..area
        }
    };
    let strip = u16::from(area.height >= 12);
    let body = area.height.saturating_sub(3 + strip);
    [
        at(0, 1),
        at(1, strip),
        at(1 + strip, 1),
        at(2 + strip, body),
        at(2 + strip + body, 1),
    ]
}

/// Writes a line of text at a row of the area.
fn line(buffer: &mut Buffer, area: Rect, row: u16, text: &str, style: Style) {
    if row < area.height {
        buffer.set_stringn(area.x, area.y + row, text, area.width.into(), style);
    }
}

fn write_title(
    screen: &mut Screen<'_>,
    area: Rect,
    buffer: &mut Buffer,
    ui: &Ui,
    model: &Model,
    since: u64,
) {
    let mut text = "port-monitor top".to_owned();
    if let Some(header) = &model.header {
        let host = Escaped(header.host.as_bytes());
        text = format!("{text}  {host}  {}", header.backend);
    }
    // Beside the bar of a recording there is no other time.
    if ui.bar.is_none() {
        text = format!("{text}  {}", screen.clock.time_of_day(model.now_ns));
    }
    if model.is_over() {
        text.push_str("  ENDED");
    }
    if let Some(recorded) = &ui.recorded {
        let state = if recorded.error.is_some() {
            "RECORDING FAILED"
        } else {
            "RECORDING"
        };
        text = format!("{text}  {state} {}", recorded.taken);
    }
    if ui.is_paused {
        text = format!("{text}  FROZEN, {since} events since");
    }
    line(buffer, area, 0, &text, screen.bar());
    let lost = health::lost(model);
    if lost > 0 {
        let lost = format!(" {lost} lost (7) ");
        let width = u16::try_from(lost.len())
            .unwrap_or(u16::MAX)
            .min(area.width);
        let right = Rect {
            x: area.right() - width,
            width,
            ..area
        };
        line(
            buffer,
            right,
            0,
            &lost,
            screen.alarm().add_modifier(Modifier::REVERSED),
        );
    }
}

/// What came in the last seconds, in as many parts as there is room for.
fn strip_text(model: &Model, room: usize) -> String {
    /// A part, and what of a second it tells.
    type Part = (&'static str, bool, fn(&Second) -> u64);
    const PARTS: [Part; 5] = [
        ("new", false, |second| second.begun),
        ("failed", false, |second| second.failed),
        ("in", true, |second| second.received),
        ("out", true, |second| second.sent),
        ("viol", false, |second| second.violations),
    ];
    let parts = match room {
        ..40 => 2,
        40..72 => 3,
        _ => PARTS.len(),
    };
    let share = room / parts;
    let mut text = String::new();
    for (name, are_bytes, of) in PARTS.into_iter().take(parts) {
        let figures: Vec<u64> = model.strip.last(SECONDS).map(of).collect();
        let mut number = Vec::new();
        // No time is written.
        let mut clock = LocalClock::new(TimeZone::UTC);
        let mut cell = Cell::new(&mut number, usize::MAX, &mut clock);
        let now = of(&model.strip.rate());
        if are_bytes {
            cell.size(now);
        } else {
            cell.number(now);
        }
        let label = format!("{name} {}/s ", String::from_utf8_lossy(&number));
        let bars = share.saturating_sub(label.len() + 1).min(30);
        text = format!("{text}{label}{} ", spark(&figures, bars));
    }
    text
}

fn write_tabs(screen: &Screen<'_>, area: Rect, buffer: &mut Buffer, ui: &Ui) {
    // All names where there is room for them, else the one that is chosen.
    let all: usize = View::ALL.iter().map(|view| view.name().len() + 3).sum();
    let is_wide = usize::from(area.width) >= all;
    let mut x = area.x;
    if area.height == 0 {
        return;
    }
    for view in View::ALL {
        let number = view.number() + 1;
        let is_chosen = view == ui.view;
        let text = if is_wide || is_chosen {
            format!("{number} {} ", view.name())
        } else {
            format!("{number} ")
        };
        let style = if is_chosen {
            screen.bar().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        let room = area.right().saturating_sub(x);
        let (end, _) = buffer.set_stringn(x, area.y, &text, room.into(), style);
        x = end;
    }
}

fn draw_view(screen: &mut Screen<'_>, area: Rect, buffer: &mut Buffer, ui: &mut Ui, model: &Model) {
    if area.height == 0 {
        return;
    }
    let number = ui.view.number();
    let mut list = std::mem::take(&mut ui.lists[number]);
    match ui.view {
        View::Connections => {
            let sheet = connection_sheet(model, ui);
            sheet.draw(screen, area, buffer, model, &mut list);
            draw_reasons(area, buffer, (ui, &list), model);
        }
        View::Listeners => draw_listeners(screen, area, buffer, (ui, &mut list), model),
        View::Processes | View::Services | View::Remotes => {
            with_groups(ui.view, model, ui, |sheet| {
                sheet.draw(screen, area, buffer, model, &mut list);
            });
            draw_reasons(area, buffer, (ui, &list), model);
        }
        View::Policy => draw_policy(screen, area, buffer, (ui, &mut list), model),
        View::Health => {
            let lines = health::lines(model);
            let room = usize::from(area.width);
            let lines: Vec<String> = lines
                .iter()
                .flat_map(|text| wrapped(text, room).map(str::to_owned))
                .collect();
            scrolled(buffer, area, &lines, &mut list);
        }
    }
    list.remote = match ui.connection_of(&list) {
        Some(id) if ui.view == View::Connections => {
            model.record(id).map(|record| record.event.remote_ip)
        }
        _ => None,
    };
    ui.lists[number] = list;
}

fn draw_listeners(
    screen: &mut Screen<'_>,
    area: Rect,
    buffer: &mut Buffer,
    (ui, list): (&Ui, &mut List),
    model: &Model,
) {
    if model.recorded.as_ref().is_some_and(|of| of.listeners == 0) {
        for (row, text) in (0..).zip(health::NO_LISTENERS) {
            line(buffer, area, row, text, Style::new());
        }
        list.rows = 0;
        return;
    }
    let sheet = listener_sheet(model, ui);
    sheet.draw(screen, area, buffer, model, list);
    draw_reasons(area, buffer, (ui, list), model);
}

/// Below the heading of a list without rows: why it has none.
fn draw_reasons(area: Rect, buffer: &mut Buffer, (ui, list): (&Ui, &List), model: &Model) {
    if list.rows == 0 {
        let below = Rect {
            y: area.y + 1,
            height: area.height - 1,
            ..area
        };
        empty::draw(below, buffer, ui, model);
    }
}

/// The connections that are shown.
fn connection_sheet<'m>(model: &'m Model, ui: &Ui) -> Sheet<'m, Connection<Mark>> {
    let rows = model.connections().filter(|row| {
        !row.is_listener() && (ui.shows_ended || !model.is_past(row)) && ui.keeps(&row.record)
    });
    Sheet {
        columns: connections::CONNECTIONS,
        usual: connections::CONNECTIONS.len() - 1,
        rows: rows.map(|row| (RowId::Connection(row.id()), row)).collect(),
        looks: connections::looks,
    }
}

/// The listeners that are shown.
fn listener_sheet<'m>(model: &'m Model, ui: &Ui) -> Sheet<'m, Connection<Mark>> {
    let rows = model
        .connections()
        .filter(|row| row.is_listener() && !model.is_past(row) && ui.keeps(&row.record));
    Sheet {
        columns: connections::LISTENERS,
        usual: 0,
        rows: rows.map(|row| (RowId::Connection(row.id()), row)).collect(),
        looks: connections::looks,
    }
}

/// What the groups of a view are made by.
const fn group_kind(view: View) -> Option<GroupedBy> {
    match view {
        View::Processes => Some(GroupedBy::Process),
        View::Services => Some(GroupedBy::Service),
        View::Remotes => Some(GroupedBy::Remote),
        View::Policy => Some(GroupedBy::Rule),
        View::Connections | View::Listeners | View::Health => None,
    }
}

/// Has `take` take the groups that a view shows.
fn with_groups<T>(
    view: View,
    model: &Model,
    ui: &Ui,
    take: impl FnOnce(Sheet<'_, Group>) -> T,
) -> Option<T> {
    let by = group_kind(view)?;
    let (columns, usual) = match by {
        GroupedBy::Process => (groups::PROCESSES, 4),
        GroupedBy::Service => (groups::SERVICES, 3),
        GroupedBy::Remote => (groups::REMOTES, 1),
        GroupedBy::Rule => (groups::RULES, 2),
    };
    let sheet = group_sheet(columns, usual, (model, by), ui);
    if view == View::Remotes && ui.remotes == Remotes::Networks {
        let networks = joined(sheet.rows.iter().map(|(_, group)| *group));
        let rows = networks.iter();
        let rows = rows.map(|group| (RowId::Group(group.key.clone()), group));
        return Some(take(Sheet {
            columns,
            usual,
            rows: rows.collect(),
            looks: groups::looks,
        }));
    }
    Some(take(sheet))
}

/// The groups of a kind. A filter keeps those that a connection is in which it keeps.
fn group_sheet<'m>(
    columns: &'static [sheet::Column<Group>],
    usual: usize,
    (model, by): (&'m Model, GroupedBy),
    ui: &Ui,
) -> Sheet<'m, Group> {
    let kept = ui.has_filter().then(|| {
        let rows = model.connections().filter(|row| ui.keeps(&row.record));
        rows.filter_map(|row| row.mark.key(by))
            .collect::<HashSet<_>>()
    });
    let rows = model.groups(by).iter().filter(|group| {
        (!ui.only_violations || group.tally.violations > 0)
            && kept.as_ref().is_none_or(|kept| kept.contains(&group.key))
    });
    Sheet {
        columns,
        usual,
        rows: rows
            .map(|group| (RowId::Group(group.key.clone()), group))
            .collect(),
        looks: groups::looks,
    }
}

fn draw_policy(
    screen: &mut Screen<'_>,
    area: Rect,
    buffer: &mut Buffer,
    (ui, list): (&Ui, &mut List),
    model: &Model,
) {
    let header = model.header.as_ref();
    let Some(policy) = header.and_then(|header| header.policy.as_ref()) else {
        let texts = if model.recorded.is_some() {
            [
                "The run that was recorded had no policy.",
                "`port-monitor policy test --policy POLICY --replay FILE` judges it by one.",
            ]
        } else {
            [
                "No policy: begin with --policy FILE.",
                "`port-monitor policy learn` writes one from what it sees.",
            ]
        };
        for (row, text) in (0..).zip(texts) {
            line(buffer, area, row, text, Style::new());
        }
        list.rows = 0;
        return;
    };
    let policy = format!(
        "{}: a rule is told here once it has decided",
        Escaped(policy.as_bytes())
    );
    line(buffer, area, 0, &policy, Style::new());
    let below = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    if below.height > 0 {
        with_groups(View::Policy, model, ui, |sheet| {
            sheet.draw(screen, below, buffer, model, list);
        });
        draw_reasons(below, buffer, (ui, list), model);
    }
}

/// Lines that the user scrolls through.
fn scrolled(buffer: &mut Buffer, area: Rect, lines: &[String], list: &mut List) {
    let page = usize::from(area.height);
    let furthest = lines.len().saturating_sub(page);
    list.page = page;
    list.rows = lines.len();
    list.offset = list.offset.saturating_add_signed(list.step).min(furthest);
    list.step = 0;
    for (row, text) in (0..area.height).zip(lines.iter().skip(list.offset)) {
        line(buffer, area, row, text, Style::new());
    }
}

/// Columns that the frame of an overlay takes.
const FRAME: u16 = 4;

/// The keys, in lines of up to `room` columns.
fn help(room: usize) -> Vec<String> {
    const SPELLED: usize = 12;
    let mut lines = Vec::new();
    for binding in KEYS {
        let mut spelled = binding.spelled;
        for part in wrapped(binding.does, room.saturating_sub(SPELLED + 1)) {
            lines.push(format!("{spelled:<SPELLED$} {part}"));
            spelled = "";
        }
    }
    lines.extend(
        [
            "",
            "A row begins with ! where it breaks the policy, * where it failed, · where it is over.",
            "The mouse: a click on a heading sorts by it, on a row it chooses it; the wheel moves.",
            "Filter words: any text of a row, or comm:curl user:ann pid:1 port:443 remote:10.0.0.0/8",
            "dir:in unit:ssh state:failed error:refused rule:NAME local-port: remote-port: cgroup:",
        ]
        .into_iter()
        .flat_map(|text| wrapped(text, room))
        .map(str::to_owned),
    );
    lines
}

/// A rule, and what can be done with it.
fn rule_lines(toml: &str) -> Vec<String> {
    let mut lines: Vec<String> = toml
        .lines()
        .map(|text| Escaped(text.as_bytes()).to_string())
        .collect();
    lines.extend(
        [
            "",
            "Tried: it decides this connection.",
            "Put it before rules that differ.",
            "P: the other word. E: print it later",
        ]
        .map(str::to_owned),
    );
    lines
}

/// A box over all else.
fn lay_over(
    screen: &Screen<'_>,
    area: Rect,
    buffer: &mut Buffer,
    ui: &mut Ui,
    (title, lines): (&str, &[String]),
) {
    let room = usize::from(area.width.saturating_sub(FRAME));
    let lines: Vec<&str> = lines.iter().flat_map(|text| wrapped(text, room)).collect();
    let widest = lines
        .iter()
        .map(|text| text.chars().count())
        .max()
        .unwrap_or(0);
    let width = u16::try_from(widest + usize::from(FRAME))
        .unwrap_or(u16::MAX)
        .min(area.width);
    let height = u16::try_from(lines.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, buffer);
    let inner = Rect {
        x: place.x + 2,
        y: place.y + 1,
        width: place.width.saturating_sub(FRAME),
        height: place.height.saturating_sub(2),
    };
    let hidden = lines.len().saturating_sub(inner.height.into());
    ui.scroll = ui.scroll.min(u16::try_from(hidden).unwrap_or(u16::MAX));
    let below = hidden - usize::from(ui.scroll);
    let mut frame = Block::bordered()
        .title(format!(" {title} "))
        .border_style(screen.bar());
    if below > 0 {
        frame = frame.title_bottom(format!(" ↓ {below} more "));
    }
    frame.render(place, buffer);
    let shown = lines.iter().skip(ui.scroll.into());
    for (row, text) in (0..inner.height).zip(shown) {
        line(buffer, inner, row, text, Style::new());
    }
}

#[cfg(test)]
mod tests;
