//! A batch of rows as OTLP/HTTP takes it: log records in Protocol Buffers, compressed, and what
//! is answered to that.

mod protobuf;
mod record;
#[cfg(test)]
mod tests;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};

use self::{
    protobuf::{Message, bytes_in, number_in},
    record::{Any, attribute, record},
};
use super::{
    Settings,
    http::{self, Answer, PostError, Request},
    receiver::Delivered,
    secret,
};
use crate::consume::history::outbox::Ended;

/// Bytes of a message. Receivers take that by default, those by gRPC no more.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of the tag and the length of a message in another one, at most.
const FRAME: usize = 6;

/// Where logs go if the address does not say.
const PATH: &str = "/v1/logs";
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The name of what sends.
const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Rows that are sent at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    hosts: Vec<Host>,
    bytes: usize,
}

/// Rows of a host, which may have had another name before.
#[derive(Debug)]
struct Host {
    name: String,
    /// A `ResourceLogs` without its records.
    resource: Message,
    /// The `ScopeLogs`.
    records: Message,
}

impl Host {
    fn new(name: &str) -> Self {
        let mut resource = Message::default();
        for (key, value) in [
            ("host.name", name),
            ("os.type", "linux"),
            ("service.name", NAME),
            ("service.version", VERSION),
        ] {
            resource.message(1, &attribute(key, &Any::Text(value)));
        }
        let mut outer = Message::default();
        outer.message(1, &resource);
        let mut scope = Message::default();
        scope.text(1, NAME);
        scope.text(2, VERSION);
        let mut records = Message::default();
        records.message(1, &scope);
        Self {
            name: name.to_owned(),
            resource: outer,
            records,
        }
    }

    const fn len(&self) -> usize {
        self.resource.len() + self.records.len() + 2 * FRAME
    }
}

impl Batch {
    /// Adds a row, if there is room for it. There is for the first one.
    pub(super) fn add(&mut self, row: &Ended) -> bool {
        let record = record(row);
        let new = match self.hosts.last() {
            Some(host) if host.name == row.host => None,
            _ => Some(Host::new(&row.host)),
        };
        let bytes = record.len() + FRAME + new.as_ref().map_or(0, Host::len);
        if !self.hosts.is_empty() && self.bytes + bytes > BATCH_BYTES {
            return false;
        }
        self.bytes += bytes;
        self.hosts.extend(new);
        if let Some(host) = self.hosts.last_mut() {
            host.records.message(2, &record);
        }
        true
    }

    /// The message that they are.
    fn into_message(self) -> Vec<u8> {
        let mut message = Message::default();
        for mut host in self.hosts {
            host.resource.message(2, &host.records);
            message.message(1, &host.resource);
        }
        message.into_bytes()
    }

    /// Sends them.
    pub(super) async fn send(self, settings: &Settings) -> Result<Delivered, PostError> {
        let own = settings.url.first.query.as_deref();
        let path = match &*settings.url.first.path {
            "" | "/" => PATH,
            path => path,
        };
        let request = Request {
            target: match own {
                Some(query) => format!("{path}?{query}"),
                None => path.to_owned(),
            },
            headers: headers(settings)?,
            body: http::gzip(&self.into_message()).map_err(PostError::Io)?,
        };
        judge(settings, &http::post(settings, request).await?)
    }
}

/// What the receiver is told of who asks.
fn headers(settings: &Settings) -> Result<Vec<(HeaderName, HeaderValue)>, PostError> {
    let mut headers = vec![(CONTENT_TYPE, PROTOBUF)];
    if let Some(path) = &settings.token_file {
        let token = secret::read(path)?;
        headers.push((AUTHORIZATION, secret::value(path, &[b"Bearer ", &token])?));
    }
    if let (Some(user), Some(path)) = (&settings.user, &settings.password_file) {
        let encoded = secret::basic(user, &secret::read(path)?);
        headers.push((
            AUTHORIZATION,
            secret::value(path, &[b"Basic ", encoded.as_bytes()])?,
        ));
    }
    if let Some(path) = &settings.headers_file {
        headers.extend(secret::headers(path)?);
    }
    Ok(headers)
}

/// What became of a batch, by what is answered.
fn judge(settings: &Settings, answer: &Answer) -> Result<Delivered, PostError> {
    let kind = answer.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let message = match kind {
        Some(kind) if kind.starts_with(PROTOBUF.as_bytes()) => Some(&*answer.body),
        _ => None,
    };
    if !answer.status.is_success() {
        // A `Status` of `google.rpc`, or what somebody else says who answers.
        let line = match message {
            Some(status) => http::first_line(bytes_in(status, 2).unwrap_or_default()),
            None => answer.line(),
        };
        return Err(answer.refused(settings, line));
    }
    // `partial_success` of `ExportLogsServiceResponse`.
    let partial = bytes_in(message.unwrap_or_default(), 1).unwrap_or_default();
    let rejected = number_in(partial, 1).unwrap_or_default().cast_signed();
    let told = http::first_line(bytes_in(partial, 2).unwrap_or_default());
    Ok(Delivered {
        rejected: rejected.max(0).unsigned_abs(),
        told: (!told.is_empty()).then_some(told),
    })
}
