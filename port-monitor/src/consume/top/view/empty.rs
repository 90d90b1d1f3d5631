//! What stands in the place of rows where there is none: why, and which key shows more.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{group_kind, line};
use crate::{
    base::sanitize::Escaped,
    consume::{
        lines::layout::wrapped,
        top::{
            model::Model,
            ui::{Scope, Ui, View},
        },
    },
};

/// Writes it, a sentence on a line.
pub(super) fn draw(area: Rect, buffer: &mut Buffer, ui: &Ui, model: &Model) {
    let room = usize::from(area.width);
    let reasons = reasons(ui, model);
    let lines = reasons.iter().flat_map(|reason| wrapped(reason, room));
    for (row, text) in (0..area.height).zip(lines) {
        line(buffer, area, row, text, Style::new());
    }
}

/// What a row of the view is: one of them, and more.
const fn words(view: View) -> (&'static str, &'static str) {
    match view {
        View::Connections => ("connection", "connections"),
        View::Processes => ("process", "processes"),
        View::Services => ("service", "services"),
        View::Remotes => ("address", "addresses"),
        View::Listeners => ("listener", "listeners"),
        View::Policy => ("rule", "rules"),
        View::Health => ("line", "lines"),
    }
}

/// Rows that the view would have without filters: those there are, and of these those that are
/// over for longer than the view shows them.
fn there(ui: &Ui, model: &Model) -> (usize, usize) {
    if let Some(by) = group_kind(ui.view) {
        return (model.groups(by).iter().count(), 0);
    }
    let are_listeners = ui.view == View::Listeners;
    let rows = model
        .connections()
        .filter(|row| row.is_listener() == are_listeners);
    let (past, present): (Vec<_>, Vec<_>) = rows.partition(|row| model.is_past(row));
    if are_listeners {
        // Of those that listen no more there is nothing to show.
        (present.len(), 0)
    } else {
        (present.len() + past.len(), past.len())
    }
}

fn reasons(ui: &Ui, model: &Model) -> Vec<String> {
    let (one, more) = words(ui.view);
    let (all, past) = there(ui, model);
    let mut reasons = vec![match (all, ui.view) {
        (0, View::Policy) => "No rule has decided yet.".to_owned(),
        (0, _) => format!("There is no {one}."),
        (1, _) => format!("1 {one} is not shown:"),
        (all, _) => format!("{all} {more} are not shown:"),
    }];
    if all > 0 && ui.has_filter() {
        let filter = Escaped(ui.filter.as_bytes());
        reasons.push(format!(
            "- the filter /{filter} keeps none. Esc takes it away."
        ));
    }
    if all > 0 && ui.only_violations {
        reasons.push("- only what breaks the policy is kept. v shows all again.".to_owned());
    }
    if past > 0 && !ui.shows_ended {
        let have = if past == 1 { "has" } else { "have" };
        reasons.push(format!("- {past} {have} ended. t shows those too."));
    }
    if ui.scope == Scope::ByFlags {
        reasons.push("The flags that it was started with keep others back.".to_owned());
    }
    reasons
}
