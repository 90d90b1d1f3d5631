//! The address where metrics are scraped.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::{self, SocketAddr},
    sync::Arc,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::{Shared, exposition::Format, negotiate};
use crate::consume::endpoint::Endpoint;

/// The only path that there is.
const PATH: &str = "/metrics";

/// A request has to be there after so long.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Bytes of a request, with its headers.
const REQUEST_BYTES: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;

/// Listens at `address`, and answers from now on.
pub(super) fn open(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Endpoint> {
    scraped(net::TcpListener::bind(address)?, shared)
}

fn scraped(listener: net::TcpListener, shared: Arc<Shared>) -> io::Result<Endpoint> {
    listener.set_nonblocking(true)?;
    Endpoint::start(
        "metrics-http",
        || TcpListener::from_std(listener),
        move |stream| {
            let shared = Arc::clone(&shared);
            async {
                // One that fails is the scraper's to tell of.
                let _ = connection(stream, shared).await;
            }
        },
    )
}

/// Answers the one request of a connection.
async fn connection(stream: TcpStream, shared: Arc<Shared>) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(
            request.method(),
            request.uri().path(),
            request.headers(),
            &shared,
        );
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(REQUEST_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    shared: &Shared,
) -> Response<Full<Bytes>> {
    if path != PATH {
        return refuse(StatusCode::NOT_FOUND, "not here: metrics are at /metrics\n");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET or HEAD, nothing else\n",
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let format = negotiate::format(&all(headers, header::ACCEPT));
    let Ok(text) = shared.text(format) else {
        return refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be written\n",
        );
    };
    let text = text.into_bytes();
    let takes_gzip = negotiate::takes_gzip(&all(headers, header::ACCEPT_ENCODING));
    let (body, encoding) = match takes_gzip.then(|| gzip(&text)) {
        Some(Ok(zipped)) => (zipped, Some("gzip")),
        _ => (text, None),
    };
    let mut response = whole(body, format.content_type());
    let headers = response.headers_mut();
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    let vary = HeaderValue::from_static("Accept, Accept-Encoding");
    headers.insert(header::VARY, vary);
    response
}

fn refuse(status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
    let mut response = whole(why.into(), Format::Text.content_type());
    *response.status_mut() = status;
    response
}

fn whole(body: Vec<u8>, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// All values of a header, as if they were one.
fn all(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).into_iter();
    let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

#[cfg(test)]
mod tests;
