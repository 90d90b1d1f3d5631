//! The stream or file the output goes to.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FsWord, Mode, OFlags, fstatfs, open},
    io::{Errno, ReadWriteFlags, pwritev2},
    termios::{isatty, tcgetwinsize},
};
use thiserror::Error;

use super::writer::Shortcut;
use crate::{
    exit_code::{ExitCode, Failure},
    sanitize::Escaped,
};

/// Why there is no output.
#[derive(Debug, Error)]
pub enum TargetError {
    /// Standard output is closed, or there are no descriptors left.
    #[error("standard output: {0}")]
    Stdout(io::Error),
    /// The file cannot be opened.
    #[error("output file {path}: {error}")]
    Open {
        /// As given.
        path: String,
        /// The system's error.
        error: io::Error,
    },
    /// Whoever made the link would choose the file we overwrite.
    #[error("output file {0} is a symbolic link: name the file itself")]
    Symlink(String),
    /// A pipe, socket or block device.
    #[error("output file {0} is not a regular file: redirect standard output to it")]
    NotRegular(String),
    /// What is written here would appear under the other name.
    #[error("output file {0} has several hard links: remove it first")]
    HardLinked(String),
}

/// An open destination, written without a buffer: whoever writes hands over
/// whole chunks.
#[derive(Debug)]
pub struct Target {
    file: File,
    name: String,
}

impl Target {
    /// Standard output.
    pub fn stdout() -> Result<Self, TargetError> {
        let fd = io::stdout().as_fd().try_clone_to_owned();
        Ok(Self {
            file: fd.map_err(TargetError::Stdout)?.into(),
            name: "standard output".into(),
        })
    }

    /// The file at `path`, emptied, or created for its owner only.
    pub fn file(path: &Path) -> Result<Self, TargetError> {
        let shown = Escaped(path.as_os_str().as_encoded_bytes()).to_string();
        // Without O_NONBLOCK a named pipe would keep us until somebody reads it.
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        let file = match open(path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP) => return Err(TargetError::Symlink(shown)),
            Err(Errno::NXIO) => return Err(TargetError::NotRegular(shown)),
            Err(errno) => {
                return Err(TargetError::Open {
                    path: shown,
                    error: errno.into(),
                });
            }
        };
        empty(&file, &shown)?;
        Ok(Self { file, name: shown })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns of the terminal; `None` when it is none.
    pub fn terminal_width(&self) -> Option<usize> {
        if !isatty(&self.file) {
            return None;
        }
        let columns = tcgetwinsize(&self.file).map_or(0, |size| size.ws_col);
        // Serial consoles do not know their size.
        Some(if columns == 0 { 80 } else { columns.into() })
    }
}

/// File systems of this host's memory and disks, by the magic numbers of statfs(2). Any
/// other may be a network's, or some process's, and keep a writer waiting for ever.
const LOCAL_FILE_SYSTEMS: [FsWord; 7] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
];

/// Writes that wait for no reader.
#[derive(Debug)]
pub struct PromptWriter {
    file: File,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As ever: it ends in memory.
    Memory,
    /// The kernel is asked not to wait.
    NoWait,
    /// The kernel cannot be asked that of this file.
    None,
}

impl Target {
    /// A way to write what can be written at once; `None` where there is none: whoever
    /// is at a terminal may stop it.
    pub fn shortcut(&self) -> Option<PromptWriter> {
        let kind = self.file.metadata().ok()?.file_type();
        let way = if kind.is_file() {
            let file_system = fstatfs(&self.file).ok()?.f_type;
            let is_local = LOCAL_FILE_SYSTEMS.contains(&file_system);
            is_local.then_some(Way::Memory)?
        } else if isatty(&self.file) {
            return None;
        } else {
            Way::NoWait
        };
        let file = self.file.try_clone().ok()?;
        Some(PromptWriter { file, way })
    }
}

impl Shortcut for PromptWriter {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// Where the descriptor is.
        const HERE: u64 = u64::MAX;
        match self.way {
            Way::Memory => self.file.write(bytes),
            Way::NoWait => {
                let flags = ReadWriteFlags::NOWAIT;
                let written = pwritev2(&self.file, &[IoSlice::new(bytes)], HERE, flags);
                if matches!(written, Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)) {
                    self.way = Way::None;
                }
                Ok(written?)
            }
            Way::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Empties a regular file, after looking at what was really opened.
fn empty(file: &File, shown: &str) -> Result<(), TargetError> {
    let failed = |error| TargetError::Open {
        path: shown.to_owned(),
        error,
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.file_type().is_char_device() {
        return Ok(());
    }
    if !metadata.is_file() {
        return Err(TargetError::NotRegular(shown.to_owned()));
    }
    if metadata.nlink() > 1 {
        return Err(TargetError::HardLinked(shown.to_owned()));
    }
    file.set_len(0).map_err(failed)
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                // Whoever shares the descriptor may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints the whole output of a command that is no stream. A reader that goes
/// away early, as `head` does, is no error.
pub fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    let mut stdout =
        Target::stdout().map_err(|error| Failure::new(ExitCode::OutputFailed, error))?;
    match stdout.write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            ExitCode::OutputFailed,
            anyhow::anyhow!("write standard output: {error}"),
        )),
        Ok(()) | Err(_) => Ok(ExitCode::Ok),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions, hard_link},
        io::{Read as _, Seek as _},
        os::{
            fd::OwnedFd,
            unix::{
                fs::{PermissionsExt as _, symlink},
                net::UnixStream,
            },
        },
        thread,
    };

    use rustix::{
        fs::{CWD, FileType, mknodat},
        pty::{OpenptFlags, openpt},
    };

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_only_and_an_old_one_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        Target::file(&path).unwrap().write_all(b"long\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        Target::file(&path).unwrap().write_all(b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn links_pipes_and_directories_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        fs::write(path("precious"), "data").unwrap();
        symlink(path("precious"), path("symlink")).unwrap();
        let error = Target::file(&path("symlink")).unwrap_err();
        assert!(matches!(error, TargetError::Symlink(_)), "{error}");

        hard_link(path("precious"), path("hard")).unwrap();
        let error = Target::file(&path("hard")).unwrap_err();
        assert!(matches!(error, TargetError::HardLinked(_)), "{error}");

        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = Target::file(&path("pipe")).unwrap_err();
        assert!(matches!(error, TargetError::NotRegular(_)), "{error}");

        let error = Target::file(dir.path()).unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        assert_eq!(fs::read(path("precious")).unwrap(), b"data");
    }

    #[test]
    fn devices_are_written_to() {
        let mut null = Target::file(Path::new("/dev/null")).unwrap();
        null.write_all(b"gone\n").unwrap();
        let mut full = Target::file(Path::new("/dev/full")).unwrap();
        let error = full.write_all(b"too much\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    fn target(fd: impl Into<OwnedFd>) -> Target {
        Target {
            file: File::from(fd.into()),
            name: "test".into(),
        }
    }

    #[test]
    fn a_pipe_s_shortcut_ends_where_writing_would_wait() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let target = target(writer);
        let mut shortcut = target.shortcut().unwrap();
        let mut sent = 0;
        let error = loop {
            match shortcut.try_write(&[b'x'; 5_000]) {
                Ok(count) => sent += count,
                Err(error) => break error.kind(),
            }
        };
        // Before Linux 6.4 the kernel cannot be asked.
        assert_eq!(error == io::ErrorKind::WouldBlock, sent > 0, "{error}");
        let again = shortcut.try_write(b"x").unwrap_err().kind();
        assert!(matches!(
            again,
            io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported
        ));
        // Whoever shares the pipe waits as ever.
        let flags = rustix::fs::fcntl_getfl(&target.file).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
        drop((shortcut, target));
        let mut received = Vec::new();
        File::from(reader).read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
    }

    #[test]
    fn a_file_s_shortcut_writes_where_the_target_does() {
        let shm = Path::new("/dev/shm");
        let file = tempfile::tempfile_in(shm).unwrap();
        let mut target = target(file.try_clone().unwrap());
        let mut shortcut = target.shortcut().unwrap();
        for line in ["1\n", "2\n"] {
            target.write_all(line.as_bytes()).unwrap();
            assert_eq!(shortcut.try_write(b"at once\n").unwrap(), 8);
        }
        let mut text = String::new();
        let mut file = file;
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1\nat once\n2\nat once\n");
    }

    #[test]
    fn there_is_no_shortcut_to_a_terminal_or_to_other_processes_files() {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        assert!(target(terminal).shortcut().is_none());
        let other = File::open("/proc/self/stat").unwrap();
        assert!(target(other).shortcut().is_none());
    }

    #[test]
    fn a_non_blocking_descriptor_is_waited_for() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut target = target(writer);
        // More than a socket buffers, so that writing must wait for the reader.
        let sent = vec![7; 8 << 20];
        let expected = sent.clone();
        let sender = thread::spawn(move || target.write_all(&sent));
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        sender.join().unwrap().unwrap();
        assert!(received == expected);
    }
}
