//! The file of a socket: whose it is, and that it goes when nobody answers there any more.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::ask::connect;

/// Whoever owns it and its group may ask.
const MODE: u32 = 0o660;
/// Connections that wait to be let in.
const BACKLOG: i32 = 64;

/// A name in the file system that a socket has. It goes with this.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Place {
    /// Takes the name, if nobody answers there, and listens there without waiting.
    pub(super) fn take(path: &Path) -> io::Result<(Self, UnixListener)> {
        free(path)?;
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let metadata = fs::symlink_metadata(path)?;
        let place = Self {
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        };
        // Nobody can connect before the socket listens.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        listen(&socket, BACKLOG)?;
        Ok((place, socket.into()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Somebody may have put another one there.
        let is_this = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if is_this {
            // Nothing can be done about one that stays; the next one to listen removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that was left behind.
fn free(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "there is something else: name another file",
        ));
    }
    match connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            ErrorKind::AddrInUse,
            "somebody answers there: name another file",
        )),
    }
}
