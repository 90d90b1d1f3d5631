//! Reads a line back into its types: every reader of recordings comes through here.
//!
//! Fields that this version does not know are passed over. Kinds of lines that it does not
//! know are told to the caller, who counts them.

use std::{error::Error, fmt};

use serde::{Deserialize, Deserializer};
use serde_json::de::StrRead;

use crate::events::wire::{
    Line, VERSION,
    words::{
        ConnectionAction, ConnectionDataset, DoorAction, DoorDataset, LossAction, Spelled,
        StartAction, StreamDataset, SummaryAction, Word,
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
pub(crate) fn read(text: &str) -> Result<Read, ReadError> {
    let envelope: Envelope = serde_json::from_str(text)?;
    if let Some(schema) = envelope
        .port_monitor
        .schema
        .filter(|&schema| schema > VERSION)
    {
        return Err(ReadError::Newer(schema));
    }
    let event = &envelope.event;
    let mut document = serde_json::Deserializer::new(StrRead::new(text));
    Ok(match line(event, &mut document)? {
        Some(line) => Read::Line(Box::new(line)),
        None => Read::Unknown(format!("{} {}", event.dataset, event.action)),
    })
}

/// The line, if its kind is known.
fn line<'de, D: Deserializer<'de>>(
    event: &EnvelopeEvent,
    document: D,
) -> Result<Option<Line<'static>>, D::Error> {
    fn is<T: Spelled>(text: &str) -> bool {
        Word::<T>::of(text).known().is_some()
    }
    let EnvelopeEvent { action, dataset } = event;
    let is_stream = is::<StreamDataset>(dataset);
    Ok(Some(if is_stream && is::<StartAction>(action) {
        Line::Start(Deserialize::deserialize(document)?)
    } else if is_stream && is::<LossAction>(action) {
        Line::Loss(Deserialize::deserialize(document)?)
    } else if is_stream && is::<SummaryAction>(action) {
        Line::Summary(Deserialize::deserialize(document)?)
    } else if is::<ConnectionDataset>(dataset) && is::<ConnectionAction>(action) {
        Line::Connection(Deserialize::deserialize(document)?)
    } else if is::<DoorDataset>(dataset) && is::<DoorAction>(action) {
        Line::Door(Deserialize::deserialize(document)?)
    } else {
        return Ok(None);
    }))
}
