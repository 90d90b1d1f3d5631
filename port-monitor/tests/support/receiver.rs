//! A receiver of exports that is made by the test.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    iter,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use flate2::read::GzDecoder;

use crate::http::free_address;

/// A receiver that takes everything. It gives every row, until nobody listens to it
/// any more.
pub(crate) fn receiver() -> (SocketAddr, mpsc::Receiver<String>) {
    receiver_of(lines)
}

/// One that gives everything that `parse` makes of a batch.
pub(crate) fn receiver_of<T: Send + 'static>(
    parse: fn(&[u8]) -> Vec<T>,
) -> (SocketAddr, mpsc::Receiver<T>) {
    // Another test on this host may have taken it since.
    let listener = iter::repeat_with(|| TcpListener::bind(free_address()));
    let listener = listener.flatten().next().unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            for row in parse(&batch(&mut reader).unwrap()) {
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
    Ok(lines(&batch(reader)?))
}

fn lines(batch: &[u8]) -> Vec<String> {
    let text = str::from_utf8(batch).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn batch(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
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
    let mut batch = Vec::new();
    GzDecoder::new(reader.take(length)).read_to_end(&mut batch)?;
    Ok(batch)
}
