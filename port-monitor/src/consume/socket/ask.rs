//! Asking another run how it stands.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::net::{
    self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use thiserror::Error;

use super::{
    STATUS,
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
    let mut stream = connect(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::Nobody,
        _ => AskError::Io(error),
    })?;
    stream.write_all(format!("{STATUS}\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(|error| {
        match serde_json::from_slice::<Refusal>(&answer) {
            Ok(refusal) => AskError::Strange(refusal.error),
            Err(_) => AskError::Strange(error.to_string()),
        }
    })
}
