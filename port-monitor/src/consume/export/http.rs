//! A POST, and what is answered. All of it has its time.

use std::{io, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::timeout,
};

use super::{
    settings::{Settings, Url},
    tls::{FileError, HandshakeError, NO_CERTIFICATE, Tls},
};
use crate::base::sanitize::Escaped;

/// Bytes of an answer. One that is longer was not made by a receiver of rows.
const ANSWER_BYTES: usize = 64 << 10;
/// Bytes of an answer that are told.
const TOLD_BYTES: usize = 300;

/// Set where something went wrong after the status was sent.
const EXCEPTION: &str = "x-clickhouse-exception-code";

/// What is sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Compressed by gzip.
    pub(super) body: Vec<u8>,
}

/// Why a request has failed.
#[derive(Debug, Error)]
pub(super) enum PostError {
    /// It cannot be made.
    #[error("{0}")]
    Password(String),
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
    #[error("{url} answers {status}: {line}")]
    Refused {
        url: String,
        status: StatusCode,
        line: String,
    },
}

impl PostError {
    /// It is refused as long as nobody changes something, here or there.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status.as_u16(), 300..=499),
            Self::Password(_) | Self::File(_) | Self::Tls { .. } => true,
            _ => false,
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

/// What a request goes through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Sends a request. It has succeeded only where the whole answer says so.
pub(super) async fn post(settings: &Settings, request: Request) -> Result<(), PostError> {
    let Settings { url, limits, .. } = settings;
    let late = |after| PostError::Late {
        url: url.to_string(),
        after,
    };
    let tls = if url.is_https {
        Some(Tls::new(&url.host, &settings.tls)?)
    } else {
        None
    };
    let stream = timeout(limits.connect, connect(url, tls.as_ref()))
        .await
        .map_err(|_| late(limits.connect))??;
    let exchanged = timeout(limits.answer, exchange(url, stream, request))
        .await
        .map_err(|_| late(limits.answer))?;
    match (exchanged, tls) {
        // It tells that only after its side of the handshake, or not at all.
        (Err(PostError::Exchange { url, error }), Some(tls)) if tls.lacks_certificate() => {
            let reason = format!("{NO_CERTIFICATE}: {error}");
            Err(PostError::Tls { url, reason })
        }
        (exchanged, _) => exchanged,
    }
}

async fn connect(url: &Url, tls: Option<&Tls>) -> Result<Box<dyn Stream>, PostError> {
    let connecting = TcpStream::connect((&*url.host, url.port)).await;
    let stream = connecting.map_err(|error| PostError::Connect {
        url: url.to_string(),
        error,
    })?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let url = || url.to_string();
    match tls.connect(stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(HandshakeError::Refused(reason)) => Err(PostError::Tls { url: url(), reason }),
        Err(HandshakeError::Io(error)) => Err(PostError::Exchange {
            url: url(),
            error: error.to_string(),
        }),
    }
}

async fn exchange(url: &Url, stream: Box<dyn Stream>, request: Request) -> Result<(), PostError> {
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
    let answer = answer.map_err(|error| failed(&error))?;
    let (status, has_failed) = (answer.status(), answer.headers().contains_key(EXCEPTION));
    let line = first_line(answer.into_body())
        .await
        .map_err(|error| failed(&*error))?;
    if status.is_success() && !has_failed {
        return Ok(());
    }
    Err(PostError::Refused {
        url: url.to_string(),
        status,
        line,
    })
}

/// The first line of a whole answer, fit to be told.
async fn first_line(body: Incoming) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
    let line = body.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.get(..TOLD_BYTES).unwrap_or(line);
    Ok(Escaped(line).to_string())
}

/// An error with what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
