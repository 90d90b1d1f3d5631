//! Every line that is written can be read back into its types, and says the same from there.

use std::{collections::BTreeSet, time::Duration};

use port_monitor_common::site::Site;
use proptest::{
    collection::vec, option, prelude::*, strategy::ValueTree as _, test_runner::TestRunner,
};
use serde_json::Value;

use crate::{
    consume::{
        lines::{json::*, sample},
        listeners::{Listed, ListenerSink, Listing, Tally, uses::Selection},
    },
    events::{
        compat::{Read, read},
        decode::Action,
        record::{Account, Failed, LossCause, Record},
        wire::{schema, words::Spelled as _},
    },
};

/// The start of a stream, its gaps, its events and its end, and the listeners of an audit of
/// the same events.
#[derive(Debug)]
struct Stream {
    header: Header,
    records: Vec<Record>,
    losses: Vec<Loss>,
    summary: Summary,
}

prop_compose! {
    fn stream()(
        texts in vec(any::text(), 6),
        sentences in vec(vec(any::text(), 0..3), 3),
        policy in option::of(any::text()),
        records in any::records(),
        counts in proptest::array::uniform8(any::<u64>()),
        command_status in option::of(any::<i32>()),
        errno in any::<u32>(),
        (has_failed, cause) in (any::<bool>(), 0..LossCause::WORDS.len()),
    ) -> Stream {
        let text = |at: usize| texts[at].clone();
        let sample = sample::summary();
        let error = has_failed.then(|| text(2));
        let account = Account { delivered: counts[6], taken: counts[7], error, ..Account::default() };
        let failed = Failed { site: Site::ALL[0], errno, count: counts[0] >> 8 };
        let loss = Loss {
            wall_ns: 1,
            lost: counts[1],
            total: counts[2],
            cause: LossCause::WORDS[cause].value,
        };
        Stream {
            header: Header {
                host: text(0),
                kernel: text(1),
                boot_id: text(2),
                blind_spots: sentences[0].clone(),
                unproven: sentences[1].clone(),
                waiting: sentences[2].clone(),
                policy,
                ..sample::header()
            },
            records,
            losses: vec![loss],
            summary: Summary {
                command_status,
                received: counts[3],
                violations: counts[4],
                duration: Duration::from_nanos(counts[5]),
                failures: has_failed.then_some(failed).into_iter().collect(),
                consumers: vec![("output", account)],
                ..sample
            },
        }
    }
}

impl Stream {
    fn lines(&self) -> Vec<String> {
        let mut lines = self.written(&mut Json::new(), &self.records);
        let mut audit = ListenerSink::json(Listing {
            selection: Selection::default(),
            listed: Listed::Used,
            with_closed: true,
            watch: Some(Duration::from_mins(1)),
            violations: Tally::default(),
            forgotten: Tally::default(),
        });
        lines.extend(self.written(&mut audit, &self.listeners()));
        lines
    }

    fn written(&self, sink: &mut dyn Sink, records: &[Record]) -> Vec<String> {
        let mut out = Lines::default();
        sink.write(&mut out, Item::Header(&self.header));
        sink.write(&mut out, Item::Policy(&self.header));
        for loss in &self.losses {
            sink.write(&mut out, Item::Loss(loss));
        }
        for record in records {
            sink.write(&mut out, Item::Event(record));
        }
        sink.write(&mut out, Item::Summary(&self.summary));
        let text = String::from_utf8(out.bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Listeners with the facts of the records: each has a client, and every other one closes.
    fn listeners(&self) -> Vec<Record> {
        let mut listeners = Vec::new();
        for (id, record) in (1..).zip(&self.records) {
            let mut opens = record.clone();
            opens.event.action = Action::Listen;
            opens.event.id = id;
            opens.event.ts_ns = self.header.boot_ns + id * 10;
            let mut accepts = opens.clone();
            accepts.event.action = Action::Accept;
            accepts.event.id += 1_000;
            accepts.event.ts_ns += 1;
            let mut closes = opens.clone();
            closes.event.action = Action::Unlisten;
            closes.event.ts_ns += 2;
            listeners.extend([opens, accepts]);
            listeners.extend((id % 2 == 0).then_some(closes));
        }
        listeners
    }
}

fn serialized(line: &Line<'_>) -> String {
    let mut out = Vec::new();
    line::serialize(&mut out, line);
    String::from_utf8(out).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_line_that_is_read_back_is_the_same_line(stream in stream()) {
        for text in stream.lines() {
            let Read::Line(line) = read(&text).unwrap() else {
                panic!("unknown: {text}");
            };
            prop_assert_eq!(serialized(&line), text);
        }
    }
}

/// The fields of a kind of line, by the kind's name in the schema.
type Fields = BTreeSet<String>;

fn fields_of_schema(root: &Value, schema: &Value, path: &str, fields: &mut Fields) {
    if schema.is_null() {
        return;
    }
    if let Some(pointer) = schema["$ref"].as_str() {
        let target = root.pointer(pointer.strip_prefix('#').unwrap()).unwrap();
        fields_of_schema(root, target, path, fields);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        fields.insert(path.clone());
        fields_of_schema(root, field, &path, fields);
    }
    for items in [&schema["items"], &schema["prefixItems"][0]] {
        fields_of_schema(root, items, path, fields);
    }
    if schema["additionalProperties"].is_object() {
        let path = format!("{path}/*");
        fields_of_schema(root, &schema["additionalProperties"], &path, fields);
    }
}

/// Objects whose members are named by what they are about.
const MAPS: [&str; 3] = [
    "/port_monitor/hooks",
    "/port_monitor/consumers",
    "/port_monitor/audit/open",
];

fn fields_of_line(value: &Value, path: &str, fields: &mut Fields) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let is_map = MAPS.contains(&path);
                let name = if is_map { "*" } else { name };
                let path = format!("{path}/{name}");
                if !is_map {
                    fields.insert(path.clone());
                }
                fields_of_line(value, &path, fields);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| fields_of_line(item, path, fields)),
        _ => {}
    }
}

/// What kind of line it is, as the schema names it.
fn kind(line: &Line<'_>) -> &'static str {
    match line {
        Line::Start(_) => "Start",
        Line::Connection(_) => "Connection",
        Line::Listener(_) => "ListenerLine",
        Line::Policy(_) => "PolicyLine",
        Line::Loss(_) => "LossLine",
        Line::Summary(_) => "SummaryLine",
    }
}

/// What lines share the types of with others, but never have in a stream.
const NEVER: [&str; 12] = [
    // Only in alerts.
    "Connection /port_monitor/alert",
    "Connection /port_monitor/alert/kind",
    "Connection /port_monitor/alert/priority",
    "Connection /port_monitor/alert/suppressed",
    // Only in lines of a history.
    "Connection /port_monitor/connection_state",
    "ListenerLine /destination/bytes",
    "ListenerLine /network/community_id",
    "ListenerLine /port_monitor/missing/source.port",
    "LossLine /port_monitor/alert",
    "LossLine /port_monitor/alert/kind",
    "LossLine /port_monitor/alert/priority",
    "LossLine /port_monitor/alert/suppressed",
];

/// A field that no random line ever has would be one that no test compares.
#[test]
fn random_lines_have_every_field_of_the_schema_and_no_other() {
    let mut produced: BTreeSet<(String, String)> = BTreeSet::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..24 {
        let stream = stream().new_tree(&mut runner).unwrap().current();
        for text in stream.lines() {
            let Read::Line(line) = read(&text).unwrap() else {
                panic!("unknown: {text}");
            };
            let mut fields = Fields::new();
            fields_of_line(&serde_json::from_str(&text).unwrap(), "", &mut fields);
            produced.extend(fields.into_iter().map(|field| (kind(&line).into(), field)));
        }
    }
    let root = schema::published();
    let mut published: BTreeSet<(String, String)> = BTreeSet::new();
    for name in [
        "Start",
        "Connection",
        "ListenerLine",
        "PolicyLine",
        "LossLine",
        "SummaryLine",
    ] {
        let mut fields = Fields::new();
        fields_of_schema(&root, &root["$defs"][name], "", &mut fields);
        assert!(fields.len() > 5, "{name}: {fields:?}");
        published.extend(fields.into_iter().map(|field| (name.into(), field)));
    }
    let pair = |(kind, field): &(String, String)| format!("{kind} {field}");
    let never: Vec<_> = published.difference(&produced).map(pair).collect();
    let unpublished: Vec<_> = produced.difference(&published).map(pair).collect();
    assert_eq!((never, unpublished), (NEVER.map(Into::into).into(), vec![]));
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let record = sample::closed();
    let mut written = Lines::default();
    Json::new().write(&mut written, Item::Event(&record));
    let text = String::from_utf8(written.bytes).unwrap();
    let parsed = |text: &str| match read(text).unwrap() {
        Read::Line(line) => serialized(&line),
        Read::Unknown(kind) => kind,
    };
    let was = parsed(&text);
    let with_field = text.replacen("\"cpu\":", "\"new\":{\"a\":[1]},\"cpu\":", 1);
    assert_ne!(with_field, text);
    assert_eq!(parsed(&with_field), was);
    let with_word = text.replacen("\"closed_by\":\"local\"", "\"closed_by\":\"moon\"", 1);
    assert_ne!(with_word, text);
    assert!(parsed(&with_word).contains("\"closed_by\":\"moon\""));
    let with_action = text.replacen("\"action\":\"close\"", "\"action\":\"sleep\"", 1);
    assert_eq!(parsed(&with_action), "port_monitor.connection sleep");
    let with_dataset = text.replacen("port_monitor.connection\"", "port_monitor.dns\"", 1);
    assert_eq!(parsed(&with_dataset), "port_monitor.dns close");
}

#[test]
fn what_is_no_line_and_what_is_too_new_is_refused() {
    for (text, refusal) in [
        ("", "not a line of `-o json`: EOF while parsing"),
        ("{}", "not a line of `-o json`: missing field `event`"),
        ("{} {}", "not a line of `-o json`: missing field `event`"),
        (
            "{\"event\":{\"action\":\"close\",\"dataset\":\"x\"},\"port_monitor\":{\"schema\":99}}",
            "a line of schema 99, and this version reads those up to",
        ),
        (
            "{\"@timestamp\":\"2026-11-26T10:00:01Z\",\"event\":{\"action\":\"connect\",\
             \"dataset\":\"port_monitor.connection\"},\"port_monitor\":{\"id\":\"1\"}}",
            "not a line of `-o json`: missing field `network`",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with(refusal), "{error}");
    }
}
