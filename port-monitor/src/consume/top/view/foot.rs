//! The last line: what is asked, what was said, how many rows there are, and the commonest keys.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{Screen, line};
use crate::{
    base::sanitize::Escaped,
    consume::{
        lines::table::plural,
        top::ui::{Ui, prompt::Prompt},
    },
};

const KEYS: &str = "  / filter  Enter details  s sort  t ended  v violations  ? keys  q quit";
const KEYS_OF_A_RECORDING: &str =
    "  Space stops, goes on  . , steps  ( ) { } T time  + - speed  ? keys  q quit";

/// Writes it.
pub(super) fn write(screen: &Screen<'_>, area: Rect, buffer: &mut Buffer, ui: &mut Ui) {
    let list = ui.list();
    let count = u64::try_from(list.rows).unwrap_or(u64::MAX);
    let rows = format!("{count} {}", plural(count, "row"));
    let is_held = list.held.is_some();
    let filter = Escaped(ui.filter.as_bytes());
    let (text, is_alarm) = if let Some(prompt) = &ui.prompt {
        (question(prompt), prompt.problem.is_some())
    } else if let Some(said) = &ui.said {
        (Escaped(said.as_bytes()).to_string(), false)
    } else if let Some(problem) = &ui.problem {
        (format!("/{filter}  {}", Escaped(problem.as_bytes())), true)
    } else if ui.typing.is_some() {
        let keys = "Tab completes, Enter keeps, Esc takes back";
        (format!("/{filter}▏ {rows}; {keys}"), false)
    } else {
        (state(rows, is_held, ui), false)
    };
    let style = if is_alarm {
        screen.alarm()
    } else {
        screen.bar()
    };
    line(buffer, area, 0, &text, style);
}

fn question(prompt: &Prompt) -> String {
    let typed = Escaped(prompt.text.as_bytes());
    let rest = match &prompt.problem {
        Some(problem) => Escaped(problem.as_bytes()).to_string(),
        None => "Esc: no".to_owned(),
    };
    format!("{}: {typed}▏  {rest}", prompt.asks.question())
}

/// How many rows there are, and why not more of them.
fn state(rows: String, is_held: bool, ui: &Ui) -> String {
    let mut text = rows;
    if !ui.filter.is_empty() {
        text = format!("{text}, /{}", Escaped(ui.filter.as_bytes()));
    }
    for (is_so, word) in [
        (ui.only_violations, ", violations only"),
        (ui.shows_ended, ", with those that have ended"),
        (is_held, ", order held"),
    ] {
        if is_so {
            text.push_str(word);
        }
    }
    text.push_str(if ui.bar.is_some() {
        KEYS_OF_A_RECORDING
    } else {
        KEYS
    });
    text
}
