//! The address where metrics are scraped. Whoever asks there, and however slowly, holds up
//! nobody: there are few connections at a time, none of them for long, on a thread of their own.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::{self, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
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
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{Shared, exposition::Format, negotiate};

/// The only path that there is.
const PATH: &str = "/metrics";

/// Connections at a time. More wait in the kernel until one of them is over.
const CONNECTIONS: usize = 16;
/// A request has to be there after so long.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// A connection is over after so long, whatever it waits for.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request, with its headers.
const REQUEST_BYTES: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long nobody is let in where that has failed: there are no more files to be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// An endpoint. It closes when it is dropped.
#[derive(Debug)]
pub(super) struct Endpoint {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens at `address`, and answers from now on.
    pub(super) fn open(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = net::TcpListener::bind(address)?;
        Self::answer(listener, shared)
    }

    fn answer(listener: net::TcpListener, shared: Arc<Shared>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("metrics-http".to_owned())
            .spawn(move || run(&runtime, listener, shared, stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Endpoint {
    /// Whoever listens at the same address next finds it free.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is out already.
            let _ = thread.join();
        }
    }
}

/// Answers until it is stopped, which its sender tells by its end.
fn run(
    runtime: &Runtime,
    listener: TcpListener,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::select! {
            _ = stopped => {}
            () = accept(listener, shared) => {}
        }
    });
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // It fails when it is closed, which nobody does.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // One that fails, or takes too long, is the scraper's to tell of.
            let _ = timeout(CONNECTION_TIME, connection(stream, shared)).await;
            drop(place);
        });
    }
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
