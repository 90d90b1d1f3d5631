//! Reads a policy file and trusts nothing about it: not its kind, its size or
//! its bytes. A pipe will do too: `-`, `/dev/stdin`, the shell's `<(…)`.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

/// Larger files are refused unread: a policy of as many long networks as the kernel's
/// tables hold is smaller.
const MAX_BYTES: u64 = 32 << 20;

/// Why a policy, or another file like it, cannot be read.
#[derive(Debug, Error)]
pub enum FileError {
    /// Nothing of that name.
    #[error("no such file (check its name)")]
    Missing,
    /// No policy was named, and there is none where one is looked for then.
    #[error("no such file (name the policy: --policy FILE, or FILE after `apply`)")]
    NoDefault,
    /// Open or read failed.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A directory.
    #[error("is a directory, not a file")]
    Directory,
    /// A terminal, a device, a socket.
    #[error("is neither a file nor a pipe")]
    NotRegular,
    /// Larger than any policy.
    #[error("is larger than 32 MiB")]
    TooLarge,
    /// Nothing in it.
    #[error("is empty (a policy starts with `version = 1`)")]
    Empty,
    /// Not text.
    #[error("is not text (byte {0}): write it in UTF-8")]
    NotText(usize),
}

/// The policy that is read when none is named.
const DEFAULT_POLICY: &str = "/etc/port-monitor/policy.toml";

/// The name that means the standard input, as for most programs.
const STANDARD_INPUT: &str = "-";

/// The policy can be read once only: it comes out of a pipe.
pub fn is_stream(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
        || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// What paths in a policy are relative to: its directory, and for one that comes out of a
/// pipe or from the standard input the directory that this program runs in.
pub(crate) fn directory(policy: &Path) -> &Path {
    let is_descriptor = policy.starts_with("/dev") || policy.starts_with("/proc");
    if is_descriptor || is_stream(policy) {
        return Path::new("");
    }
    policy.parent().unwrap_or(Path::new(""))
}

/// Both paths lead to one pipe, or to the standard input: it can be read once only.
pub fn are_one_stream(a: &Path, b: &Path) -> bool {
    stream(a).is_some_and(|stream_of_a| Some(stream_of_a) == stream(b))
}

/// Which stream the path leads to, by device and inode.
fn stream(path: &Path) -> Option<(u64, u64)> {
    if path == Path::new(STANDARD_INPUT) {
        let found = rustix::fs::fstat(io::stdin()).ok()?;
        return Some((found.st_dev, found.st_ino));
    }
    let found = fs::metadata(path).ok()?;
    (!found.is_file() && !found.is_dir()).then(|| (found.dev(), found.ino()))
}

/// Reads all of a file of up to `most` bytes, or of a pipe, as a policy is read.
pub fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    open(path, most)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(FileError::TooLarge);
    }
    Ok(bytes)
}

/// Reads the text of a policy.
pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    let text = read_text(path)?;
    if text.trim().is_empty() {
        return Err(FileError::Empty);
    }
    Ok(text)
}

/// Reads a text of up to the size of a policy, which may be empty.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    let bytes = read_bytes(path, MAX_BYTES)?;
    if let Some(nul) = bytes.iter().position(|&byte| byte == 0) {
        return Err(FileError::NotText(nul));
    }
    String::from_utf8(bytes).map_err(|error| FileError::NotText(error.utf8_error().valid_up_to()))
}

fn open(path: &Path, most: u64) -> Result<File, FileError> {
    // Without NONBLOCK, opening a FIFO waits for a writer that never comes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = if path == Path::new(STANDARD_INPUT) {
        rustix::io::fcntl_dupfd_cloexec(io::stdin(), 0)
    } else {
        rustix::fs::open(path, flags, Mode::empty())
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) if path == Path::new(DEFAULT_POLICY) => {
            return Err(FileError::NoDefault);
        }
        Err(rustix::io::Errno::NOENT) => return Err(FileError::Missing),
        Err(errno) => return Err(FileError::Io(errno.into())),
    };
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(FileError::Directory);
    }
    let is_socket = metadata.file_type().is_socket() && path == Path::new(STANDARD_INPUT);
    if metadata.file_type().is_fifo() || is_socket {
        return Ok(waiting(file)?);
    }
    if !metadata.is_file() {
        return Err(FileError::NotRegular);
    }
    if metadata.len() > most {
        return Err(FileError::TooLarge);
    }
    Ok(file)
}

/// A pipe whose readers wait for what its writer has not written yet. Where nobody has it
/// open for writing, it ends at once.
fn waiting(file: File) -> io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread, time::Duration};

    use crate::policy::text::file::*;

    fn refusal(contents: &[u8]) -> FileError {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), contents).unwrap();
        read(file.path()).unwrap_err()
    }

    #[test]
    fn text_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "version = 1\n").unwrap();
        assert_eq!(read(file.path()).unwrap(), "version = 1\n");
    }

    #[test]
    fn huge_sparse_file_is_refused_unread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        assert!(matches!(read(file.path()), Err(FileError::TooLarge)));
    }

    #[test]
    fn file_larger_than_it_claims_is_refused() {
        assert!(matches!(
            read(Path::new("/dev/zero")),
            Err(FileError::NotRegular)
        ));
        assert!(matches!(
            refusal(&vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1]),
            FileError::TooLarge
        ));
    }

    #[test]
    fn fifo_that_nobody_writes_is_empty_without_waiting() {
        let (_dir, fifo) = fifo();
        assert!(matches!(read(&fifo), Err(FileError::Empty)));
    }

    #[test]
    fn pipe_is_read_to_its_end_however_slow_its_writer() {
        let (reader, mut writer) = io::pipe().unwrap();
        let slow = thread::spawn(move || {
            for part in ["version", " = ", "1\n"] {
                // Long enough for the reader to be waiting: it must not take that for the end.
                thread::sleep(Duration::from_millis(20));
                writer.write_all(part.as_bytes()).unwrap();
            }
        });
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert!(is_stream(Path::new(&path)));
        assert_eq!(read(Path::new(&path)).unwrap(), "version = 1\n");
        slow.join().unwrap();
    }

    #[test]
    fn pipe_that_never_ends_is_refused_at_the_limit() {
        let (reader, mut writer) = io::pipe().unwrap();
        let endless = thread::spawn(move || while writer.write_all(&[b'#'; 4096]).is_ok() {});
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert!(matches!(read(Path::new(&path)), Err(FileError::TooLarge)));
        drop(reader);
        endless.join().unwrap();
    }

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("policy.toml");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        (dir, fifo)
    }

    #[test]
    fn directory_and_missing_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(FileError::Directory)));
        assert!(matches!(
            read(&dir.path().join("none")),
            Err(FileError::Missing)
        ));
    }

    #[test]
    fn blank_and_binary_files_are_refused() {
        assert!(matches!(refusal(b" \n"), FileError::Empty));
        assert!(matches!(refusal(b"\x7fELF\x02\0\0"), FileError::NotText(5)));
        assert!(matches!(refusal(b"a = \"\xff\""), FileError::NotText(5)));
    }
}
