//! What is asked for is given, what is not is refused, and nobody waits for who is slow.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Instant,
};

use flate2::read::GzDecoder;

use crate::consume::{endpoint::CONNECTIONS, metrics::endpoint::*};

const PATIENCE: Duration = Duration::from_mins(1);

/// An endpoint, and where it is.
fn started() -> (Endpoint, SocketAddr) {
    let listener = net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (scraped(listener, Arc::default()).unwrap(), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The head and the body of what is answered to these bytes, until the connection ends.
fn ask(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap()
        + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap().to_lowercase(), body)
}

fn get(address: SocketAddr, headers: &str) -> (String, Vec<u8>) {
    ask(
        address,
        &format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{headers}\r\n"),
    )
}

#[test]
fn metrics_are_given_in_the_format_and_the_encoding_that_is_asked_for() {
    let (_endpoint, address) = started();
    let (head, body) = get(
        address,
        "Accept: application/openmetrics-text;version=1.0.0\r\n",
    );
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    let kind = "\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(kind), "{head}");
    assert!(
        head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())),
        "{head}"
    );
    assert!(body.ends_with(b"\n# EOF\n"));
    let (head, text) = get(address, "");
    assert!(
        head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(text.ends_with(b"\n") && !text.ends_with(b"# EOF\n"));
    // A header may be there in several lines.
    let (head, zipped) = get(address, "Accept-Encoding: br\r\nAccept-Encoding: gzip\r\n");
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
    assert!(
        head.contains("\r\nvary: accept, accept-encoding\r\n"),
        "{head}"
    );
    let mut unzipped = Vec::new();
    GzDecoder::new(&*zipped).read_to_end(&mut unzipped).unwrap();
    assert_eq!(unzipped, text);
    assert!(zipped.len() < text.len() / 2);
    let (head, body) = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        head.starts_with("http/1.1 200 ok\r\n") && body.is_empty(),
        "{head}"
    );
    assert!(
        head.contains(&format!("\r\ncontent-length: {}\r\n", text.len())),
        "{head}"
    );
    let (head, body) = ask(address, "GET /metrics?a=b HTTP/1.0\r\n\r\n");
    assert!(head.contains(" 200 ok\r\n") && body == text, "{head}");
}

#[test]
fn whatever_else_is_asked_for_is_refused() {
    let (_endpoint, address) = started();
    for path in ["/", "/metric", "/metrics/", "/favicon.ico"] {
        let (head, body) = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(
            head.starts_with("http/1.1 404 not found\r\n"),
            "{path}: {head}"
        );
        assert_eq!(body, b"not here: metrics are at /metrics\n");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let (head, _) = ask(address, &request);
        assert!(
            head.starts_with("http/1.1 405 method not allowed\r\n"),
            "{method}: {head}"
        );
        assert!(head.contains("\r\nallow: get, head\r\n"), "{head}");
    }
    let (head, _) = ask(address, "GARBAGE\r\n\r\n");
    assert!(head.starts_with("http/1.1 400 bad request\r\n"), "{head}");
    let long = format!("Cookie: {}\r\n", "x".repeat(REQUEST_BYTES));
    let (head, _) = get(address, &long);
    assert!(head.starts_with("http/1.1 431 "), "{head}");
    let many = "X: 1\r\n".repeat(HEADERS + 1);
    let (head, _) = get(address, &many);
    assert!(head.starts_with("http/1.1 431 "), "{head}");
}

/// All places are taken by those that ask for nothing, or take nothing: when they have had
/// their time, the next one is answered.
#[test]
fn scrapers_that_hang_are_let_go_of() {
    let (_endpoint, address) = started();
    let begun = Instant::now();
    let mut hanging: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    for (number, stream) in hanging.iter_mut().enumerate() {
        if number % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
        }
    }
    let (head, _) = get(address, "");
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    let waited = begun.elapsed();
    // Headers are waited for as long as that, and nobody is for a minute.
    assert!((HEADER_TIME..PATIENCE / 3).contains(&waited), "{waited:?}");
}

#[test]
fn an_endpoint_that_was_dropped_leaves_its_address_to_the_next_one() {
    let (endpoint, address) = started();
    let error = open(address, Arc::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    // Its connections are closed with it.
    let mut waiting = connect(address);
    drop(endpoint);
    assert_eq!(waiting.read(&mut [0]).unwrap_or(0), 0);
    let _next = open(address, Arc::default()).unwrap();
    assert!(get(address, "").0.starts_with("http/1.1 200 ok\r\n"));
}
