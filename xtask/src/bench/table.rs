//! What was measured, as plain text.

use std::fmt::{self, Write as _};

use super::{
    figures::{Figures, Key},
    goals::Judgement,
    number::{number, spread},
};
use crate::report::write_table;

/// One table per group: subjects down, metrics across, each with its median and, where
/// there is more than one run, the spread.
pub(super) fn render(figures: &Figures) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for group in figures.groups() {
        let mut rows = rows(figures, group);
        align_numbers(&mut rows);
        write_table(&rows, &mut text)?;
        text.push('\n');
    }
    Ok(text)
}

/// One line per goal.
pub(super) fn render_goals(judgements: &[Judgement<'_>]) -> Result<String, fmt::Error> {
    let rows: Vec<Vec<String>> = judgements.iter().map(goal_row).collect();
    let mut text = String::new();
    write_table(&rows, &mut text)?;
    Ok(text)
}

fn goal_row(judgement: &Judgement<'_>) -> Vec<String> {
    let goal = judgement.goal;
    let measured = judgement.value.map_or_else(
        || "not measured".to_owned(),
        |value| {
            format!("{} {}", number(value), goal.unit)
                .trim_end()
                .to_owned()
        },
    );
    let result = match judgement.is_met() {
        Some(true) => "met",
        Some(false) => "NOT met",
        None => "",
    };
    vec![
        format!("goal {}", goal.number),
        goal.text.to_owned(),
        measured,
        format!("({} {})", goal.comparison.words(), number(goal.limit)),
        result.to_owned(),
    ]
}

/// The name of the group and of its metrics, then the subjects; every metric has a
/// column for the median and one for the spread.
fn rows(figures: &Figures, group: &str) -> Vec<Vec<String>> {
    let metrics = figures.metrics(group);
    let mut header = vec![group.to_owned()];
    for (metric, unit) in &metrics {
        let mut title = (*metric).to_owned();
        if !unit.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(title, " ({unit})");
        }
        header.extend([title, String::new()]);
    }
    let subjects = figures.subjects(group).into_iter().map(|subject| {
        let mut row = vec![subject.to_owned()];
        for (metric, _) in &metrics {
            let key = Key {
                group,
                subject,
                metric,
            };
            row.extend(cells(figures, key));
        }
        row
    });
    [header].into_iter().chain(subjects).collect()
}

fn cells(figures: &Figures, key: Key<'_>) -> [String; 2] {
    let Some(figure) = figures.get(key) else {
        return [String::new(), String::new()];
    };
    let spread = figure.spread().map(spread);
    [number(figure.median()), spread.unwrap_or_default()]
}

/// Moves the columns of medians to the right, so that digits of a kind line up.
fn align_numbers(rows: &mut [Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    for column in (1..columns).step_by(2) {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(column)) {
            *cell = format!("{cell:>width$}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        figures::figures,
        goals::{At, Comparison, Goal, Measure, judge},
    };

    #[test]
    fn subjects_are_down_and_metrics_across() {
        let figures = figures(&[
            ("none", "per connection", &[61_000.0, 61_100.0, 60_900.0]),
            ("C floor", "per connection", &[990.0, 990.0]),
            ("C floor", "lost", &[0.0]),
        ]);
        assert_eq!(
            render(&figures).unwrap(),
            "g        per connection (u)         lost (u)\n\
             none                 61,000  ±0.2%\n\
             C floor                 990  ±0.0%         0\n\n"
        );
    }

    #[test]
    fn a_goal_is_a_line() {
        let goal = |number, subject| Goal {
            number,
            text: "tool CPU per line",
            unit: "instr",
            measure: Measure::Value(At {
                group: "g",
                subject,
                metric: "m",
            }),
            comparison: Comparison::AtMost,
            limit: 2500.0,
        };
        let goals = [goal("4", "a"), goal("5", "b"), goal("16", "c")];
        let figures = figures(&[("a", "m", &[1912.0]), ("b", "m", &[3000.0])]);
        assert_eq!(
            render_goals(&judge(&goals, &figures)).unwrap(),
            "goal 4   tool CPU per line  1,912 instr   (at most 2,500)  met\n\
             goal 5   tool CPU per line  3,000 instr   (at most 2,500)  NOT met\n\
             goal 16  tool CPU per line  not measured  (at most 2,500)\n"
        );
    }
}
