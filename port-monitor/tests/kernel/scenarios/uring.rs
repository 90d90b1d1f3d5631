//! Connections made and accepted through `io_uring`, without a system call of
//! their own.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr, thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use crate::{
    fact::Witness,
    socket::{Listener, V4, any_port, open},
};

/// How long the kernel's thread polls a ring before it goes to sleep.
const IDLE_MS: u32 = 100;

/// Both operations can complete at once.
pub(super) fn ready(witness: &Witness) -> Result<()> {
    let mut ring = IoUring::new(4).context("io_uring_setup")?;
    let listener = witness.listen(any_port(V4))?;
    let client = connect(&mut ring, listener.at)?;
    witness.connected(&client, false)?;
    submit(&mut ring, &accept_entry(&listener))?;
    take_accepted(&mut ring, witness, &listener)
}

/// The accept waits in the ring until a connection comes.
pub(super) fn waiting(witness: &Witness) -> Result<()> {
    let mut ring = IoUring::new(4).context("io_uring_setup")?;
    let listener = witness.listen(any_port(V4))?;
    submit(&mut ring, &accept_entry(&listener))?;
    ensure!(ring.completion().is_empty(), "accepted nobody's connection");
    thread::scope(|scope| {
        let client = scope.spawn(|| witness.connect(listener.at));
        take_accepted(&mut ring, witness, &listener)?;
        client.join().map_err(|_| anyhow!("thread panicked"))??;
        Ok(())
    })
}

fn connect(ring: &mut IoUring, to: SocketAddr) -> Result<OwnedFd> {
    let client = open(V4)?;
    connect_socket(ring, &client, to, squeue::Flags::empty())??;
    Ok(client)
}

/// Connects a new socket through a new ring, with flags of the operation.
pub(crate) fn try_connect(to: SocketAddr, flags: squeue::Flags) -> Result<Result<(), Errno>> {
    let mut ring = IoUring::new(4).context("io_uring_setup")?;
    connect_socket(&mut ring, &open(V4)?, to, flags)
}

/// Connects a new socket through a ring that a thread of the kernel polls
/// (`IORING_SETUP_SQPOLL`).
pub(crate) fn try_connect_polled(to: SocketAddr) -> Result<Result<(), Errno>> {
    let mut ring = IoUring::builder()
        .setup_sqpoll(IDLE_MS)
        .build(4)
        .context("io_uring_setup")?;
    connect_socket(&mut ring, &open(V4)?, to, squeue::Flags::empty())
}

/// Sends a message through a new ring.
pub(crate) fn try_send(by: &OwnedFd, message: &libc::msghdr) -> Result<Result<(), Errno>> {
    let mut ring = IoUring::new(4).context("io_uring_setup")?;
    let entry = opcode::SendMsg::new(types::Fd(by.as_raw_fd()), message).build();
    submit(&mut ring, &entry)?;
    // What the message points to lives until the operation is complete.
    Ok(complete(&mut ring)?.map(drop))
}

fn connect_socket(
    ring: &mut IoUring,
    client: &OwnedFd,
    to: SocketAddr,
    flags: squeue::Flags,
) -> Result<Result<(), Errno>> {
    let SocketAddr::V4(to) = to else {
        bail!("{to} is not IPv4");
    };
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET)?,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*to.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    let size = libc::socklen_t::try_from(size_of_val(&address))?;
    let fd = types::Fd(client.as_raw_fd());
    let entry = opcode::Connect::new(fd, (&raw const address).cast(), size).build();
    submit(ring, &entry.flags(flags))?;
    // `address` lives until the operation is complete.
    Ok(complete(ring)?.map(drop))
}

fn accept_entry(listener: &Listener) -> squeue::Entry {
    let fd = types::Fd(listener.socket.as_raw_fd());
    opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut())
        .flags(libc::SOCK_CLOEXEC)
        .build()
}

fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> Result<()> {
    // SAFETY: the descriptor and the address the entry names outlive the
    // operation: every caller waits for its completion.
    unsafe { ring.submission().push(entry) }?;
    ring.submit()?;
    Ok(())
}

fn take_accepted(ring: &mut IoUring, witness: &Witness, listener: &Listener) -> Result<()> {
    let fd = complete(ring)?.context("accept")?;
    // SAFETY: the accept has just returned this descriptor to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    witness.accepted(listener, &socket, false)
}

/// Waits for the one operation in flight and returns its result.
fn complete(ring: &mut IoUring) -> Result<Result<i32, Errno>> {
    ring.submit_and_wait(1)?;
    let entry = ring.completion().next().context("no completion")?;
    Ok(match entry.result() {
        result @ 0.. => Ok(result),
        error => Err(Errno::from_raw_os_error(-error)),
    })
}
