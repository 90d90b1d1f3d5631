//! The figures a guest prints, collected by what they are of.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What a line with a measurement starts with.
const KEYWORD: &str = "BENCH ";

/// One value of one run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measurement {
    /// What was done, such as `flood`.
    pub(super) group: String,
    /// With what, such as `table to a file`.
    pub(super) subject: String,
    /// What of it was measured, such as `per connection`.
    pub(super) metric: String,
    /// The unit of the value.
    pub(super) unit: String,
    /// The run; runs of the same number followed each other closely.
    pub(super) run: u64,
    /// The value.
    pub(super) value: f64,
}

impl Measurement {
    /// Reads what follows the keyword.
    fn parse(json: &str) -> Result<Self> {
        let object: Value = serde_json::from_str(json)?;
        let field = |name: &str| object.get(name).with_context(|| format!("find {name}"));
        let text = |name: &str| -> Result<String> {
            let text = field(name)?.as_str();
            Ok(text
                .with_context(|| format!("read {name} as text"))?
                .to_owned())
        };
        Ok(Self {
            group: text("group")?,
            subject: text("subject")?,
            metric: text("metric")?,
            unit: text("unit")?,
            run: field("run")?.as_u64().context("read run as a number")?,
            value: field("value")?.as_f64().context("read value as a number")?,
        })
    }
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// The group.
    pub(super) group: &'a str,
    /// The subject.
    pub(super) subject: &'a str,
    /// The metric.
    pub(super) metric: &'a str,
}

/// All runs of one metric of one subject.
#[derive(Debug)]
pub(super) struct Figure {
    /// The group of the subject.
    pub(super) group: String,
    /// The subject.
    pub(super) subject: String,
    /// The metric.
    pub(super) metric: String,
    /// The unit of the values.
    pub(super) unit: String,
    /// Runs and their values, as they came; at least one.
    pub(super) values: Vec<(u64, f64)>,
}

impl Figure {
    /// What this is of.
    pub(super) fn key(&self) -> Key<'_> {
        Key {
            group: &self.group,
            subject: &self.subject,
            metric: &self.metric,
        }
    }

    /// The value in the middle.
    pub(super) fn median(&self) -> f64 {
        let values: Vec<f64> = self.values.iter().map(|(_, value)| *value).collect();
        median(&values).unwrap_or(f64::NAN)
    }

    /// The least value.
    pub(super) fn min(&self) -> f64 {
        let values = self.values.iter().map(|(_, value)| *value);
        values.fold(f64::INFINITY, f64::min)
    }

    /// The greatest value.
    pub(super) fn max(&self) -> f64 {
        let values = self.values.iter().map(|(_, value)| *value);
        values.fold(f64::NEG_INFINITY, f64::max)
    }

    /// Half of the range of the values, as a part of their median; `None` for a single
    /// run, or where the median is 0.
    pub(super) fn spread(&self) -> Option<f64> {
        let median = self.median();
        (self.values.len() > 1 && median != 0.0)
            .then(|| (self.max() - self.min()) / 2.0 / median.abs())
    }

    /// The value of a run.
    pub(super) fn value_of(&self, run: u64) -> Option<f64> {
        let found = self.values.iter().find(|(known, _)| *known == run);
        found.map(|(_, value)| *value)
    }
}

/// Everything measured, in the order of first appearance.
#[derive(Debug, Default)]
pub(super) struct Figures {
    all: Vec<Figure>,
}

impl Figures {
    /// Takes a line of the guest; says whether it was a measurement.
    pub(super) fn take_line(&mut self, line: &str) -> Result<bool> {
        let Some(json) = line.strip_prefix(KEYWORD) else {
            return Ok(false);
        };
        let measurement =
            Measurement::parse(json).with_context(|| format!("read the line: {line}"))?;
        self.add(measurement)?;
        Ok(true)
    }

    /// Adds one value.
    pub(super) fn add(&mut self, measurement: Measurement) -> Result<()> {
        let Measurement {
            group,
            subject,
            metric,
            unit,
            run,
            value,
        } = measurement;
        let key = Key {
            group: &group,
            subject: &subject,
            metric: &metric,
        };
        if let Some(figure) = self.all.iter_mut().find(|figure| figure.key() == key) {
            ensure!(
                figure.unit == unit,
                "give {group}, {subject}, {metric} one unit, not {} and {unit}",
                figure.unit
            );
            figure.values.push((run, value));
        } else {
            self.all.push(Figure {
                group,
                subject,
                metric,
                unit,
                values: vec![(run, value)],
            });
        }
        Ok(())
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Figure] {
        &self.all
    }

    /// The figure of `key`.
    pub(super) fn get(&self, key: Key<'_>) -> Option<&Figure> {
        self.all.iter().find(|figure| figure.key() == key)
    }

    /// The groups.
    pub(super) fn groups(&self) -> Vec<&str> {
        in_order(self.all.iter().map(|figure| &*figure.group))
    }

    /// The subjects of a group.
    pub(super) fn subjects(&self, group: &str) -> Vec<&str> {
        in_order(self.of_group(group).map(|figure| &*figure.subject))
    }

    /// The metrics of a group, and their units.
    pub(super) fn metrics(&self, group: &str) -> Vec<(&str, &str)> {
        let names = in_order(self.of_group(group).map(|figure| &*figure.metric));
        let with_unit = |name| {
            let first = self.of_group(group).find(|figure| figure.metric == name);
            (name, first.map_or("", |figure| &*figure.unit))
        };
        names.into_iter().map(with_unit).collect()
    }

    fn of_group(&self, group: &str) -> impl Iterator<Item = &Figure> {
        self.all.iter().filter(move |figure| figure.group == group)
    }
}

/// The middle of `values`, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

/// Each name once, in the order of its first appearance.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

/// Figures of the group `g` in `u`, from subjects and metrics with a value per run.
#[cfg(test)]
pub(super) fn figures(rows: &[(&str, &str, &[f64])]) -> Figures {
    let mut figures = Figures::default();
    for (subject, metric, values) in rows {
        for (run, value) in (0..).zip(*values) {
            let measurement = Measurement {
                group: "g".to_owned(),
                subject: (*subject).to_owned(),
                metric: (*metric).to_owned(),
                unit: "u".to_owned(),
                run,
                value: *value,
            };
            figures.add(measurement).unwrap();
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"BENCH {"group":"flood","subject":"C floor","metric":"elapsed","unit":"ns","run":2,"value":123.5}"#;

    fn equals(actual: Option<f64>, expected: f64) -> bool {
        actual.is_some_and(|actual| (actual - expected).abs() < 1e-12)
    }

    #[test]
    fn a_line_with_a_measurement_is_read() {
        let mut figures = Figures::default();
        assert!(figures.take_line(LINE).unwrap());
        let figure = figures.all().first().unwrap();
        let key = Key {
            group: "flood",
            subject: "C floor",
            metric: "elapsed",
        };
        assert_eq!(figure.key(), key);
        assert_eq!(figure.unit, "ns");
        assert_eq!(figure.values, [(2, 123.5)]);
        assert!(figures.get(key).is_some());
    }

    #[test]
    fn a_value_may_be_a_whole_number() {
        let mut figures = Figures::default();
        figures.take_line(&LINE.replace("123.5", "7")).unwrap();
        assert!(equals(figures.all().first().map(Figure::median), 7.0));
    }

    #[test]
    fn other_lines_are_progress() {
        let mut figures = Figures::default();
        assert!(!figures.take_line("run 1 of 7").unwrap());
        assert!(!figures.take_line("BENCHMARK").unwrap());
        assert!(figures.all().is_empty());
    }

    #[test]
    fn a_measurement_that_cannot_be_read_is_an_error() {
        let mut figures = Figures::default();
        assert!(figures.take_line("BENCH nothing").is_err());
        let error = figures
            .take_line(&LINE.replace("unit", "units"))
            .unwrap_err();
        assert_eq!(error.root_cause().to_string(), "find unit");
        assert!(figures.take_line(&LINE.replace("123.5", "null")).is_err());
    }

    #[test]
    fn a_metric_has_one_unit() {
        let mut figures = Figures::default();
        figures.take_line(LINE).unwrap();
        assert!(
            figures
                .take_line(&LINE.replace("\"ns\"", "\"ms\""))
                .is_err()
        );
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(equals(median(&[5.0, 1.0, 3.0]), 3.0));
        assert!(equals(median(&[4.0, 1.0, 3.0, 2.0]), 2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_spread_is_half_the_range() {
        let figures = figures(&[("a", "m", &[90.0, 100.0, 110.0]), ("b", "m", &[5.0])]);
        let [several, single] = figures.all() else {
            panic!("{figures:?}");
        };
        assert!(equals(several.spread(), 0.1));
        assert!(equals(Some(several.min()), 90.0));
        assert!(equals(Some(several.max()), 110.0));
        assert_eq!(single.spread(), None);
    }

    #[test]
    fn names_keep_the_order_of_their_first_appearance() {
        let figures = figures(&[
            ("z", "m", &[1.0]),
            ("a", "n", &[1.0]),
            ("z", "n", &[1.0]),
            ("a", "m", &[1.0]),
        ]);
        assert_eq!(figures.groups(), ["g"]);
        assert_eq!(figures.subjects("g"), ["z", "a"]);
        assert_eq!(figures.metrics("g"), [("m", "u"), ("n", "u")]);
    }
}
