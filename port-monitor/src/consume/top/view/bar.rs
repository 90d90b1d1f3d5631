//! The bar of a recording: where its playing stands, and where a click brings it.

use std::time::Duration;

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{Screen, line};
use crate::consume::top::{replay::Bar, ui::Ui};

/// Draws it at the foot of the body; what is left of that.
pub(super) fn draw(screen: &mut Screen<'_>, body: Rect, buffer: &mut Buffer, ui: &mut Ui) -> Rect {
    ui.bar_place = None;
    let (Some(bar), true) = (ui.bar, body.height > 1) else {
        return body;
    };
    let row = Rect {
        y: body.bottom() - 1,
        height: 1,
        ..body
    };
    let sign = match (bar.is_behind, bar.is_playing) {
        (true, _) => "»",
        (false, true) => "▶",
        (false, false) if bar.now_ns >= bar.end_ns => "■",
        (false, false) => "‖",
    };
    let now = screen.clock.time_of_day(bar.now_ns);
    let begin = format!(
        "{sign} {}x {now} {} ",
        bar.speed,
        elapsed(bar.now_ns - bar.begin_ns)
    );
    let end = format!(" {}", elapsed(bar.end_ns - bar.begin_ns));
    let width = usize::from(row.width);
    let cells = width.saturating_sub(begin.chars().count() + end.len());
    let text = format!("{begin}{}{end}", cells_of(&bar, cells));
    let style = if bar.is_playing {
        Style::new()
    } else {
        screen.bar()
    };
    line(buffer, row, 0, &text, style);
    let from = row
        .x
        .saturating_add(u16::try_from(begin.chars().count()).unwrap_or(u16::MAX));
    let to = from.saturating_add(u16::try_from(cells).unwrap_or(u16::MAX));
    ui.bar_place = (cells > 0).then_some((from, to, row.y));
    Rect {
        height: body.height - 1,
        ..body
    }
}

/// What is over, and what is to come.
fn cells_of(bar: &Bar, cells: usize) -> String {
    let whole = (bar.end_ns - bar.begin_ns).max(1);
    let room = i128::try_from(cells.saturating_sub(1)).unwrap_or(0);
    let at = (bar.now_ns - bar.begin_ns).clamp(0, whole) * room / whole;
    let at = usize::try_from(at).unwrap_or(0);
    (0..cells)
        .map(|cell| match cell.cmp(&at) {
            std::cmp::Ordering::Less => '━',
            std::cmp::Ordering::Equal => '●',
            std::cmp::Ordering::Greater => '─',
        })
        .collect()
}

/// A span of time: `0:02:05`.
fn elapsed(ns: i128) -> String {
    let ns = u64::try_from(ns.max(0)).unwrap_or(u64::MAX);
    let seconds = Duration::from_nanos(ns).as_secs();
    format!(
        "{}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}
