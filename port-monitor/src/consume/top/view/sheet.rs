//! A list on the screen: its columns, its order, the row that is chosen.

use std::{cmp::Ordering, collections::HashMap, net::IpAddr};

use jiff::tz::TimeZone;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::Screen;
use crate::{
    base::time::LocalClock,
    consume::{
        lines::{
            cell::Cell,
            layout::shrink,
            width::{MARK_WIDTH, NORMAL, WIDE},
        },
        top::{
            model::Model,
            ui::{List, Ports, RowId},
        },
    },
};

/// What a list is ordered by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    Number(i128),
    Name([u8; 16]),
    End(IpAddr, u16),
    Text(String),
}

/// A column of a list of `T`.
pub(super) struct Column<T> {
    pub(super) name: &'static str,
    /// Its width on a screen of up to 100 columns, up to 150, and beyond; the last column of
    /// a screen takes what is left, unless it has numbers.
    pub(super) widths: [usize; 3],
    /// Screens at least this wide have it.
    pub(super) from: usize,
    pub(super) is_number: bool,
    /// The greatest is first.
    descends: bool,
    pub(super) by: fn(&T, &Model) -> By,
    pub(super) write: fn(&mut Cell<'_>, &T, &Model),
}

impl<T> Column<T> {
    pub(super) const fn text(
        name: &'static str,
        widths: [usize; 3],
        from: usize,
        by: fn(&T, &Model) -> By,
        write: fn(&mut Cell<'_>, &T, &Model),
    ) -> Self {
        Self {
            name,
            widths,
            from,
            is_number: false,
            descends: false,
            by,
            write,
        }
    }

    /// On the right of its column, the greatest first.
    pub(super) const fn number(mut self) -> Self {
        self.is_number = true;
        self.descending()
    }

    /// The greatest first.
    pub(super) const fn descending(mut self) -> Self {
        self.descends = true;
        self
    }

    fn is_time(&self) -> bool {
        matches!(self.name, "BEGAN" | "LAST")
    }

    const fn width(&self, screen: usize) -> usize {
        let [narrow, normal, wide] = self.widths;
        match screen {
            ..NORMAL => narrow,
            NORMAL..WIDE => normal,
            WIDE.. => wide,
        }
    }
}

/// Columns of the screen that a cell has room for where it is copied: terminals take no text of
/// any length into their clipboards.
const COPIED_WIDTH: usize = 1024;

/// How a row looks beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    Plain,
    /// It breaks the policy.
    Violation,
    /// It has failed.
    Failed,
    /// It is over.
    Over,
}

impl Looks {
    /// The mark before the row, which needs no colour.
    const fn mark(self) -> &'static str {
        match self {
            Self::Violation => "!",
            Self::Failed => "*",
            Self::Over => "·",
            Self::Plain => " ",
        }
    }

    fn style(self, has_color: bool) -> Style {
        let style = Style::new();
        match self {
            Self::Violation if has_color => style.fg(Color::Red),
            Self::Violation => style.add_modifier(Modifier::BOLD),
            Self::Failed if has_color => style.fg(Color::Yellow),
            Self::Over => style.add_modifier(Modifier::DIM),
            Self::Failed | Self::Plain => style,
        }
    }
}

/// A list that is to be drawn.
pub(super) struct Sheet<'m, T: 'static> {
    pub(super) columns: &'static [Column<T>],
    /// The column that it is ordered by before the user chooses one.
    pub(super) usual: usize,
    pub(super) rows: Vec<(RowId, &'m T)>,
    pub(super) looks: fn(&T, &Model) -> Looks,
}

impl<'m, T> Sheet<'m, T> {
    /// Draws it.
    pub(super) fn draw(
        mut self,
        screen: &mut Screen<'_>,
        area: Rect,
        buffer: &mut Buffer,
        model: &Model,
        list: &mut List,
    ) {
        self.keep_shown(list, model, usize::from(area.height.saturating_sub(1)));
        let columns = self.lay_out(usize::from(area.width), &mut list.aside);
        self.heading(screen, area, buffer, list, &columns);
        let rows = (list.offset..).zip(&self.rows);
        for ((number, (_, row)), y) in rows.zip(area.y + 1..area.bottom()) {
            let looks = (self.looks)(row, model);
            let mut style = looks.style(screen.has_color);
            if number == list.at {
                style = style.add_modifier(Modifier::REVERSED);
            }
            let text = row_text(screen, looks, &columns, *row, model, area.width.into());
            buffer.set_style(
                Rect {
                    y,
                    height: 1,
                    ..area
                },
                style,
            );
            buffer.set_stringn(area.x, y, &text, area.width.into(), style);
        }
    }

    /// Its rows in the order of the list.
    pub(super) fn in_order(mut self, list: &List, model: &Model) -> Vec<&'m T> {
        self.order(&mut list.clone(), model);
        self.rows.into_iter().map(|(_, row)| row).collect()
    }

    /// What the columns have of a row, but for the times, with a space between them.
    pub(super) fn text_of(&self, wanted: &RowId, model: &Model, ports: Ports) -> Option<String> {
        let (_, row) = self.rows.iter().find(|(id, _)| id == wanted)?;
        let mut clock = LocalClock::new(TimeZone::UTC);
        let mut cells = Vec::new();
        for column in self.columns.iter().filter(|column| !column.is_time()) {
            let mut bytes = Vec::new();
            let mut cell = Cell::new(&mut bytes, COPIED_WIDTH, &mut clock);
            if ports == Ports::Numbers {
                cell = cell.without_services();
            }
            (column.write)(&mut cell, row, model);
            cell.cut_to_budget();
            cells.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        Some(cells.join(" "))
    }

    /// Keeps those rows, in their order, that the screen has room for. However many others
    /// there are, these alone are sorted.
    fn keep_shown(&mut self, list: &mut List, model: &Model, page: usize) {
        list.rows = self.rows.len();
        // One row is marked where there is room for none.
        let page = page.max(1);
        let chosen = list.chosen.clone();
        let is_chosen = |id: &RowId| chosen.as_ref() == Some(id);
        let follows = if list.held.is_some() {
            self.order(list, model);
            let place = self.rows.iter().position(|(id, _)| is_chosen(id));
            let follows = list.choose(place, page);
            let shown = self.rows.drain(..).skip(list.offset).take(page);
            self.rows = shown.collect();
            follows
        } else {
            let (mut keyed, descends) = self.keyed(list, model);
            let own = keyed.iter().find(|row| is_chosen(&row.1));
            let place = own.map(|own| {
                let before = keyed.iter();
                before
                    .filter(|row| in_order(row, own, descends).is_lt())
                    .count()
            });
            let follows = list.choose(place, page);
            let shown = keep(&mut keyed, list.offset, page, |one, other| {
                in_order(one, other, descends)
            });
            self.rows = shown.map(|(_, id, row)| (id, row)).collect();
            follows
        };
        let marked = self.rows.get(list.at.saturating_sub(list.offset));
        list.marked = marked.map(|(id, _)| id.clone());
        if follows {
            list.chosen.clone_from(&list.marked);
        }
    }

    /// The rows with what the list is ordered by, and whether the greatest is first.
    fn keyed(&mut self, list: &List, model: &Model) -> (Vec<Keyed<'m, T>>, bool) {
        let rows = self.rows.drain(..);
        let chosen = list.column.and_then(|column| self.columns.get(column));
        let Some(column) = chosen.or_else(|| self.columns.get(self.usual)) else {
            return (Vec::new(), false);
        };
        let keyed = rows.map(|(id, row)| ((column.by)(row, model), id, row));
        (keyed.collect(), column.descends != list.is_reversed)
    }

    fn order(&mut self, list: &mut List, model: &Model) {
        list.rows = self.rows.len();
        if let Some(held) = list.held.as_ref().filter(|held| !held.is_empty()) {
            let places = held.iter().enumerate().map(|(at, id)| (id, at));
            let places: HashMap<_, _> = places.collect();
            self.rows
                .sort_by_key(|(id, _)| places.get(id).copied().unwrap_or(usize::MAX));
        } else {
            let (mut keyed, descends) = self.keyed(list, model);
            keyed.sort_by(|one, other| in_order(one, other, descends));
            self.rows = keyed.into_iter().map(|(_, id, row)| (id, row)).collect();
        }
        if list.held.is_some() {
            list.held = Some(self.rows.iter().map(|(id, _)| id.clone()).collect());
        }
    }

    /// The first column on the screen: `wanted`, if the last one is not in sight before.
    fn first_column(&self, screen: usize, wanted: usize) -> usize {
        if self.columns.iter().all(|column| screen >= column.from) {
            return 0;
        }
        let mut room = screen.saturating_sub(MARK_WIDTH) + 1;
        let from_the_end = self.columns.iter().rev().take_while(|column| {
            let rest = room.checked_sub(column.width(screen) + 1);
            room = rest.unwrap_or(0);
            rest.is_some()
        });
        wanted.min(self.columns.len() - from_the_end.count())
    }

    /// The columns that the screen has room for, with their widths. Where some on the left are
    /// passed over, narrow screens have those too that wide ones have.
    fn lay_out(&self, screen: usize, aside: &mut usize) -> Vec<(usize, &'static Column<T>, usize)> {
        *aside = self.first_column(screen, *aside);
        let columns = self.columns.iter().enumerate().skip(*aside);
        let mut end = MARK_WIDTH;
        let columns: Vec<_> = columns
            .filter(|(_, column)| *aside > 0 || screen >= column.from)
            .take_while(|(_, column)| {
                end += column.width(screen) + 1;
                *aside == 0 || end <= screen + 1
            })
            .collect();
        let mut widths: Vec<usize> = columns
            .iter()
            .map(|(_, column)| column.width(screen))
            .collect();
        let room = screen.saturating_sub(MARK_WIDTH);
        shrink(&mut widths, room);
        let taken: usize = widths.iter().map(|width| width + 1).sum();
        let is_text = columns.last().is_some_and(|(_, column)| !column.is_number);
        if let Some(last) = widths.last_mut().filter(|_| is_text) {
            *last += (room + 1).saturating_sub(taken);
        }
        let columns = columns.into_iter().zip(widths);
        columns
            .map(|((number, column), width)| (number, column, width))
            .collect()
    }

    fn heading(
        &self,
        screen: &Screen<'_>,
        area: Rect,
        buffer: &mut Buffer,
        list: &mut List,
        columns: &[(usize, &'static Column<T>, usize)],
    ) {
        let style = screen.bar();
        buffer.set_style(Rect { height: 1, ..area }, style);
        list.heading_row = area.y;
        list.headings.clear();
        let sorted = list.column.unwrap_or(self.usual);
        let mut x = MARK_WIDTH;
        for &(number, column, width) in columns {
            let sign = match (number == sorted, column.descends != list.is_reversed) {
                (false, _) => "",
                (true, true) => "↓",
                (true, false) => "↑",
            };
            let name = format!("{}{sign}", column.name);
            let indent = if column.is_number {
                width.saturating_sub(name.chars().count())
            } else {
                0
            };
            let at = |x: usize| area.x + u16::try_from(x).unwrap_or(u16::MAX);
            // Of a name as wide as its column the sign takes the gap behind it.
            buffer.set_stringn(at(x + indent), area.y, &name, width + 1, style);
            list.headings.push((at(x), at(x + width), number));
            x += width + 1;
        }
    }
}

/// A row with what it is ordered by.
type Keyed<'m, T> = (By, RowId, &'m T);

/// Of equal ones it is always the same that comes first.
fn in_order<T>(one: &Keyed<'_, T>, other: &Keyed<'_, T>, descends: bool) -> Ordering {
    let order = (&one.0, &one.1).cmp(&(&other.0, &other.1));
    if descends { order.reverse() } else { order }
}

/// Of `rows` in order, so many from a place on.
fn keep<R>(
    rows: &mut Vec<R>,
    from: usize,
    count: usize,
    order: impl Fn(&R, &R) -> Ordering,
) -> impl Iterator<Item = R> {
    let from = from.min(rows.len());
    let count = count.min(rows.len() - from);
    if from < rows.len() {
        rows.select_nth_unstable_by(from, &order);
    }
    let rest = &mut rows[from..];
    if count < rest.len() {
        rest.select_nth_unstable_by(count, &order);
    }
    rest[..count].sort_unstable_by(&order);
    rows.drain(from..from + count)
}

fn row_text<T>(
    screen: &mut Screen<'_>,
    looks: Looks,
    columns: &[(usize, &'static Column<T>, usize)],
    row: &T,
    model: &Model,
    room: usize,
) -> String {
    let mut text = format!("{} ", looks.mark());
    let mut position = MARK_WIDTH;
    let mut end = MARK_WIDTH;
    for (number, &(_, column, width)) in columns.iter().enumerate() {
        end += width;
        let is_last = number + 1 == columns.len();
        let is_cut_late = is_last && !column.is_number;
        let budget = if is_cut_late { room } else { end }.saturating_sub(position);
        let mut bytes = Vec::new();
        let mut cell = Cell::new(&mut bytes, budget, screen.clock);
        if screen.has_numbers {
            cell = cell.without_services();
        }
        (column.write)(&mut cell, row, model);
        cell.cut_to_budget();
        let written = cell.width();
        let spaces = budget.saturating_sub(written);
        let (before, after) = if column.is_number {
            (spaces, 0)
        } else {
            (0, spaces)
        };
        text.extend(std::iter::repeat_n(' ', before));
        text.push_str(&String::from_utf8_lossy(&bytes));
        text.extend(std::iter::repeat_n(' ', after + 1));
        position = end + 1;
        end += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::keep;

    proptest! {
        #[test]
        fn what_is_kept_is_that_part_of_all_in_order(
            mut rows in vec(any::<u8>(), 0..200),
            from in 0..220_usize,
            count in 0..60_usize,
        ) {
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            let expected: Vec<u8> = sorted.into_iter().skip(from).take(count).collect();
            let kept: Vec<u8> = keep(&mut rows, from, count, Ord::cmp).collect();
            prop_assert_eq!(kept, expected);
        }
    }
}
