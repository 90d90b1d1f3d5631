//! What was measured, as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    figures::{Figure, Figures},
    goals::Judgement,
};

/// Everything one command has found out.
pub(super) struct Report<'a> {
    /// What was measured.
    pub(super) what: &'a str,
    /// The release of the guest's kernel.
    pub(super) kernel: &'a str,
    /// How many runs were asked for.
    pub(super) runs: u32,
    /// Every figure.
    pub(super) figures: &'a Figures,
    /// The goals and how far they are reached.
    pub(super) goals: &'a [Judgement<'a>],
}

impl Report<'_> {
    /// The report, dated now.
    pub(super) fn to_json(&self) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let figures: Vec<Value> = self.figures.all().iter().map(figure).collect();
        let goals: Vec<Value> = self.goals.iter().map(goal).collect();
        let report = json!({
            "what": self.what,
            "kernel": self.kernel,
            "version": env!("CARGO_PKG_VERSION"),
            "time_s": now.context("read the clock")?.as_secs(),
            "runs": self.runs,
            "figures": figures,
            "goals": goals,
        });
        Ok(format!("{report:#}\n"))
    }
}

fn figure(figure: &Figure) -> Value {
    let values: Vec<Value> = figure
        .values
        .iter()
        .map(|(run, value)| json!({"run": run, "value": value}))
        .collect();
    json!({
        "group": figure.group,
        "subject": figure.subject,
        "metric": figure.metric,
        "unit": figure.unit,
        "n": figure.values.len(),
        "median": figure.median(),
        "min": figure.min(),
        "max": figure.max(),
        "values": values,
    })
}

fn goal(judgement: &Judgement<'_>) -> Value {
    let goal = judgement.goal;
    json!({
        "number": goal.number,
        "text": goal.text,
        "unit": goal.unit,
        "comparison": goal.comparison.words(),
        "limit": goal.limit,
        "value": judgement.value,
        "met": judgement.is_met(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        What,
        figures::figures,
        goals::{judge, of},
    };

    #[test]
    fn the_report_has_every_value_and_every_goal() {
        let figures = figures(&[("none", "m", &[3.0, 1.0])]);
        let goals = judge(of(What::Monitor), &figures);
        let report = Report {
            what: "monitor",
            kernel: "6.12.1",
            runs: 2,
            figures: &figures,
            goals: &goals,
        };
        let report: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        let at = |path: &str| report.pointer(path).unwrap();
        assert_eq!(at("/kernel"), "6.12.1");
        assert_eq!(at("/figures/0/median"), 2.0);
        assert_eq!(at("/figures/0/values/1/value"), 1.0);
        assert_eq!(at("/goals").as_array().unwrap().len(), goals.len());
        assert_eq!(at("/goals/0/met"), &Value::Null);
    }
}
