//! journald, by its native protocol: an entry is a datagram, or a sealed file where it is too
//! large for one.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    time::Duration,
};

use rustix::{
    cmsg_space,
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::{Errno, retry_on_intr},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr},
};

/// Where it listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// How long one entry waits for a journal that is too busy.
const PATIENCE: Duration = Duration::from_secs(1);

/// An entry: fields, each with its value.
#[derive(Debug, Default)]
pub(super) struct Entry(Vec<u8>);

impl Entry {
    /// Adds a field. Its name is in capitals.
    pub(super) fn field(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.0.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            self.0.push(b'\n');
            self.0
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Adds a field where it has a value.
    pub(super) fn field_of(&mut self, name: &str, value: Option<impl AsRef<[u8]>>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }
}

/// The journal. It may come and go.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    error: Option<String>,
}

impl Journal {
    /// The one that listens at `path`.
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path, error: None }
    }

    /// Sends an entry; whether that went well. If not, the next one is tried again.
    pub(super) fn send(&mut self, entry: &Entry) -> bool {
        let error = self.try_send(&entry.0).err().map(|error| {
            let path = self.path.display();
            format!("send to {path}: {error}")
        });
        match (&self.error, &error) {
            (None, Some(error)) => {
                log::warn!("--alert-journal: {error}; the next alert is tried again");
            }
            (Some(_), None) => log::warn!("--alert-journal: the journal takes alerts again"),
            _ => {}
        }
        self.error = error;
        self.error.is_none()
    }

    /// Why the last one is not there.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let address = SocketAddrUnix::new(&self.path)?;
        let send = |bytes: &[u8], control: &mut SendAncillaryBuffer<'_, '_, '_>| {
            let bytes = [IoSlice::new(bytes)];
            retry_on_intr(|| sendmsg_addr(&socket, &address, &bytes, control, SendFlags::NOSIGNAL))
        };
        match send(bytes, &mut SendAncillaryBuffer::default()) {
            Err(Errno::MSGSIZE | Errno::NOBUFS) => {}
            result => return Ok(result.map(drop)?),
        }
        let file = sealed(bytes)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        send(&[], &mut control)?;
        Ok(())
    }
}

/// A file in memory that nobody can change any more.
fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("port-monitor-alert", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rustix::{
        io::IoSliceMut,
        net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    };

    use crate::consume::alert::journal::*;

    #[test]
    fn an_entry_too_large_for_a_datagram_comes_as_a_file_that_cannot_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        let mut entry = Entry::default();
        entry.field("MESSAGE", vec![b'a'; 1 << 20]);
        assert!(Journal::at(path).send(&entry));
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 16];
        let received = recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::empty(),
        );
        assert_eq!(received.unwrap().bytes, 0);
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let file = file.unwrap();
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK));
        let mut file = File::from(file);
        io::Seek::rewind(&mut file).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, entry.0);
    }
}
