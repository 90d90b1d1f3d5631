//! A receiver of exports that is made by the test.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use flate2::read::GzDecoder;

use crate::http::free_address;

/// A receiver that takes everything. It gives every row, until nobody listens to it
/// any more.
pub(crate) fn receiver() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind(free_address()).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            for row in rows(&mut reader).unwrap() {
                if sender.send(row).is_err() {
                    return;
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            reader.into_inner().write_all(answer).unwrap();
        }
    });
    (address, received)
}

/// The rows of a batch that is sent, or why it was not sent to its end.
pub(crate) fn rows(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(said) = line.strip_prefix("content-length: ") {
            length = said.trim_end().parse().unwrap();
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let rows = BufReader::new(GzDecoder::new(reader.take(length)));
    rows.lines().collect()
}
