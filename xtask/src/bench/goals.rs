//! What the measurements must show, as data.

use super::{
    What,
    figures::{self, Figure, Figures, Key},
};

/// What a goal is about: the same as a [`Key`], of the program's own words.
pub(super) type At = Key<'static>;

/// One thing the figures must show.
#[derive(Debug)]
pub(super) struct Goal {
    /// Its number; goals of one number belong together.
    pub(super) number: &'static str,
    /// What it is about.
    pub(super) text: &'static str,
    /// The unit of the value; empty for a ratio.
    pub(super) unit: &'static str,
    /// How the value is had.
    pub(super) measure: Measure,
    /// How the value must compare with the limit.
    pub(super) comparison: Comparison,
    /// The limit.
    pub(super) limit: f64,
}

/// How a goal's value is had from figures. What relates figures does so run by run,
/// and takes the median of that: what disturbs a run disturbs all that is in it.
#[derive(Debug)]
pub(super) enum Measure {
    /// The median.
    Value(At),
    /// The value that is farthest from 0, of all runs.
    Worst(At),
    /// One figure divided by another.
    Ratio { numerator: At, denominator: At },
    /// One figure divided by the lesser of two.
    RatioToLesser { numerator: At, others: [At; 2] },
    /// What `subject` has beyond `base`, divided by what `other` has beyond it.
    DifferenceRatio { base: At, subject: At, other: At },
}

/// How a value must compare with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// No greater.
    AtMost,
    /// No less.
    AtLeast,
    /// No other.
    Exactly,
}

impl Comparison {
    /// In words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::AtMost => "at most",
            Self::AtLeast => "at least",
            Self::Exactly => "exactly",
        }
    }

    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::AtMost => value <= limit,
            Self::AtLeast => value >= limit,
            Self::Exactly => (value - limit).abs() < f64::EPSILON,
        }
    }
}

/// A goal and what was measured of it.
#[derive(Debug)]
pub(super) struct Judgement<'a> {
    /// The goal.
    pub(super) goal: &'a Goal,
    /// The value; `None` where what it is had from was not measured.
    pub(super) value: Option<f64>,
}

impl Judgement<'_> {
    /// Whether the goal is met; `None` where it was not measured.
    pub(super) fn is_met(&self) -> Option<bool> {
        let Goal {
            comparison, limit, ..
        } = self.goal;
        self.value.map(|value| comparison.holds(value, *limit))
    }
}

/// The goals of a measurement.
pub(super) const fn of(what: What) -> &'static [Goal] {
    match what {
        What::Monitor => MONITOR,
        What::Verdict => VERDICT,
        What::Top => TOP,
        What::Scale | What::History => &[],
    }
}

/// Each of `goals` with its value.
pub(super) fn judge<'a>(goals: &'a [Goal], figures: &Figures) -> Vec<Judgement<'a>> {
    let judgement = |goal: &'a Goal| Judgement {
        goal,
        value: goal.measure.value(figures),
    };
    goals.iter().map(judgement).collect()
}

impl Measure {
    fn value(&self, figures: &Figures) -> Option<f64> {
        match *self {
            Self::Value(at) => figures.get(at).map(Figure::median),
            Self::Worst(at) => {
                let values = figures.get(at)?.values.iter().map(|(_, value)| *value);
                values.max_by(|a, b| a.abs().total_cmp(&b.abs()))
            }
            Self::Ratio {
                numerator,
                denominator,
            } => run_by_run(figures, [numerator, denominator], |[a, b]| a / b),
            Self::RatioToLesser {
                numerator,
                others: [one, other],
            } => run_by_run(figures, [numerator, one, other], |[a, b, c]| a / b.min(c)),
            Self::DifferenceRatio {
                base,
                subject,
                other,
            } => run_by_run(figures, [base, subject, other], |[base, a, b]| {
                (a - base) / (b - base)
            }),
        }
    }
}

/// The median over the runs that all of `keys` have, of what `relate` makes of a run.
fn run_by_run<const N: usize>(
    figures: &Figures,
    keys: [At; N],
    relate: impl Fn([f64; N]) -> f64,
) -> Option<f64> {
    let runs = figures.get(*keys.first()?)?.values.iter();
    let related: Vec<f64> = runs
        .filter_map(|(run, _)| {
            let values = keys.map(|key| figures.get(key)?.value_of(*run));
            let values: Option<Vec<f64>> = values.into_iter().collect();
            values?.try_into().ok().map(&relate)
        })
        .filter(|value| value.is_finite())
        .collect();
    figures::median(&related)
}

const fn at(group: &'static str, subject: &'static str, metric: &'static str) -> At {
    Key {
        group,
        subject,
        metric,
    }
}

/// What a live view may cost: half of the better of the others.
const TOP: &[Goal] = &[
    of_the_view("CPU of the view, 100 open", "100 open", "CPU a second"),
    of_the_view("the same, 10,000 open", "10,000 open", "CPU a second"),
    of_the_view("the same, 100,000 open", "100,000 open", "CPU a second"),
    of_the_view("time of a frame, 100 open", "100 open", "a frame"),
    of_the_view("the same, 10,000 open", "10,000 open", "a frame"),
    of_the_view("the same, 100,000 open", "100,000 open", "a frame"),
];

const fn of_the_view(text: &'static str, group: &'static str, metric: &'static str) -> Goal {
    Goal {
        number: "18",
        text,
        unit: "",
        measure: Measure::RatioToLesser {
            numerator: at(group, "port-monitor top", metric),
            others: [at(group, "rustnet", metric), at(group, "ss -tanp", metric)],
        },
        comparison: Comparison::AtMost,
        limit: 0.5,
    }
}

/// What watching may cost.
const MONITOR: &[Goal] = &[
    Goal {
        number: "1",
        text: "BPF time per event, beside C",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("events", "table to a file", "BPF time per event"),
            denominator: at("events", "C floor", "BPF time per event"),
        },
        comparison: Comparison::AtMost,
        limit: 1.15,
    },
    Goal {
        number: "2",
        text: "throughput, beside no monitor",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("flood", "none", "per connection"),
            denominator: at("flood", "table to a file", "per connection"),
        },
        comparison: Comparison::AtLeast,
        limit: 0.90,
    },
    Goal {
        number: "3",
        text: "cost per connection, beside tcptracer's",
        unit: "",
        measure: Measure::DifferenceRatio {
            base: at("flood", "none", "per connection"),
            subject: at("flood", "table to a file", "per connection"),
            other: at("flood", "tcptracer", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 0.15,
    },
    Goal {
        number: "3",
        text: "the same of the whole record, in a table",
        unit: "",
        measure: Measure::DifferenceRatio {
            base: at("flood", "none", "per connection"),
            subject: at("flood", "default run", "per connection"),
            other: at("flood", "tcptracer", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 0.30,
    },
    Goal {
        number: "3",
        text: "the same in JSON",
        unit: "",
        measure: Measure::DifferenceRatio {
            base: at("flood", "none", "per connection"),
            subject: at("flood", "JSON, all events", "per connection"),
            other: at("flood", "tcptracer", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 0.38,
    },
    Goal {
        number: "3",
        text: "the whole record in a table, beside tcplife's",
        unit: "",
        measure: Measure::DifferenceRatio {
            base: at("flood", "none", "per connection"),
            subject: at("flood", "default run", "per connection"),
            other: at("flood", "tcplife", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 0.50,
    },
    Goal {
        number: "3",
        text: "BPF time of the whole record",
        unit: "instr",
        measure: Measure::Value(at("events", "JSON, all events", "BPF time per connection")),
        comparison: Comparison::AtMost,
        limit: 4500.0,
    },
    Goal {
        number: "4",
        text: "tool CPU per printed line",
        unit: "instr",
        measure: Measure::Value(at("flood", "table to a file", "tool CPU per line")),
        comparison: Comparison::AtMost,
        limit: 2500.0,
    },
    Goal {
        number: "4",
        text: "tool CPU per line of JSON",
        unit: "instr",
        measure: Measure::Value(at("flood", "JSON to a file", "tool CPU per line")),
        comparison: Comparison::AtMost,
        limit: 4000.0,
    },
    Goal {
        number: "5",
        text: "tool CPU per connection, paced",
        unit: "instr",
        measure: Measure::Value(at("paced", "table to a file", "tool CPU per connection")),
        comparison: Comparison::AtMost,
        limit: 7500.0,
    },
    Goal {
        number: "6",
        text: "idle, per second",
        unit: "instr",
        measure: Measure::Value(at("idle", "table to a file", "per second")),
        comparison: Comparison::AtMost,
        limit: 65_000.0,
    },
    Goal {
        number: "7",
        text: "events lost, two processors, any run",
        unit: "events",
        measure: Measure::Worst(at("two processors", "table to a file", "lost")),
        comparison: Comparison::Exactly,
        limit: 0.0,
    },
    Goal {
        number: "8",
        text: "events unaccounted for, stalled reader, any run",
        unit: "events",
        measure: Measure::Worst(at("stalled", "table to a file", "unaccounted")),
        comparison: Comparison::Exactly,
        limit: 0.0,
    },
    Goal {
        number: "9",
        text: "until a line can be read, median",
        unit: "ms",
        measure: Measure::Value(at("latency", "JSON to a pipe", "median")),
        comparison: Comparison::AtMost,
        limit: 10.0,
    },
    Goal {
        number: "9",
        text: "until a line can be read, longest of any run",
        unit: "ms",
        measure: Measure::Worst(at("latency", "JSON to a pipe", "longest")),
        comparison: Comparison::AtMost,
        limit: 100.0,
    },
    Goal {
        number: "10",
        text: "start to first line, beside tcplife's",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("start", "table to a file", "first line"),
            denominator: at("start", "tcplife", "first line"),
        },
        comparison: Comparison::AtMost,
        limit: 0.9,
    },
    Goal {
        number: "10",
        text: "start of the default run to its first line, beside tcptracer's",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("start", "default run", "first line"),
            denominator: at("start", "tcptracer", "first line"),
        },
        comparison: Comparison::AtMost,
        limit: 0.6,
    },
    Goal {
        number: "11",
        text: "peak memory less the ring",
        unit: "MiB",
        measure: Measure::Value(at("flood", "table to a file", "RSS less the ring")),
        comparison: Comparison::AtMost,
        limit: 12.0,
    },
    Goal {
        number: "12",
        text: "size of the program",
        unit: "MiB",
        measure: Measure::Value(at("binary", "port-monitor", "size")),
        comparison: Comparison::AtMost,
        limit: 4.0,
    },
];

/// What judging may cost.
const VERDICT: &[Goal] = &[
    Goal {
        number: "13",
        text: "connect under 1,024 rules, beside 1 rule",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("connect", "1,024 rules", "per connection"),
            denominator: at("connect", "1 rule", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 1.02,
    },
    Goal {
        number: "14",
        text: "BPF time of the verdict, beside C's with the same network",
        unit: "",
        measure: Measure::DifferenceRatio {
            base: at("connect", "C empty", "BPF time per connect"),
            subject: at("connect", "1,000 rules", "BPF time per connect"),
            other: at("connect", "C limit", "BPF time per connect"),
        },
        comparison: Comparison::AtMost,
        limit: 1.25,
    },
    Goal {
        number: "15",
        text: "refused connect, beside a closed port",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("refused", "denied", "per connection"),
            denominator: at("refused", "closed port", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 1.10,
    },
    Goal {
        number: "16",
        text: "what inbound rules cost a connection, beside a set of nftables at input",
        unit: "",
        measure: Measure::DifferenceRatio {
            base: at("connect", "none", "per connection"),
            subject: at("connect", "1,000 rules, one inbound", "per connection"),
            other: at("connect", "nft input set 1,000", "per connection"),
        },
        comparison: Comparison::AtMost,
        limit: 1.0,
    },
    Goal {
        number: "16",
        text: "BPF time of inbound rules, per connection",
        unit: "instr",
        measure: Measure::Value(at(
            "connect",
            "1,000 rules, one inbound",
            "BPF time of inbound",
        )),
        comparison: Comparison::AtMost,
        limit: 1_900.0,
    },
    Goal {
        number: "17",
        text: "requests of an open connection under inbound rules, beside none",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("established", "none", "per request"),
            denominator: at("established", "1,000 rules, one inbound", "per request"),
        },
        comparison: Comparison::AtLeast,
        limit: 0.99,
    },
    Goal {
        number: "17",
        text: "bytes of an open connection, the same",
        unit: "",
        measure: Measure::Ratio {
            numerator: at("established", "none", "per KiB"),
            denominator: at("established", "1,000 rules, one inbound", "per KiB"),
        },
        comparison: Comparison::AtLeast,
        limit: 0.99,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::figures;

    fn value(measure: &Measure, rows: &[(&str, &str, &[f64])]) -> Option<f64> {
        measure.value(&figures(rows))
    }

    fn is(actual: Option<f64>, expected: f64) -> bool {
        actual.is_some_and(|actual| (actual - expected).abs() < 1e-12)
    }

    const A: At = at("g", "a", "m");
    const B: At = at("g", "b", "m");
    const BASE: At = at("g", "base", "m");

    const RATIO: Measure = Measure::Ratio {
        numerator: A,
        denominator: B,
    };

    #[test]
    fn a_ratio_is_taken_run_by_run() {
        // Of the medians it would be 20 / 10.
        let a: &[f64] = &[30.0, 20.0, 10.0];
        let b: &[f64] = &[10.0, 20.0, 10.0];
        assert!(is(value(&RATIO, &[("a", "m", a), ("b", "m", b)]), 1.0));
    }

    #[test]
    fn a_ratio_passes_over_runs_that_only_one_has() {
        let a: &[f64] = &[30.0, 20.0, 10.0];
        let b: &[f64] = &[10.0];
        assert!(is(value(&RATIO, &[("a", "m", a), ("b", "m", b)]), 3.0));
    }

    #[test]
    fn a_ratio_to_nothing_is_not_measured() {
        let rows: &[(&str, &str, &[f64])] = &[("a", "m", &[1.0]), ("b", "m", &[0.0])];
        assert_eq!(value(&RATIO, rows), None);
        assert_eq!(value(&RATIO, &[("a", "m", &[1.0])]), None);
    }

    #[test]
    fn differences_are_related_run_by_run() {
        let measure = Measure::DifferenceRatio {
            base: BASE,
            subject: A,
            other: B,
        };
        let rows: &[(&str, &str, &[f64])] = &[
            ("base", "m", &[100.0, 200.0]),
            ("a", "m", &[110.0, 230.0]),
            ("b", "m", &[120.0, 240.0]),
        ];
        assert!(is(value(&measure, rows), 0.625));
    }

    #[test]
    fn the_lesser_of_two_is_that_of_the_run() {
        let measure = Measure::RatioToLesser {
            numerator: BASE,
            others: [A, B],
        };
        let rows: &[(&str, &str, &[f64])] = &[
            ("base", "m", &[10.0, 10.0, 10.0]),
            ("a", "m", &[20.0, 90.0, 50.0]),
            ("b", "m", &[80.0, 40.0, 25.0]),
        ];
        assert!(is(value(&measure, rows), 0.4));
    }

    #[test]
    fn a_value_is_the_median_and_the_worst_is_farthest_from_0() {
        let rows: &[(&str, &str, &[f64])] = &[("a", "m", &[0.0, -3.0, 1.0])];
        assert!(is(value(&Measure::Value(A), rows), 0.0));
        assert!(is(value(&Measure::Worst(A), rows), -3.0));
    }

    #[test]
    fn a_goal_is_met_not_met_or_not_measured() {
        let is_met = |comparison, value| {
            let goal = Goal {
                number: "1",
                text: "x",
                unit: "",
                measure: Measure::Value(A),
                comparison,
                limit: 2.0,
            };
            Judgement { goal: &goal, value }.is_met()
        };
        assert_eq!(is_met(Comparison::AtMost, Some(2.0)), Some(true));
        assert_eq!(is_met(Comparison::AtMost, Some(2.1)), Some(false));
        assert_eq!(is_met(Comparison::AtLeast, Some(2.0)), Some(true));
        assert_eq!(is_met(Comparison::AtLeast, Some(1.9)), Some(false));
        assert_eq!(is_met(Comparison::Exactly, Some(2.0)), Some(true));
        assert_eq!(is_met(Comparison::Exactly, Some(2.5)), Some(false));
        assert_eq!(is_met(Comparison::AtMost, None), None);
    }

    #[test]
    fn without_figures_no_goal_is_measured() {
        for what in [What::Monitor, What::Verdict, What::Scale, What::Top] {
            let judgements = judge(of(what), &Figures::default());
            assert!(judgements.iter().all(|judgement| judgement.value.is_none()));
        }
    }
}
