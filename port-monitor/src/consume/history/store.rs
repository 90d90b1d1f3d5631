//! The file: how it is opened, what can be wrong with it, and one writer at a time.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf, absolute},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::schema;
use crate::base::sanitize::Escaped;

/// What every SQLite file begins with.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long a write waits for a reader that holds the file.
const PATIENCE: Duration = Duration::from_secs(1);
/// The write-ahead log is cut down to so many bytes.
const LOG_BYTES: u64 = 16 << 20;
/// Pages that are kept in memory: KiB, negative as SQLite wants it.
const CACHE_KIB: i64 = -8_192;

/// Why a history cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The system refused.
    #[error("open {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Somebody writes to it.
    #[error("{path}: another port-monitor writes to it: name another file")]
    Locked {
        /// The file.
        path: String,
    },
    /// It is something else.
    #[error("{path}: not a history of port-monitor: name another file")]
    NotAHistory {
        /// The file.
        path: String,
    },
    /// A later version wrote it.
    #[error(
        "{path}: a history of version {version}, and this program knows those up to {known}: \
         use the version that wrote it, or a later one",
        known = schema::VERSION
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        version: i64,
    },
    /// SQLite refused.
    #[error("open {path}: {error}")]
    Sql {
        /// The file.
        path: String,
        /// Why.
        error: rusqlite::Error,
    },
}

/// The history, open for writing.
#[derive(Debug)]
pub(super) struct Store {
    // Closed first: closing another descriptor of the file gives up its locks.
    db: Connection,
    _lock: Lock,
}

impl Store {
    /// Opens the history at `path`, or makes one. One that is damaged is moved aside, which
    /// is told, and begun anew.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        match Self::open_as_it_is(path) {
            Err(OpenError::Sql { error, .. }) if is_damage(&error) => {
                move_aside(path, &error)?;
                Self::open_as_it_is(path)
            }
            other => other,
        }
    }

    fn open_as_it_is(path: &Path) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io {
            path: shown(path),
            error,
        };
        let sql = |error| OpenError::Sql {
            path: shown(path),
            error,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path)
            .map_err(io)?;
        let not_a_history = || OpenError::NotAHistory { path: shown(path) };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(not_a_history());
        }
        let mut lock = Lock::of(file).map_err(|_| OpenError::Locked { path: shown(path) })?;
        let mut magic = [0; MAGIC.len()];
        let is_new = metadata.len() == 0;
        if !is_new && (lock.0.read_exact(&mut magic).is_err() || magic != *MAGIC) {
            return Err(not_a_history());
        }
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql)?;
        // Nothing is changed in what turns out to be somebody else's.
        let version = if is_new { 0 } else { version(&db, path)? };
        set_up(&db, is_new).map_err(sql)?;
        if version < schema::VERSION {
            schema::migrate(&db, version).map_err(sql)?;
        }
        Ok(Self { db, _lock: lock })
    }

    pub(super) const fn db(&self) -> &Connection {
        &self.db
    }
}

/// The lock of the one who writes.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn of(file: File) -> rustix::io::Result<Self> {
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started has the descriptor too,
        // until it runs its program.
        let _ = self.0.unlock();
    }
}

/// A connection to the file of exactly this name.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // SQLite takes some names for something else, such as `:memory:` and `file:x`.
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(PATIENCE)?;
    // The file may come from somebody else.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

fn set_up(db: &Connection, is_new: bool) -> rusqlite::Result<()> {
    if is_new {
        // Before the first page is written, which the mode of the journal does.
        db.execute_batch("PRAGMA auto_vacuum = INCREMENTAL;")?;
    }
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        log::warn!("history: the file system takes no write-ahead log; the journal is `{mode}`");
    }
    db.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = {LOG_BYTES};
        PRAGMA cache_size = {CACHE_KIB}; PRAGMA temp_store = MEMORY;"
    ))
}

/// The version of a history; zero where nothing was written yet.
pub(super) fn version(db: &Connection, path: &Path) -> Result<usize, OpenError> {
    let sql = |error| OpenError::Sql {
        path: shown(path),
        error,
    };
    let number = |name: &str| {
        let pragma = format!("PRAGMA {name}");
        db.query_row(&pragma, [], |row| row.get::<_, i64>(0))
    };
    let (application, version) = (
        number("application_id").map_err(sql)?,
        number("user_version").map_err(sql)?,
    );
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sql)?;
    match usize::try_from(version) {
        Ok(0) if application == 0 && tables == 0 => Ok(0),
        Ok(known) if application == schema::APPLICATION_ID && known > 0 => {
            if known > schema::VERSION {
                let path = shown(path);
                return Err(OpenError::Newer { path, version });
            }
            Ok(known)
        }
        _ => Err(OpenError::NotAHistory { path: shown(path) }),
    }
}

/// The file is damaged, whatever was asked of it.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Moves a damaged file away, with its log, and tells where to.
pub(super) fn move_aside(path: &Path, error: &rusqlite::Error) -> Result<(), OpenError> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    let with = |path: &Path, end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        PathBuf::from(name)
    };
    let mut aside = with(path, &format!(".damaged-{time}"));
    let mut number = 1;
    while aside.exists() {
        number += 1;
        aside = with(path, &format!(".damaged-{time}-{number}"));
    }
    fs::rename(path, &aside).map_err(|error| OpenError::Io {
        path: shown(path),
        error,
    })?;
    // With its log the file may still be mended; where there is none, nothing is to move.
    let _ = fs::rename(with(path, "-wal"), with(&aside, "-wal"));
    let _ = fs::remove_file(with(path, "-shm"));
    log::warn!(
        "history: {} is damaged ({error}): moved to {}, and begun anew",
        shown(path),
        shown(&aside)
    );
    Ok(())
}

/// The path as people are told it.
pub(super) fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::Lock;

    #[test]
    fn a_lock_ends_whoever_else_has_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.db");
        let lock = Lock::of(File::create(&path).unwrap()).unwrap();
        let _child_has = lock.0.try_clone().unwrap();
        drop(lock);
        Lock::of(File::open(&path).unwrap()).unwrap();
    }
}
