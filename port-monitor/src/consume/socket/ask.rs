//! Asking another run how it stands, or for its events.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::net::{
    self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{
    EVENTS, STATUS, Welcome,
    report::{Refusal, Report},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer: more is none.
const ANSWER_BYTES: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// No run is there to be asked.
    #[error("nobody answers there: is the service running, and has it a [socket]?")]
    Nobody,
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not do that, or not now.
    #[error("it refuses: {0}")]
    Refused(String),
    /// Whoever answers is something else, or another version.
    #[error("not the answer of a port-monitor: {0}")]
    Strange(String),
}

/// A connection to the socket of this name, at which nothing is waited for longer than
/// [`PATIENCE`], not even that somebody lets it in.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let kind = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None)?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Asks at the socket of this name how the run stands.
pub fn ask(path: &Path) -> Result<Report, AskError> {
    let stream = request(path, STATUS)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    read(&answer)
}

/// Asks at the socket of this name for its events. The lines that follow come by the stream that
/// is returned, from which some may have been read already.
pub fn attend(path: &Path) -> Result<(Welcome, Vec<u8>, UnixStream), AskError> {
    let mut stream = BufReader::new(request(path, EVENTS)?.take(ANSWER_BYTES));
    let mut answer = Vec::new();
    stream.read_until(b'\n', &mut answer)?;
    let welcome = read(&answer)?;
    let early = stream.buffer().to_vec();
    let stream = stream.into_inner().into_inner();
    Ok((welcome, early, stream))
}

fn request(path: &Path, request: &str) -> Result<UnixStream, AskError> {
    let mut stream = connect(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::Nobody,
        _ => AskError::Io(error),
    })?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    Ok(stream)
}

/// An answer, which may be a refusal.
fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, AskError> {
    if let Ok(Refusal { error }) = serde_json::from_slice(answer) {
        return Err(AskError::Refused(error));
    }
    serde_json::from_slice(answer).map_err(|error| AskError::Strange(error.to_string()))
}
