//! Reads an exposition, and refuses whatever a strict scraper would.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a sample.
pub(crate) type Labels = BTreeMap<String, String>;

/// An exposition, as it was read.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// The type of each family, by its name as the format has it.
    pub(crate) families: BTreeMap<String, String>,
    /// By name and labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Of `OpenMetrics` 1.0.
    pub(crate) fn open_metrics(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("ends with its end");
        Self::read(body, true)
    }

    /// Of the text format 0.0.4.
    pub(crate) fn text(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.ends_with("# EOF\n"));
        Self::read(text, false)
    }

    fn read(body: &str, is_open: bool) -> Self {
        let mut all = Self::default();
        let mut family = String::new();
        let mut helped = String::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(!help.is_empty() && !help.ends_with('.'), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(name, helped, "{line}");
                let known = ["counter", "gauge", "histogram", "info"];
                assert!(
                    known[..if is_open { 4 } else { 3 }].contains(&kind),
                    "{line}"
                );
                let before = all.families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{line}");
                name.clone_into(&mut family);
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').expect(line);
                assert!(is_open && name == family, "{line}");
                assert!(name.ends_with(&format!("_{unit}")), "{line}");
            } else {
                all.sample(line, &family, is_open);
            }
        }
        all.histograms_add_up();
        all
    }

    fn sample(&mut self, line: &str, family: &str, is_open: bool) {
        let (name, mut labels, value) = parts(line);
        // Each format has its own way to write a number.
        if let Some(bound) = labels.get_mut("le") {
            *bound = bound.parse::<f64>().expect(line).to_string();
        }
        let suffix = name.strip_prefix(family).expect(line);
        let suffixes: &[&str] = match &*self.families[family] {
            "counter" if is_open => &["_total"],
            "counter" => {
                assert!(family.ends_with("_total"), "{line}");
                &[""]
            }
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let is_bucket = suffix == "_bucket";
        assert_eq!(labels.contains_key("le"), is_bucket, "{line}");
        let before = self.samples.insert((name.to_owned(), labels), value);
        assert_eq!(before, None, "twice: {line}");
    }

    /// Buckets rise to the one without a bound, which has all.
    fn histograms_add_up(&self) {
        let mut last: Option<(Labels, f64, f64)> = None;
        let mut seen = BTreeSet::new();
        let buckets = self
            .samples
            .iter()
            .filter(|((name, _), _)| name.ends_with("_bucket"));
        let mut sorted: Vec<_> = buckets
            .map(|((name, labels), count)| {
                let mut rest = labels.clone();
                let bound: f64 = rest.remove("le").unwrap().parse().unwrap();
                (name, rest, bound, *count)
            })
            .collect();
        sorted.sort_by(|one, other| {
            (one.0, &one.1)
                .cmp(&(other.0, &other.1))
                .then(one.2.total_cmp(&other.2))
        });
        for (name, rest, bound, count) in sorted {
            if let Some((before, low, less)) = &last
                && *before == rest
                && seen.contains(name)
            {
                assert!(*low < bound && *less <= count, "{name} {rest:?} {bound}");
            }
            if bound == f64::INFINITY {
                let total = (name.replace("_bucket", "_count"), rest.clone());
                assert_eq!(self.samples[&total], count, "{name} {rest:?}");
            }
            seen.insert(name);
            last = Some((rest, bound, count));
        }
    }

    /// The one sample with these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let owned = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let key = (name.to_owned(), owned.collect());
        *self
            .samples
            .get(&key)
            .unwrap_or_else(|| panic!("no {key:?} in {self:#?}"))
    }

    /// The sum of all samples of that name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.all(name).map(|(_, value)| value).sum()
    }

    /// All samples of that name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        let samples = self.samples.iter();
        let own = samples.filter(move |((own, _), _)| own == name);
        own.map(|((_, labels), value)| (labels, *value))
    }
}

/// A line in parts: name, labels, value.
fn parts(line: &str) -> (&str, Labels, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, behind) = rest.split_once("=\"").expect(line);
            let is_name = key
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
            assert!(is_name && !key.is_empty(), "{line}");
            let (value, behind) = quoted(behind);
            assert_eq!(labels.insert(key.to_owned(), value), None, "{line}");
            if let Some(next) = behind.strip_prefix(',') {
                rest = next;
            } else {
                rest = behind.strip_prefix('}').expect(line);
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    (name, labels, value)
}

/// A value up to its quotation mark, and what is behind that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((place, c)) = chars.next() {
        match c {
            '"' => return (value, &text[place + 1..]),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                other => panic!("{other:?} in {text}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no end: {text}");
}
