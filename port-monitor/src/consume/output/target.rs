//! The stream or file the output goes to.

use std::{
    fmt,
    fs::{self, File, Metadata},
    io::{self, IoSlice, Write},
    os::{fd::AsFd as _, unix::fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FsWord, Mode, OFlags, fstatfs, open},
    io::{Errno, ReadWriteFlags, pwritev2},
    termios::{isatty, tcgetwinsize},
};

use super::{
    error::TargetError,
    file::{Limits, Log},
    stdout,
};
use crate::base::{
    exit_code::{ExitCode, Failure},
    sanitize::Escaped,
};

/// A second way to where an output writes, for whoever must not be kept waiting.
pub trait Shortcut: fmt::Debug + Send {
    /// Writes what can be written at once; how many bytes that were. After an error the
    /// rest is the thread's, which waits, or meets the error again.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// An open destination, written without a buffer: whoever writes hands over
/// whole chunks.
#[derive(Debug)]
pub struct Target {
    to: Destination,
    name: String,
}

#[derive(Debug)]
enum Destination {
    /// Standard output, whatever it is.
    Stream(File),
    /// The file of `--output-file`.
    Log(Log),
    /// A named pipe, opened when it is written to: that waits for a reader.
    Pipe(PathBuf, Option<File>),
}

impl Target {
    /// Standard output.
    pub fn stdout() -> Result<Self, TargetError> {
        let fd = stdout::check().and_then(|()| io::stdout().as_fd().try_clone_to_owned());
        Ok(Self {
            to: Destination::Stream(fd.map_err(TargetError::Stdout)?.into()),
            name: "standard output".into(),
        })
    }

    /// Standard error, for who tells there what others write to the standard output.
    pub fn stderr() -> Result<Self, TargetError> {
        let fd = io::stderr().as_fd().try_clone_to_owned();
        Ok(Self {
            to: Destination::Stream(fd.map_err(TargetError::Stderr)?.into()),
            name: "standard error".into(),
        })
    }

    /// The file at `path`, appended to, or created for its owner only; put aside at its
    /// limits.
    pub fn file(path: &Path, limits: Option<Limits>) -> Result<Self, TargetError> {
        let log = Log::open(path, limits)?;
        Ok(Self {
            name: log.name(),
            to: Destination::Log(log),
        })
    }

    /// The file at `path` as [`Target::file`] has it, or the named pipe: for whoever may be
    /// kept waiting.
    pub fn file_or_pipe(path: &Path, limits: Option<Limits>) -> Result<Self, TargetError> {
        let is_pipe = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_fifo());
        if !is_pipe {
            return Self::file(path, limits);
        }
        Ok(Self {
            name: Escaped(path.as_os_str().as_encoded_bytes()).to_string(),
            to: Destination::Pipe(path.to_owned(), None),
        })
    }

    /// What is written to.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.descriptor()?.metadata()
    }

    /// Opens a file again by its name: somebody may have moved it away.
    pub fn reopen(&self) {
        if let Destination::Log(log) = &self.to {
            log.reopen();
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The terminal it is, if it is one.
    pub fn terminal(&self) -> Option<Terminal> {
        let file = self.descriptor().ok()?;
        isatty(&file).then_some(Terminal(file))
    }

    /// The file it is, if it can be opened again.
    pub(crate) fn log(&self) -> Option<Log> {
        match &self.to {
            Destination::Stream(_) | Destination::Pipe(..) => None,
            Destination::Log(log) => Some(log.clone()),
        }
    }

    fn descriptor(&self) -> io::Result<File> {
        match &self.to {
            Destination::Stream(file) => file.try_clone(),
            Destination::Log(log) => log.descriptor(),
            Destination::Pipe(_, file) => match file {
                Some(file) => file.try_clone(),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }
}

/// Opens a named pipe, as soon as somebody reads it.
fn open_pipe(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let file = File::from(open(path, flags, Mode::empty())?);
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("it is no named pipe any more"));
    }
    Ok(file)
}

/// A terminal that is written to.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    /// Its columns by now.
    pub fn width(&self) -> usize {
        let columns = tcgetwinsize(&self.0).map_or(0, |size| size.ws_col);
        // Serial consoles do not know their size.
        if columns == 0 { 80 } else { columns.into() }
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
pub struct PromptWriter(Way);

#[derive(Debug)]
enum Way {
    /// As ever: it ends in memory.
    Memory(File),
    /// To the file that is open by then, which ends in memory.
    Log(Log),
    /// The kernel is asked not to wait.
    NoWait(File),
    /// The kernel cannot be asked that of this file.
    None,
}

impl Target {
    /// A way to write what can be written at once; `None` where there is none: whoever
    /// is at a terminal may stop it.
    pub fn shortcut(&self) -> Option<PromptWriter> {
        let file = self.descriptor().ok()?;
        let kind = file.metadata().ok()?.file_type();
        if !kind.is_file() {
            let is_terminal = isatty(&file);
            return (!is_terminal).then_some(PromptWriter(Way::NoWait(file)));
        }
        let file_system = fstatfs(&file).ok()?.f_type;
        let is_local = LOCAL_FILE_SYSTEMS.contains(&file_system);
        is_local.then(|| {
            PromptWriter(match &self.to {
                Destination::Stream(_) => Way::Memory(file),
                Destination::Log(log) => Way::Log(log.clone()),
                Destination::Pipe(..) => Way::None,
            })
        })
    }
}

impl Shortcut for PromptWriter {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// Where the descriptor is.
        const HERE: u64 = u64::MAX;
        match &mut self.0 {
            Way::Memory(file) => file.write(bytes),
            Way::Log(log) => log.write_at_once(bytes),
            Way::NoWait(file) => {
                let flags = ReadWriteFlags::NOWAIT;
                let written = pwritev2(file, &[IoSlice::new(bytes)], HERE, flags);
                if matches!(written, Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)) {
                    self.0 = Way::None;
                }
                Ok(written?)
            }
            Way::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &mut self.to {
            Destination::Log(log) => return log.write(bytes),
            Destination::Pipe(path, file @ None) => file.insert(open_pipe(path)?),
            Destination::Pipe(_, Some(file)) | Destination::Stream(file) => file,
        };
        loop {
            match file.write(bytes) {
                // Whoever shares the descriptor may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(file, PollFlags::OUT)], None)?;
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
                fs::{MetadataExt as _, PermissionsExt as _, symlink},
                net::UnixStream,
            },
        },
        thread,
    };

    use rustix::{
        fs::{CWD, FileType, Mode, OFlags, mknodat},
        pty::{OpenptFlags, openpt},
    };

    use crate::consume::output::target::*;

    fn open(path: &Path) -> Result<Target, TargetError> {
        Target::file(path, None)
    }

    #[test]
    fn a_new_file_is_for_its_owner_only_and_an_old_one_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        open(&path).unwrap().write_all(b"long\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        open(&path).unwrap().write_all(b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"long\nnew\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn links_pipes_and_directories_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        fs::write(path("precious"), "data").unwrap();
        symlink(path("precious"), path("symlink")).unwrap();
        let error = open(&path("symlink")).unwrap_err();
        assert!(matches!(error, TargetError::Symlink(_)), "{error}");

        hard_link(path("precious"), path("hard")).unwrap();
        let error = open(&path("hard")).unwrap_err();
        assert!(matches!(error, TargetError::HardLinked(_)), "{error}");

        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = open(&path("pipe")).unwrap_err();
        assert!(matches!(error, TargetError::NotRegular(_)), "{error}");

        let error = open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        assert_eq!(fs::read(path("precious")).unwrap(), b"data");
    }

    #[test]
    fn devices_are_written_to() {
        let mut null = open(Path::new("/dev/null")).unwrap();
        null.write_all(b"gone\n").unwrap();
        let mut full = open(Path::new("/dev/full")).unwrap();
        let error = full.write_all(b"too much\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    fn target(fd: impl Into<OwnedFd>) -> Target {
        Target {
            to: Destination::Stream(File::from(fd.into())),
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
        let flags = rustix::fs::fcntl_getfl(target.descriptor().unwrap()).unwrap();
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
