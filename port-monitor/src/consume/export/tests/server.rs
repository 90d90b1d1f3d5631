//! A real HTTP server that answers as it is told, or does not.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use flate2::read::GzDecoder;

/// What a server does with a connection.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// It answers this.
    Says(String),
    /// It answers this, with a message of Protocol Buffers.
    SaysMessage(&'static str, Vec<u8>),
    /// It answers 200 where this is so of what it got, otherwise this.
    TakesOnly(fn(&[u8]) -> bool, &'static str),
    /// It reads the request, and is silent.
    Nothing,
    /// It reads nothing, and goes away.
    Closes,
}

/// An answer of this status, headers and text.
pub(super) fn says(status: &str, headers: &str, text: &str) -> Answer {
    let length = text.len();
    Answer::Says(format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{text}"
    ))
}

pub(super) fn ok() -> Answer {
    says("200 OK", "", "")
}

/// A request.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) head: String,
    /// As it was before it was compressed.
    pub(super) body: Vec<u8>,
}

impl Got {
    /// Whether it has that header.
    pub(super) fn has(&self, line: &str) -> bool {
        self.head.lines().any(|it| it == line)
    }
}

/// A server that treats one connection after the other as it is told. The requests that it
/// read come out of the channel.
pub(super) fn serve(
    answers: impl IntoIterator<Item = Answer, IntoIter: Send + 'static>,
) -> (SocketAddr, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, received) = channel();
    let answers = answers.into_iter();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            if let Answer::Closes = answer {
                continue;
            }
            let got = read(&mut stream);
            let bytes = match answer {
                Answer::Says(text) => text.into_bytes(),
                Answer::SaysMessage(status, body) => message(status, &body),
                Answer::TakesOnly(takes, otherwise) => {
                    let status = if takes(&got.body) {
                        "200 OK"
                    } else {
                        otherwise
                    };
                    message(status, &[])
                }
                Answer::Nothing | Answer::Closes => Vec::new(),
            };
            // Whoever asks may have had enough of the test.
            let _ = requests.send(got);
            if bytes.is_empty() {
                silent.push(stream);
            } else {
                stream.write_all(&bytes).unwrap();
            }
        }
        // Those that are silent are so until nobody waits for more.
        let _ = listener.accept();
    });
    (address, received)
}

fn message(status: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn read(stream: &mut TcpStream) -> Got {
    let mut bytes = Vec::new();
    let end = loop {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "no whole request");
        bytes.extend(&some[..count]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut compressed = bytes.split_off(end + 4);
    let have = compressed.len();
    compressed.resize(length.parse().unwrap(), 0);
    stream.read_exact(&mut compressed[have..]).unwrap();
    let mut body = Vec::new();
    GzDecoder::new(&*compressed).read_to_end(&mut body).unwrap();
    Got { head, body }
}
