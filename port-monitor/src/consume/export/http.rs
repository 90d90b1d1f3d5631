//! A POST, and what is answered. All of it has its time.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use jiff::{Timestamp, fmt::rfc2822};
use thiserror::Error;
use tokio::{task::AbortHandle, time::timeout};

use super::{
    connect::{self, Stream},
    settings::{Settings, Url},
    tls::{FileError, Tls},
};
use crate::base::sanitize::Escaped;

/// Bytes of an answer. One that is longer was not made by a receiver of rows.
const ANSWER_BYTES: usize = 64 << 10;
/// Bytes of an answer that are told.
const TOLD_BYTES: usize = 300;

/// The longest that a receiver may ask us to stay away.
const LONGEST_ASKED: Duration = Duration::from_hours(1);

/// What is sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Compressed by gzip.
    pub(super) body: Vec<u8>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The first line of it, fit to be told.
    pub(super) fn line(&self) -> String {
        first_line(&self.body)
    }

    /// The receiver has said with it that it does not take the rows, and why.
    pub(super) fn refused(&self, settings: &Settings, line: String) -> PostError {
        PostError::Refused {
            url: settings.url.first.to_string(),
            status: self.status,
            line,
            again_after: self.again_after(),
        }
    }

    /// How long it asks us to stay away, in seconds or until a date.
    fn again_after(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
        let after = if let Ok(seconds) = text.parse() {
            Duration::from_secs(seconds)
        } else {
            let until = rfc2822::parse(text).ok()?.timestamp();
            let after = until.duration_since(Timestamp::now());
            Duration::try_from(after).unwrap_or_default()
        };
        Some(after.min(LONGEST_ASKED))
    }
}

/// Why a request has failed.
#[derive(Debug, Error)]
pub(super) enum PostError {
    /// What we are to be known by is missing.
    #[error("{0}")]
    Secret(String),
    #[error("compress rows: {0}")]
    Io(io::Error),
    #[error("connect to {url}: {error}")]
    Connect { url: String, error: io::Error },
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody else answers, or one who does not know us.
    #[error("{url}: {reason}")]
    Tls { url: String, reason: String },
    #[error("{url} did not answer within {} s", .after.as_secs_f32())]
    Late { url: String, after: Duration },
    #[error("{url}: {error}")]
    Exchange { url: String, error: String },
    /// The receiver does not take the rows.
    #[error("{url} answers {status}{}{line}", if line.is_empty() { "" } else { ": " })]
    Refused {
        url: String,
        status: StatusCode,
        line: String,
        /// How long it wants to be left alone.
        again_after: Option<Duration>,
    },
    /// The receiver does not take the rows, and says so in its own words.
    #[error("{url}: {reason}")]
    Told {
        url: String,
        reason: String,
        wish: Wish,
    },
}

/// What has to be done for a receiver to take what it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The batch as it is, once more.
    Again,
    /// Somebody has to change something.
    Change,
    /// Less at once.
    Less,
}

impl PostError {
    /// It is refused as long as nobody changes something, here or there.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            // It was too slow for it, or came too often.
            Self::Refused { status, .. } => {
                matches!(status.as_u16(), 300..=407 | 409..=428 | 430..=499)
            }
            Self::Told { wish, .. } => matches!(wish, Wish::Change),
            Self::Secret(_) | Self::File(_) | Self::Tls { .. } => true,
            _ => false,
        }
    }

    /// It is refused for what is in the batch, or how much.
    pub(super) const fn is_of_rows(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status.as_u16(), 400 | 413 | 422),
            Self::Told { wish, .. } => matches!(wish, Wish::Less),
            _ => false,
        }
    }

    /// How long the receiver wants to be left alone.
    pub(super) const fn again_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { again_after, .. } => *again_after,
            _ => None,
        }
    }
}

/// Ends what drives a connection.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request, and takes the whole answer.
pub(super) async fn post(settings: &Settings, request: Request) -> Result<Answer, PostError> {
    let (url, limits) = (&settings.url.first, settings.limits);
    let late = |after| PostError::Late {
        url: url.to_string(),
        after,
    };
    let tls = connect::tls(settings, url)?;
    let stream = timeout(limits.connect, connect(url, tls.as_ref()))
        .await
        .map_err(|_| late(limits.connect))??;
    let exchanged = timeout(limits.answer, exchange(url, stream, request))
        .await
        .map_err(|_| late(limits.answer))?;
    connect::explained(exchanged, tls.as_ref())
}

async fn connect(url: &Url, tls: Option<&Tls>) -> Result<Box<dyn Stream>, PostError> {
    let stream = connect::tcp(url).await?;
    match tls {
        Some(tls) => connect::over_tls(url, tls, stream).await,
        None => Ok(Box::new(stream)),
    }
}

async fn exchange(
    url: &Url,
    stream: Box<dyn Stream>,
    request: Request,
) -> Result<Answer, PostError> {
    let failed = |error: &dyn std::error::Error| PostError::Exchange {
        url: url.to_string(),
        error: with_causes(error),
    };
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    // What it fails of, the sender tells.
    let _driver = Driver(tokio::spawn(connection).abort_handle());
    let mut message = hyper::Request::new(Full::new(Bytes::from(request.body)));
    *message.method_mut() = Method::POST;
    let target = request.target.parse();
    *message.uri_mut() = target.map_err(|error: hyper::http::uri::InvalidUri| failed(&error))?;
    let host = HeaderValue::from_str(&url.authority).map_err(|error| failed(&error))?;
    let headers = message.headers_mut();
    headers.insert(header::HOST, host);
    let gzip = HeaderValue::from_static("gzip");
    headers.insert(header::CONTENT_ENCODING, gzip);
    let agent = concat!("port-monitor/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    headers.extend(request.headers);
    let answer = sender.send_request(message).await;
    let (head, body) = answer.map_err(|error| failed(&error))?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| failed(&*error))?.to_bytes();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}

/// What receivers are sent is compressed.
pub(super) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The first line of what was received, fit to be told.
pub(super) fn first_line(bytes: &[u8]) -> String {
    let line = bytes
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.get(..TOLD_BYTES).unwrap_or(line);
    Escaped(line.trim_ascii_end()).to_string()
}

/// An error with what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
