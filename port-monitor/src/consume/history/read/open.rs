//! How a history is opened for reading, and what can be wrong with it.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, absolute},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{StatVfsMountFlags, statvfs};
use thiserror::Error;

use super::Reader;
use crate::consume::history::store::{self, MAGIC, OpenError, shown};

/// Why a history cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error(
        "{0}: no such file: `port-monitor --history FILE` writes a history, as does the service \
         with [history]; name it by --file"
    )]
    NoFile(String),
    /// The reader may not.
    #[error("{0}: permission denied: a history is its owner's, so read it as that user or as root")]
    Denied(String),
    /// The system refused.
    #[error("open {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It is something else.
    #[error("{0}: not a history of port-monitor")]
    NotAHistory(String),
    /// Nobody has written to it.
    #[error("{0}: empty: nothing has been written to it yet")]
    Empty(String),
    /// A later version wrote it.
    #[error("{0}")]
    Newer(OpenError),
    /// What belongs to it cannot be read or made.
    #[error(
        "{path}: cannot be read where nothing may be written beside it ({error}): copy it by \
         `sqlite3 FILE \".backup COPY\"` where it is written, or FILE and FILE-wal to a directory \
         of your own"
    )]
    Alone {
        /// The file.
        path: String,
        /// What SQLite says.
        error: rusqlite::Error,
    },
    /// Somebody holds it.
    #[error("{0}: somebody else has locked it: try again")]
    Locked(String),
    /// It is damaged.
    #[error(
        "{path}: damaged ({error}): `sqlite3 FILE .recover` may save some of it; port-monitor \
         moves it aside when it writes"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What SQLite says.
        error: rusqlite::Error,
    },
    /// SQLite refused.
    #[error("read {path}: {error}")]
    Sql {
        /// The file.
        path: String,
        /// Why.
        error: rusqlite::Error,
    },
}

impl ReadError {
    /// What SQLite says of the history at `path`.
    pub(super) fn of(path: &str, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => Self::Alone { path, error },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked(path),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, error }
            }
            _ => Self::Sql { path, error },
        }
    }

    fn of_opening(error: OpenError) -> Self {
        match error {
            OpenError::NotAHistory { path } => Self::NotAHistory(path),
            OpenError::Sql { path, error } => Self::of(&path, error),
            other => Self::Newer(other),
        }
    }

    fn of_file(path: &Path, error: io::Error) -> Self {
        let path = shown(path);
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoFile(path),
            io::ErrorKind::PermissionDenied => Self::Denied(path),
            _ => Self::Io { path, error },
        }
    }

    /// Somebody else holds the history.
    pub const fn is_lock(&self) -> bool {
        matches!(self, Self::Locked(_))
    }
}

/// Opens the history at `path`.
pub(super) fn open(path: &Path) -> Result<Reader, ReadError> {
    let name = shown(path);
    look(path)?;
    let opened = connect(path).and_then(|db| Ok((version(&db, path)?, db)));
    let (version, db) = match opened {
        // There is no log, and nobody can write one.
        Err(ReadError::Alone { .. }) if is_unchanging(path) => {
            let db = unchanging(path).map_err(|error| ReadError::of(&name, error))?;
            (version(&db, path)?, db)
        }
        other => other?,
    };
    if version == 0 {
        return Err(ReadError::Empty(name));
    }
    Ok(Reader { db, path: name })
}

fn connect(path: &Path) -> Result<Connection, ReadError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    store::connect(path, flags).map_err(|error| ReadError::of(&shown(path), error))
}

fn version(db: &Connection, path: &Path) -> Result<usize, ReadError> {
    store::version(db, path).map_err(ReadError::of_opening)
}

/// Looks at the file before SQLite does, which says less of what is wrong.
fn look(path: &Path) -> Result<(), ReadError> {
    let of_file = |error| ReadError::of_file(path, error);
    let metadata = fs::metadata(path).map_err(of_file)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAHistory(shown(path)));
    }
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut magic))
        .map_err(of_file)?;
    match &magic[..] {
        [] if !has_log(path) => Err(ReadError::Empty(shown(path))),
        [] => Ok(()),
        magic if magic == MAGIC => Ok(()),
        _ => Err(ReadError::NotAHistory(shown(path))),
    }
}

/// There is a log with something in it.
fn has_log(path: &Path) -> bool {
    let mut log = OsString::from(path);
    log.push("-wal");
    fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

/// Nobody can write to it, and all of it is in the file.
fn is_unchanging(path: &Path) -> bool {
    let is_read_only =
        statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    is_read_only && !has_log(path)
}

/// Opens a file that does not change, without what SQLite keeps beside one.
fn unchanging(path: &Path) -> rusqlite::Result<Connection> {
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(*byte));
            }
            // Writing into a String cannot fail.
            other => drop(write!(uri, "%{other:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
}
