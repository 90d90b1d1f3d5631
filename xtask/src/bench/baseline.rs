//! What a run is held to: what an earlier one found of each goal.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    goals::{Comparison, Judgement, Measure},
    number::number,
};
use crate::report::write_table;

/// How much worse a value may be than the earlier one, as a part of it. What our own programs take
/// repeats to half of a percent.
const OF_OWN: f64 = 0.03;
/// How much worse a ratio may be: what another tool takes differs by 2 % from boot to boot, and
/// what ours takes by 3 % from one build of the same sources to another.
const OF_RATIO: f64 = 0.1;

/// What an earlier run found.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The release of the kernel it was taken on.
    kernel: String,
    /// Each goal's number and text, and its value.
    goals: Vec<(String, String, f64)>,
}

impl Baseline {
    /// Reads a report that `cargo xtask bench` has written.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("read the baseline {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!(
                "read the baseline {}: give a file that `cargo xtask bench` wrote to target/bench",
                path.display()
            )
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(text)?;
        let kernel = report.get("kernel").and_then(Value::as_str);
        let kernel = kernel.context("find kernel")?.to_owned();
        let goals = report.get("goals").and_then(Value::as_array);
        let goals = goals.context("find goals")?.iter().filter_map(|goal| {
            let text = |name| Some(goal.get(name)?.as_str()?.to_owned());
            // What was not measured then has no value.
            Some((text("number")?, text("text")?, goal.get("value")?.as_f64()?))
        });
        let goals: Vec<_> = goals.collect();
        ensure!(!goals.is_empty(), "find the value of a goal");
        Ok(Self { kernel, goals })
    }

    /// Both were taken on the same kernel. Another one's own work may cost more or less, which is
    /// no fault of ours.
    pub(super) fn is_of(&self, kernel: &str) -> bool {
        self.kernel == kernel
    }

    /// What to do where they were not.
    pub(super) fn renew(&self, kernel: &str) -> String {
        format!(
            "not held to the baseline, which is of kernel {}: take a new one on {kernel}",
            self.kernel
        )
    }

    /// Each goal that both have measured.
    pub(super) fn compare<'a>(&self, judgements: &'a [Judgement<'a>]) -> Vec<Change<'a>> {
        let change = |judgement: &'a Judgement<'a>| {
            let goal = judgement.goal;
            let is_it = |(number, text, _): &&(String, String, f64)| {
                number == goal.number && text == goal.text
            };
            Some(Change {
                judgement,
                before: self.goals.iter().find(is_it)?.2,
                now: judgement.value?,
            })
        };
        judgements.iter().filter_map(change).collect()
    }
}

/// How a goal's value has changed.
#[derive(Debug)]
pub(super) struct Change<'a> {
    judgement: &'a Judgement<'a>,
    before: f64,
    now: f64,
}

impl Change<'_> {
    /// It is worse by more than is left to chance.
    pub(super) fn is_worse(&self) -> bool {
        let Self { before, now, .. } = *self;
        let goal = self.judgement.goal;
        let tolerance = match goal.measure {
            Measure::Value(_) | Measure::Worst(_) => OF_OWN,
            _ => OF_RATIO,
        };
        match goal.comparison {
            Comparison::AtMost => now > before * (1.0 + tolerance),
            Comparison::AtLeast => now < before * (1.0 - tolerance),
            Comparison::Exactly => self.judgement.is_met() == Some(false),
        }
    }

    fn row(&self) -> Vec<String> {
        let goal = self.judgement.goal;
        let with_unit = |value| {
            format!("{} {}", number(value), goal.unit)
                .trim_end()
                .to_owned()
        };
        let by = (self.before != 0.0).then(|| (self.now / self.before - 1.0) * 100.0);
        vec![
            format!("goal {}", goal.number),
            goal.text.to_owned(),
            format!("before {}", with_unit(self.before)),
            format!("now {}", with_unit(self.now)),
            by.map_or_else(String::new, |by| format!("{by:+.1} %")),
            if self.is_worse() { "WORSE" } else { "" }.to_owned(),
        ]
    }
}

/// One line per goal.
pub(super) fn render(changes: &[Change<'_>]) -> Result<String, fmt::Error> {
    let rows: Vec<Vec<String>> = changes.iter().map(Change::row).collect();
    let mut text = String::new();
    write_table(&rows, &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::goals::{At, Goal, Measure};

    fn goal(comparison: Comparison) -> Goal {
        Goal {
            number: "3",
            text: "cost",
            unit: "instr",
            measure: Measure::Value(At {
                group: "g",
                subject: "s",
                metric: "m",
            }),
            comparison,
            limit: 0.0,
        }
    }

    fn baseline(value: &str) -> Baseline {
        let report = format!(
            r#"{{"kernel":"6.12.1","goals":[{{"number":"3","text":"cost","value":{value}}}]}}"#
        );
        Baseline::parse(&report).unwrap()
    }

    fn is_worse(comparison: Comparison, value: f64) -> bool {
        is_worse_of(&goal(comparison), value)
    }

    fn is_worse_of(goal: &Goal, value: f64) -> bool {
        let judgements = [Judgement {
            goal,
            value: Some(value),
        }];
        let changes = baseline("100").compare(&judgements);
        assert_eq!(changes.len(), 1);
        changes.iter().any(Change::is_worse)
    }

    #[test]
    fn three_percent_are_left_to_chance() {
        assert!(!is_worse(Comparison::AtMost, 102.9));
        assert!(is_worse(Comparison::AtMost, 103.1));
        assert!(!is_worse(Comparison::AtMost, 1.0));
        assert!(!is_worse(Comparison::AtLeast, 97.1));
        assert!(is_worse(Comparison::AtLeast, 96.9));
        assert!(!is_worse(Comparison::Exactly, 0.0));
        assert!(is_worse(Comparison::Exactly, 1.0));
    }

    #[test]
    fn of_a_ratio_it_is_ten() {
        let at = At {
            group: "g",
            subject: "s",
            metric: "m",
        };
        let ratio = Goal {
            measure: Measure::Ratio {
                numerator: at,
                denominator: at,
            },
            ..goal(Comparison::AtMost)
        };
        assert!(!is_worse_of(&ratio, 109.0));
        assert!(is_worse_of(&ratio, 111.0));
    }

    #[test]
    fn what_one_of_them_did_not_measure_is_not_compared() {
        let goal = goal(Comparison::AtMost);
        let judgement = |value| Judgement { goal: &goal, value };
        assert!(baseline("100").compare(&[judgement(None)]).is_empty());
        let other = r#"{"kernel":"6.12.1","goals":[{"number":"3","text":"other","value":1.0}]}"#;
        let other = Baseline::parse(other).unwrap();
        assert!(other.compare(&[judgement(Some(1.0))]).is_empty());
    }

    #[test]
    fn a_file_without_values_is_no_baseline() {
        for text in [
            "",
            "{}",
            r#"{"goals":[{"number":"3","text":"cost","value":1.0}]}"#,
            r#"{"kernel":"6.12.1","goals":[]}"#,
            r#"{"kernel":"6.12.1","goals":[{"number":"3","text":"cost","value":null}]}"#,
        ] {
            assert!(Baseline::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_line_tells_both_values_and_what_is_worse() {
        let goal = goal(Comparison::AtMost);
        let judgements = [Judgement {
            goal: &goal,
            value: Some(110.0),
        }];
        let text = render(&baseline("100").compare(&judgements)).unwrap();
        assert_eq!(
            text,
            "goal 3  cost  before 100 instr  now 110 instr  +10.0 %  WORSE\n"
        );
    }
}
