//! A batch of rows as a stream of NATS `JetStream` has it: one message, of JSON lines that are
//! compressed. Its id says which rows it has, so that a repeat is stored once.

mod client;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use self::client::{Client, Message, Reply, told};
use super::{
    Settings,
    http::{self, PostError, Wish},
    lines::Lines,
    receiver::Delivered,
    settings::Url,
};
use crate::consume::history::outbox::Ended;

/// What messages are about if nothing says so.
const SUBJECT: &str = "fleet.connections";

/// An error of `JetStream`: the message is larger than the stream takes.
const TOO_LARGE: u32 = 10_054;

/// Rows that are sent at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lines: Lines,
    /// Of what tells each row apart.
    keys: Sha256,
}

/// What `JetStream` answers.
#[derive(Debug, Deserialize)]
struct Ack {
    #[serde(default)]
    stream: String,
    error: Option<AckError>,
}

#[derive(Debug, Deserialize)]
struct AckError {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl Batch {
    /// Adds a row, if there is room for it. There is for the first one.
    pub(super) fn add(&mut self, row: &Ended) -> bool {
        let has_room = self.lines.add(row);
        if has_room {
            let key = format!(
                "{} {} {} {}\n",
                row.boot_id, row.connection_id, row.time_ns, row.version
            );
            self.keys.update(key);
        }
        has_room
    }

    /// Sends them to the first server that is there.
    pub(super) async fn send(self, settings: &Settings) -> Result<Delivered, PostError> {
        let digest = self.keys.finalize();
        let (id, _) = digest.split_at(16);
        let id = id.iter().fold(0, |id, byte| id << 8 | u128::from(*byte));
        let payload = http::gzip(self.lines.as_bytes()).map_err(PostError::Io)?;
        let message = Message {
            subject: settings.subject.as_deref().unwrap_or(SUBJECT),
            headers: format!(
                "Nats-Msg-Id: {id:032x}\r\nContent-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\n"
            ),
            payload: &payload,
        };
        let mut last = Ok(Delivered::default());
        for url in settings.url.all() {
            match publish(settings, url, &message).await {
                Ok(()) => return Ok(Delivered::default()),
                // Another server of the cluster says the same.
                Err(error) if error.is_of_rows() => return Err(error),
                Err(error) => last = last.and(Err(error)),
            }
        }
        // All of them fail: what the first one says is told.
        last
    }
}

async fn publish(settings: &Settings, url: &Url, message: &Message<'_>) -> Result<(), PostError> {
    let limits = settings.limits;
    let late = |after| PostError::Late {
        url: url.to_string(),
        after,
    };
    let client = timeout(limits.connect, Client::connect(settings, url));
    let mut client = client.await.map_err(|_| late(limits.connect))??;
    let reply = timeout(limits.answer, client.request(message));
    judge(
        url,
        message.subject,
        &reply.await.map_err(|_| late(limits.answer))??,
    )
}

/// What became of a message, by what came back.
fn judge(url: &Url, subject: &str, reply: &Reply) -> Result<(), PostError> {
    if reply.status == Some(503) {
        let reason = format!("no stream takes `{subject}`, or it has no leader right now");
        return Err(told(url, Wish::Change, &reason));
    }
    let strange = || {
        let said = http::first_line(&reply.payload);
        let reason = format!("whoever answers at `{subject}` is no stream of JetStream: {said}");
        told(url, Wish::Change, &reason)
    };
    let ack: Ack = serde_json::from_slice(&reply.payload).map_err(|_| strange())?;
    match ack.error {
        None if !ack.stream.is_empty() => Ok(()),
        None => Err(strange()),
        Some(error) => {
            let wish = match error.code {
                _ if error.err_code == TOO_LARGE => Wish::Less,
                // The stream is full, or not there for a moment.
                500.. => Wish::Again,
                _ => Wish::Change,
            };
            let said = http::first_line(error.description.as_bytes());
            let reason = format!("the stream of `{subject}` does not take it: {said}");
            Err(told(url, wish, &reason))
        }
    }
}
