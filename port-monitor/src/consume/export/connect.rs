//! A connection to a receiver, by TLS where its address says so.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    Settings,
    http::PostError,
    settings::Url,
    tls::{HandshakeError, NO_CERTIFICATE, Tls},
};

/// What everything goes through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What TLS to that address needs, where it is by TLS.
pub(super) fn tls(settings: &Settings, url: &Url) -> Result<Option<Tls>, PostError> {
    let tls = url
        .scheme
        .is_tls()
        .then(|| Tls::new(&url.host, &settings.tls));
    Ok(tls.transpose()?)
}

pub(super) async fn tcp(url: &Url) -> Result<TcpStream, PostError> {
    let connecting = TcpStream::connect((&*url.host, url.port)).await;
    connecting.map_err(|error| PostError::Connect {
        url: url.to_string(),
        error,
    })
}

pub(super) async fn over_tls(
    url: &Url,
    tls: &Tls,
    stream: TcpStream,
) -> Result<Box<dyn Stream>, PostError> {
    match tls.connect(stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(HandshakeError::Refused(reason)) => Err(PostError::Tls {
            url: url.to_string(),
            reason,
        }),
        Err(HandshakeError::Io(error)) => Err(broken(url, &error)),
    }
}

/// A connection that is gone.
pub(super) fn broken(url: &Url, error: &io::Error) -> PostError {
    PostError::Exchange {
        url: url.to_string(),
        error: error.to_string(),
    }
}

/// A receiver that wants a certificate of this host tells that only after its side of the
/// handshake, or not at all.
pub(super) fn explained<T>(
    result: Result<T, PostError>,
    tls: Option<&Tls>,
) -> Result<T, PostError> {
    match (result, tls) {
        (Err(PostError::Exchange { url, error }), Some(tls)) if tls.lacks_certificate() => {
            let reason = format!("{NO_CERTIFICATE}: {error}");
            Err(PostError::Tls { url, reason })
        }
        (result, _) => result,
    }
}
