//! Lists of networks in files of their own, as block lists are published: one address or
//! CIDR a line, comments after `#` or `;`.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

/// Larger files are refused unread: several times what as many networks take as a policy
/// may have.
const MAX_BYTES: u64 = 64 << 20;

/// A file of networks that a policy reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFile {
    /// The path to read it again by.
    pub path: PathBuf,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
}

/// Why a list cannot be read.
#[derive(Debug, Error)]
pub enum ListError {
    /// Open or read failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A directory, a FIFO, a device.
    #[error("is not a regular file")]
    NotRegular,
    /// Too large to be a list.
    #[error("is larger than 64 MiB")]
    TooLarge,
    /// Not text.
    #[error("is not text (byte {0})")]
    NotText(usize),
}

/// Reads the text of a list.
pub(crate) fn read(path: &Path) -> Result<String, ListError> {
    // Without NONBLOCK, opening a FIFO waits for a writer that never comes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(ListError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ListError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| ListError::NotText(error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use crate::policy::text::network_list::*;

    #[test]
    fn what_is_no_list_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(ListError::NotRegular)));
        assert!(matches!(
            read(Path::new("/dev/zero")),
            Err(ListError::NotRegular)
        ));
        let file = dir.path().join("list");
        std::fs::write(&file, b"10.0.0.0/8 # caf\xe9").unwrap();
        assert!(matches!(read(&file), Err(ListError::NotText(16))));
    }
}
