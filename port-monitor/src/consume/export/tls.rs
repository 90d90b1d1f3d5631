//! TLS to a receiver: who has to vouch for it, and what this host shows of itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, SignatureScheme,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
};
use thiserror::Error as ThisError;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Told where a receiver goes away that has asked for what there is none of.
pub(super) const NO_CERTIFICATE: &str =
    "it asks for a certificate of this host: name one with `certificate-file`";

/// Files with certificates and keys, in PEM. Each is read at every batch, because it may be a
/// new one by then.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Files {
    /// The authorities that may vouch for it, in place of those of the system
    #[arg(long = "export-ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The certificate of this host, and those that vouch for it
    #[arg(long = "export-certificate-file", value_name = "FILE")]
    pub certificate_file: Option<PathBuf>,
    /// The key of that, where it is not in the same file
    #[arg(long = "export-key-file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

impl Files {
    /// The key of the first that is named.
    pub(super) fn first(&self) -> Option<&'static str> {
        let all = [
            ("ca-file", &self.ca_file),
            ("certificate-file", &self.certificate_file),
            ("key-file", &self.key_file),
        ];
        let named = all.into_iter().find(|(_, file)| file.is_some());
        named.map(|(key, _)| key)
    }
}

/// Why a file cannot be used.
#[derive(Debug, ThisError)]
pub(super) enum FileError {
    #[error("read {path}: {error}")]
    Read { path: String, error: io::Error },
    #[error("{path}: no {what} in PEM in it")]
    Lacks { path: String, what: &'static str },
    #[error("{path}: {error}")]
    Unfit { path: String, error: Error },
    #[error("this system has no authorities: name a file of them with `ca-file`")]
    NoAuthorities,
    #[error("TLS: {0}")]
    Tls(Error),
}

/// Why a receiver is not talked to.
pub(super) enum HandshakeError {
    /// One of both does not take the other for who it should be.
    Refused(String),
    /// It went away.
    Io(io::Error),
}

/// TLS to one receiver.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    own: Arc<Own>,
}

impl Tls {
    /// As these files say, to the receiver of that name or address.
    pub(super) fn new(host: &str, files: &Files) -> Result<Self, FileError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        // One that cannot be read vouches for nobody.
        roots.add_parsable_certificates(authorities(files)?);
        let own = files.certificate_file.as_deref().map(|path| {
            let key = files.key_file.as_deref().unwrap_or(path);
            let key = read(key, "key", PrivateKeyDer::from_pem_slice)?;
            let own = CertifiedKey::from_der(certificates(path)?, key, &provider);
            own.map(Arc::new).map_err(|error| FileError::Unfit {
                path: shown(path),
                error,
            })
        });
        let own = Arc::new(Own {
            certificate: own.transpose()?,
            was_asked: AtomicBool::new(false),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(FileError::Tls)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::<Own>::clone(&own));
        let name = ServerName::try_from(host.to_owned());
        Ok(Self {
            connector: Arc::new(config).into(),
            name: name.map_err(|_| FileError::Tls(CertificateError::NotValidForName.into()))?,
            own,
        })
    }

    /// Lets the receiver show who it is.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let connecting = self.connector.connect(self.name.clone(), stream).await;
        connecting.map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            match inner {
                _ if self.lacks_certificate() => {
                    HandshakeError::Refused(format!("{NO_CERTIFICATE}: {error}"))
                }
                Some(error) => HandshakeError::Refused(reason(error)),
                None => HandshakeError::Io(error),
            }
        })
    }

    /// It has asked for a certificate that there is none of.
    pub(super) fn lacks_certificate(&self) -> bool {
        self.own.certificate.is_none() && self.own.was_asked.load(Ordering::Relaxed)
    }
}

/// What this host shows of itself.
#[derive(Debug)]
struct Own {
    certificate: Option<Arc<CertifiedKey>>,
    was_asked: AtomicBool,
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

/// Why a handshake has failed.
fn reason(error: &Error) -> String {
    let error = match error {
        Error::InvalidCertificate(error) => error,
        Error::InvalidMessage(_) => return "it does not speak TLS there".to_owned(),
        error => return error.to_string(),
    };
    match error {
        CertificateError::UnknownIssuer => {
            "no authority that is trusted vouches for its certificate".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name".to_owned()
        }
        error => format!("its certificate: {error}"),
    }
}

fn authorities(files: &Files) -> Result<Vec<CertificateDer<'static>>, FileError> {
    match &files.ca_file {
        Some(path) => certificates(path),
        None => match openssl_probe::probe().cert_file {
            Some(path) => certificates(&path),
            None => Err(FileError::NoAuthorities),
        },
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    read(path, "certificate", |bytes| {
        let all: Vec<_> = CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(rustls::pki_types::pem::Error::NoItemsFound);
        }
        Ok(all)
    })
}

/// What `parse` makes of a file.
fn read<T, E>(
    path: &Path,
    what: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, FileError> {
    let bytes = fs::read(path).map_err(|error| FileError::Read {
        path: shown(path),
        error,
    })?;
    parse(&bytes).map_err(|_| FileError::Lacks {
        path: shown(path),
        what,
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_nothing_fit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let files = Files {
            ca_file: Some(path.clone()),
            ..Files::default()
        };
        let told = || Tls::new("a.example", &files).err().unwrap().to_string();
        assert_eq!(
            told(),
            format!(
                "read {}: No such file or directory (os error 2)",
                path.display()
            )
        );
        for text in ["", "a\n", "-----BEGIN CERTIFICATE-----\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(
                told(),
                format!("{}: no certificate in PEM in it", path.display())
            );
        }
    }

    #[test]
    fn what_needs_https_is_named() {
        let path = || Some(PathBuf::from("/a"));
        let files = Files {
            key_file: path(),
            certificate_file: path(),
            ca_file: None,
        };
        assert_eq!(files.first(), Some("certificate-file"));
        assert_eq!(Files::default().first(), None);
    }
}
