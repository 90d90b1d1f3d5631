//! Connections that go to another process: they still belong to who opened and
//! who accepted them.

use std::{
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::TcpStream,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
};

use crate::{
    fact::Witness,
    process::{Gate, fork},
    scenarios::closing::{FROM_CLIENT, FROM_SERVER, connect, expect_end, swapped},
    socket::{Ends, V4, any_port},
};

/// The opener lives on, without the sockets, while a child of its uses and closes
/// them.
pub(super) fn passed(witness: &Witness) -> Result<()> {
    let (ours, theirs) = channel()?;
    let go = Gate::new()?;
    let child = fork(|| {
        let sockets = receive_both(&theirs)?;
        go.pass()?;
        use_up(witness, sockets)
    })?;
    let (client, server, _) = open(witness)?;
    send(&ours, &[client.as_fd(), server.as_fd()])?;
    drop((client, server));
    go.open()?;
    child.join()
}

/// The opener is gone before its sockets are used.
pub(super) fn inherited(witness: &Witness) -> Result<()> {
    let (ours, theirs) = channel()?;
    let dying = witness.of_the_dying()?;
    let opener = fork(|| {
        let (client, server, _) = open(&dying)?;
        send(&theirs, &[client.as_fd(), server.as_fd()])
    })?;
    let sockets = receive_both(&ours)?;
    opener.kill()?;
    use_up(witness, sockets)
}

fn open(witness: &Witness) -> Result<(TcpStream, TcpStream, Ends)> {
    let listener = witness.listen(any_port(V4))?;
    connect(witness, &listener, V4)
}

fn use_up(witness: &Witness, (mut client, mut server): (TcpStream, TcpStream)) -> Result<()> {
    let ends = (client.local_addr()?, client.peer_addr()?);
    client.write_all(&[1; FROM_CLIENT])?;
    server.read_exact(&mut [0; FROM_CLIENT])?;
    server.write_all(&[2; FROM_SERVER])?;
    client.read_exact(&mut [0; FROM_SERVER])?;
    drop(client);
    expect_end(&mut server)?;
    drop(server);
    witness.closed(ends, (FROM_CLIENT, FROM_SERVER), ("local", ""))?;
    witness.closed(swapped(ends), (FROM_SERVER, FROM_CLIENT), ("peer", ""))
}

/// Two ends to pass sockets between.
pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .context("socketpair")
}

/// Passes sockets on, two at most.
pub(crate) fn send(channel: &OwnedFd, sockets: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    ensure!(
        message.push(SendAncillaryMessage::ScmRights(sockets)),
        "too many sockets"
    );
    let byte = [IoSlice::new(b"!")];
    sendmsg(channel, &byte, &mut message, SendFlags::empty()).context("sendmsg")?;
    Ok(())
}

/// The sockets that were passed on.
pub(crate) fn receive(channel: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    recvmsg(channel, &mut buffer, &mut message, RecvFlags::CMSG_CLOEXEC).context("recvmsg")?;
    let sockets = message.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
        _ => Vec::new(),
    });
    Ok(sockets.collect())
}

fn receive_both(channel: &OwnedFd) -> Result<(TcpStream, TcpStream)> {
    let mut sockets = receive(channel)?.into_iter().map(TcpStream::from);
    let mut next = || sockets.next().context("no socket came");
    Ok((next()?, next()?))
}
