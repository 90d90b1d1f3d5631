//! The file of `--output-file`: appended to, a whole line or nothing, opened again when
//! asked, and put aside when it is large enough.

mod rotation;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};

pub use self::rotation::Limits;
use self::rotation::Rotation;
use super::error::TargetError;
use crate::base::sanitize::Escaped;

/// A file that lines are appended to.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    shown: String,
    file: File,
    rotation: Option<Rotation>,
    /// Part of a line is written: its rest belongs to the same file.
    is_mid_line: bool,
}

/// The file of `--output-file`, for whoever writes to it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    file: Arc<Mutex<LogFile>>,
    /// It is to be opened again.
    is_asked: Arc<AtomicBool>,
}

impl Log {
    /// The file at `path`, appended to, or created for its owner only.
    pub(crate) fn open(path: &Path, limits: Option<Limits>) -> Result<Self, TargetError> {
        let shown = Escaped(path.as_os_str().as_encoded_bytes()).to_string();
        let file = append_to(path, &shown)?;
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let log = LogFile {
            path: path.to_owned(),
            shown,
            file,
            rotation: limits.filter(|_| is_regular).map(Rotation::new),
            is_mid_line: false,
        };
        Ok(Self {
            file: Arc::new(Mutex::new(log)),
            is_asked: Arc::default(),
        })
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        self.lock().shown.clone()
    }

    /// The descriptor that is written to by now.
    pub(crate) fn descriptor(&self) -> io::Result<File> {
        self.lock().file.try_clone()
    }

    /// Opens the file again by its name as soon as nobody is writing: somebody may have
    /// moved it away.
    pub(crate) fn reopen(&self) {
        self.is_asked.store(true, Ordering::SeqCst);
        self.reopen_if_asked();
    }

    /// Opens the file again by its name, if that was asked for and could not be done.
    pub(crate) fn reopen_if_asked(&self) {
        let file = match self.file.try_lock() {
            Ok(file) => file,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever writes looks, too.
            Err(TryLockError::WouldBlock) => return,
        };
        self.follow_wish(file);
    }

    /// Appends as much as goes into the file at hand.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.lock();
        file.make_room(bytes);
        let written = file.append(bytes);
        self.follow_wish(file);
        written
    }

    /// Appends as much as goes into the file at hand, if nothing else is to be done first.
    pub(crate) fn write_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.try_lock() {
            Ok(mut file) if !file.is_full(bytes) => file.append(bytes),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn follow_wish(&self, mut file: MutexGuard<'_, LogFile>) {
        if !file.is_mid_line && self.is_asked.swap(false, Ordering::SeqCst) {
            file.reopen();
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogFile> {
        // Nothing panics while it holds the lock.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = self.fitting(bytes);
        let bytes = bytes.get(..fits).unwrap_or(bytes);
        let written = self.file.write(bytes)?;
        if let Some(last) = bytes.get(..written).and_then(<[u8]>::last) {
            self.is_mid_line = *last != b'\n';
        }
        Ok(written)
    }

    /// How many bytes of these lines, one line at least, go into the file at hand.
    fn fitting(&self, bytes: &[u8]) -> usize {
        let Some(rotation) = &self.rotation else {
            return bytes.len();
        };
        rotation.fitting(self.size(), bytes)
    }

    /// The next line would make the file too large.
    fn is_full(&self, bytes: &[u8]) -> bool {
        let Some(rotation) = &self.rotation else {
            return false;
        };
        !self.is_mid_line && rotation.is_due(self.size(), bytes)
    }

    /// Bytes in it by now: others may have emptied it.
    fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Puts a full file aside. Where that fails, it is written to as before.
    fn make_room(&mut self, bytes: &[u8]) {
        if !self.is_full(bytes) {
            return;
        }
        let Some(rotation) = &mut self.rotation else {
            return;
        };
        if let Err(error) = rotation.put_aside(&self.path) {
            rotation.postpone();
            log::warn!("rotate {}: {error}; it goes on growing", self.shown);
            return;
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        match append_to(&self.path, &self.shown) {
            Ok(file) => self.file = file,
            Err(error) => log::warn!("{error}; the lines go to the file that was open"),
        }
    }
}

/// Opens what can be appended to at `path`, after looking at what was really opened.
fn append_to(path: &Path, shown: &str) -> Result<File, TargetError> {
    // Without O_NONBLOCK a named pipe would keep us until somebody reads it.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let failed = |error| TargetError::Open {
        path: shown.to_owned(),
        error,
    };
    let mut file = match open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return Err(TargetError::Symlink(shown.to_owned())),
        Err(Errno::NXIO) => return Err(TargetError::NotRegular(shown.to_owned())),
        Err(errno) => return Err(failed(errno.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.file_type().is_char_device() {
        return Ok(file);
    }
    if !metadata.is_file() {
        return Err(TargetError::NotRegular(shown.to_owned()));
    }
    if metadata.nlink() > 1 {
        return Err(TargetError::HardLinked(shown.to_owned()));
    }
    if ends_mid_line(path, &metadata) {
        file.write_all(b"\n").map_err(failed)?;
    }
    Ok(file)
}

/// Whoever wrote to the file before was stopped in the middle of a line.
fn ends_mid_line(path: &Path, written_to: &std::fs::Metadata) -> bool {
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (written_to.dev(), written_to.ino()) {
            return Ok(b'\n');
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        let [last] = last;
        Ok(last)
    };
    written_to.len() > 0 && last().is_ok_and(|last| last != b'\n')
}

#[cfg(test)]
mod tests;
