//! Reads a line back into its types: every reader of recordings comes through here.
//!
//! What older versions called otherwise gets its name of today, as `SCHEMA_CHANGES.md` has
//! it. Fields that this version does not know are passed over. Kinds of lines that it does not
//! know are told to the caller, who counts them.

use std::{error::Error, fmt};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::events::wire::{
    Line, VERSION,
    words::{
        ConnectionAction, ConnectionDataset, ListenerAction, ListenerDataset, LossAction,
        LossCause, PolicyAction, Spelled, StartAction, StreamDataset, SummaryAction, Word,
    },
};

/// What a line turned out to be.
#[derive(Debug)]
pub(crate) enum Read {
    /// A line of a kind that this version knows.
    Line(Box<Line<'static>>),
    /// A line of another kind: its dataset and action.
    Unknown(String),
}

/// Why a line cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is no line of ours.
    Invalid(serde_json::Error),
    /// A later version wrote it, to which fields mean something else.
    Newer(u32),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "not a line of `-o json`: {error}"),
            Self::Newer(schema) => write!(
                f,
                "a line of schema {schema}, and this version reads those up to {VERSION}: use \
                 the version that wrote it, or a later one"
            ),
        }
    }
}

impl Error for ReadError {}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(error)
    }
}

/// What must be known of a line before it can be read.
#[derive(Deserialize)]
struct Envelope {
    event: EnvelopeEvent,
    #[serde(default)]
    port_monitor: EnvelopeFacts,
}

#[derive(Deserialize)]
struct EnvelopeEvent {
    action: String,
    dataset: String,
}

#[derive(Default, Deserialize)]
struct EnvelopeFacts {
    schema: Option<u32>,
}

/// Reads a line that this version or an older one wrote.
///
/// An older one becomes text again, so that the types are read in one way only: each way takes
/// as much code as writing all lines.
pub(crate) fn read(text: &str) -> Result<Read, ReadError> {
    let envelope: Envelope = serde_json::from_str(text)?;
    let schema = envelope.port_monitor.schema;
    if let Some(schema) = schema.filter(|&schema| schema > VERSION) {
        return Err(ReadError::Newer(schema));
    }
    if schema == Some(VERSION) {
        return of_today(&envelope.event, text);
    }
    let mut document = serde_json::from_str(text)?;
    from_1(&mut document);
    let text = document.to_string();
    let envelope: Envelope = serde_json::from_str(&text)?;
    of_today(&envelope.event, &text)
}

/// Reads a line that has the names of today.
fn of_today(event: &EnvelopeEvent, text: &str) -> Result<Read, ReadError> {
    Ok(match line(event, text)? {
        Some(line) => Read::Line(Box::new(line)),
        None => Read::Unknown(format!("{} {}", event.dataset, event.action)),
    })
}

/// Gives a line of schema 1 the names of 2. One that was cut down may not say which it is;
/// to one that has the names of 2 already, nothing happens.
fn from_1(document: &mut Value) {
    for (field, old, new) in [
        ("/event/action", "door", ListenerAction::Listener.word()),
        (
            "/event/dataset",
            "port_monitor.door",
            ListenerDataset::Listener.word(),
        ),
    ] {
        if let Some(word) = document.pointer_mut(field)
            && word == old
        {
            *word = new.into();
        }
    }
    let Some(Value::Object(facts)) = document.get_mut("port_monitor") else {
        return;
    };
    if let Some(schema) = facts.get_mut("schema") {
        *schema = VERSION.into();
    }
    let mut lost = Map::new();
    for (old, cause) in [
        ("undecodable", LossCause::Undecodable),
        ("dropped", LossCause::OutputSlow),
    ] {
        if let Some(count) = facts.remove(old) {
            lost.insert(cause.word().into(), count);
        }
    }
    let hooks = facts.get_mut("hooks").and_then(Value::as_object_mut);
    for row in hooks.into_iter().flat_map(Map::values_mut) {
        let Some(row) = row.as_object_mut() else {
            continue;
        };
        for (old, cause) in [
            ("reserve_failed", LossCause::RingFull),
            ("skipped", LossCause::ProgramSkipped),
        ] {
            if let Some(count) = row.remove(old) {
                add(lost.entry(cause.word()).or_insert(Value::from(0)), &count);
                row.insert(cause.word().into(), count);
            }
        }
    }
    if !lost.is_empty() {
        facts.insert("lost_by_cause".into(), lost.into());
    }
}

fn add(sum: &mut Value, count: &Value) {
    if let (Some(one), Some(other)) = (sum.as_u64(), count.as_u64()) {
        *sum = one.saturating_add(other).into();
    }
}

/// The line, if its kind is known.
fn line(event: &EnvelopeEvent, text: &str) -> Result<Option<Line<'static>>, serde_json::Error> {
    fn is<T: Spelled>(text: &str) -> bool {
        Word::<T>::of(text).known().is_some()
    }
    let EnvelopeEvent { action, dataset } = event;
    let document = &mut serde_json::Deserializer::from_str(text);
    let is_stream = is::<StreamDataset>(dataset);
    Ok(Some(if is_stream && is::<StartAction>(action) {
        Line::Start(Deserialize::deserialize(document)?)
    } else if is_stream && is::<PolicyAction>(action) {
        Line::Policy(Deserialize::deserialize(document)?)
    } else if is_stream && is::<LossAction>(action) {
        Line::Loss(Deserialize::deserialize(document)?)
    } else if is_stream && is::<SummaryAction>(action) {
        Line::Summary(Deserialize::deserialize(document)?)
    } else if is::<ConnectionDataset>(dataset) && is::<ConnectionAction>(action) {
        Line::Connection(Deserialize::deserialize(document)?)
    } else if is::<ListenerDataset>(dataset) && is::<ListenerAction>(action) {
        Line::Listener(Deserialize::deserialize(document)?)
    } else {
        return Ok(None);
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use crate::events::{
        compat::{Read, read},
        wire::words::{LossCause, Spelled as _},
    };

    /// A run and an audit, as the version wrote them that had schema 1.
    const SCHEMA_1: &str = include_str!("../../tests/data/schema-1.jsonl");

    /// A run and an audit, as the version wrote them that brought schema 2.
    const SCHEMA_2: &str = include_str!("../../tests/data/schema-2.jsonl");

    fn parsed(text: &str) -> Value {
        let Read::Line(line) = read(text).unwrap() else {
            panic!("unknown: {text}");
        };
        serde_json::to_value(&line).unwrap()
    }

    #[test]
    fn lines_of_schema_1_are_those_of_2_but_for_the_names() {
        let mut kinds = Vec::new();
        for text in SCHEMA_1.lines() {
            let line = parsed(text);
            let renamed = text
                .replace("\"schema\":1,", "\"schema\":2,")
                .replace("\"action\":\"door\"", "\"action\":\"listener\"")
                .replace("port_monitor.door", "port_monitor.listener")
                .replace("reserve_failed", "ring_full")
                .replace("\"skipped\"", "\"program_skipped\"")
                .replace(
                    "\"undecodable\":0,\"dropped\":0",
                    "\"lost_by_cause\":{\"ring_full\":0,\"program_skipped\":0,\"undecodable\":0,\
                     \"output_slow\":0}",
                );
            assert_eq!(line, serde_json::from_str::<Value>(&renamed).unwrap());
            // What has its new names already keeps them.
            assert_eq!(parsed(&renamed), line);
            kinds.push(line["event"]["action"].as_str().unwrap().to_owned());
        }
        for kind in [
            "start", "connect", "failed", "close", "listen", "listener", "summary",
        ] {
            assert!(kinds.iter().any(|known| known == kind), "{kind}: {kinds:?}");
        }
    }

    #[test]
    fn lines_of_schema_2_are_read_as_they_are() {
        let mut count = 0;
        for text in SCHEMA_2.lines() {
            assert_eq!(parsed(text), serde_json::from_str::<Value>(text).unwrap());
            count += 1;
        }
        assert_eq!(count, SCHEMA_1.lines().count());
    }

    #[test]
    fn what_was_lost_is_told_by_cause() {
        let row = |reserve_failed: u64, skipped: u64| {
            json!({"hit": 0, "filtered": 0, "reserve_failed": reserve_failed, "submitted": 0,
                "skipped": skipped, "adds_up": true})
        };
        for schema in [json!({"schema": 1}), json!({})] {
            let mut line = json!({
                "@timestamp": "2026-11-26T11:00:01Z",
                "event": {"action": "summary", "dataset": "port_monitor.stream"},
                "port_monitor": {"lost": 43, "undecodable": 7, "dropped": 5,
                    "hooks": {"accept": row(3, 4), "connect": row(8, 16)}},
            });
            let facts = line["port_monitor"].as_object_mut().unwrap();
            facts.extend(schema.as_object().unwrap().clone());
            let facts = &parsed(&line.to_string())["port_monitor"];
            let causes = json!({"ring_full": 11, "program_skipped": 20, "undecodable": 7,
                "output_slow": 5});
            assert_eq!(facts["lost_by_cause"], causes);
            assert_eq!(facts["hooks"]["connect"]["program_skipped"], 16);
            assert_eq!(facts["hooks"]["accept"]["ring_full"], 3);
            assert_eq!(facts["lost"], 43);
        }
    }

    #[test]
    fn a_summary_has_the_causes_of_the_gaps() {
        let summary = SCHEMA_1.lines().last().unwrap();
        let facts = &parsed(summary)["port_monitor"];
        let causes = facts["lost_by_cause"].as_object().unwrap();
        let mut causes: BTreeSet<&str> = causes.keys().map(String::as_str).collect();
        // It came later.
        assert!(causes.insert(LossCause::OwnerLate.word()));
        let words = LossCause::WORDS.iter().map(|spelling| spelling.word);
        assert_eq!(causes, words.collect());
    }
}
