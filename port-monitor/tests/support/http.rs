//! Servers of the tests, and what they are asked by HTTP.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use crate::program::PATIENCE;

/// An address of this host at which nobody listens. No connection takes it for its own end:
/// it is below the ports that the kernel chooses from.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(process::id() % 1_000).unwrap() * 10;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What is answered: the status, the headers and the body.
pub(crate) type Answer = (u16, String, String);

/// What is answered to a GET. `None` where nobody listens.
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> Option<Answer> {
    exchange(
        address,
        format!("GET {path} HTTP/1.0\r\n{headers}\r\n").as_bytes(),
    )
}

/// What is answered to a request, which is of HTTP/1.0: no part of the answer comes in chunks.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_owned(), body.to_owned()))
}
