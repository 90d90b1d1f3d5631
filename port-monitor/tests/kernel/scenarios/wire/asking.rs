//! How connections begin, and how they do not.

use std::{io::Read as _, net::IpAddr};

use anyhow::{Result, ensure};
use rustix::{
    event::PollFlags,
    io::Errno,
    net::{SocketFlags, sockopt},
};

use super::{
    Peer, Socket, accept, answer, asked, established, on_wire,
    segment::{ACK, FIN, RST, SYN, icmp},
    shake_hands,
};
use crate::{
    fact::{Ending, Witness},
    scenarios::closing::expect_end,
    socket::{Listener, any_port, poll},
};

/// Every answer to a SYN, and none.
pub(crate) fn answers(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        refused(witness, asked(device, place)?)?;
        asked_twice(witness, asked(device, place)?)?;
        wrongly_answered(witness, asked(device, place)?)?;
        given_up(witness, asked(device, place)?)
    })
}

fn refused(witness: &Witness, (socket, mut peer): (Socket, Peer<'_>)) -> Result<()> {
    peer.say(RST | ACK, &[])?;
    fails(witness, &socket, &peer, Errno::CONNREFUSED)
}

/// The attempt fails with this errno. Who asks for it takes it from the socket, which may
/// have it before it is closed: so nobody asks before that.
pub(super) fn fails(
    witness: &Witness,
    socket: &Socket,
    peer: &Peer<'_>,
    errno: Errno,
) -> Result<()> {
    peer.settle()?;
    let error = sockopt::socket_error(socket)?;
    ensure!(error == Err(errno), "{error:?}, not {errno}");
    let ending = Ending::Failed(errno.raw_os_error());
    witness.attempted(socket, peer.at, true, ending)
}

/// The first SYN is lost, and only the second one answered.
fn asked_twice(witness: &Witness, (socket, mut peer): (Socket, Peer<'_>)) -> Result<()> {
    peer.hear_again(SYN)?;
    answer(&mut peer)?;
    drop(established(witness, socket, &peer)?);
    peer.end_after_host()?;
    peer.closed_resending(witness, (0, 0), ("local", ""))
}

/// A reset that answers nothing, and an acknowledgement of what was never sent, change
/// nothing: RFC 9293 §3.10.7.3.
fn wrongly_answered(witness: &Witness, (socket, mut peer): (Socket, Peer<'_>)) -> Result<()> {
    peer.send(&peer.segment(RST, &[]))?;
    let mut wrong = peer.segment(SYN | ACK, &[]);
    wrong.ack = wrong.ack.wrapping_add(7);
    peer.send(&wrong)?;
    peer.hear_reset(wrong.ack)?;
    answer(&mut peer)?;
    drop(established(witness, socket, &peer)?);
    peer.end_after_host()?;
    peer.closed(witness, (0, 0), ("local", ""))
}

/// The host closes before any answer, which is too late then.
fn given_up(witness: &Witness, (socket, mut peer): (Socket, Peer<'_>)) -> Result<()> {
    witness.gave_up(socket, peer.at, true)?;
    peer.say(SYN | ACK, &[])?;
    peer.hear_reset(peer.ack)
}

/// What a router says of a SYN: type and code, RFC 792 and RFC 4443, and what the program
/// is told.
const SAID_V4: [((u8, u8), Errno); 5] = [
    ((3, 0), Errno::NETUNREACH),
    ((3, 1), Errno::HOSTUNREACH),
    ((3, 2), Errno::NOPROTOOPT),
    ((3, 3), Errno::CONNREFUSED),
    ((3, 13), Errno::HOSTUNREACH),
];
const SAID_V6: [((u8, u8), Errno); 4] = [
    ((1, 0), Errno::NETUNREACH),
    ((1, 1), Errno::ACCESS),
    ((1, 3), Errno::HOSTUNREACH),
    ((1, 4), Errno::CONNREFUSED),
];

/// A router on the way answers in the peer's place.
pub(crate) fn unreachable(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let said: &[_] = match place.0 {
            IpAddr::V4(_) => &SAID_V4,
            IpAddr::V6(_) => &SAID_V6,
        };
        for &(what, errno) in said {
            let (socket, peer) = asked(device, place)?;
            device.send(&icmp(peer.at.ip(), what, 0, &peer.last_heard(SYN))?)?;
            fails(witness, &socket, &peer, errno)?;
        }
        Ok(())
    })
}

/// Everything that may come between a SYN of somebody else and `accept`.
pub(crate) fn inbound(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let listener = witness.listen(any_port(place.0))?;
        let from = |port| Peer::new(device, (place.1, port).into(), listener.at);
        reset_half_way(from(7_001))?;
        unreachable_half_way(from(7_006))?;
        asked_and_answered_twice(witness, &listener, from(7_002))?;
        ended_at_once(witness, &listener, from(7_003))?;
        answer_lost(witness, &listener, from(7_004))?;
        reset_before_accept(witness, &listener, from(7_005))
    })
}

/// There was no connection.
fn reset_half_way(mut peer: Peer<'_>) -> Result<()> {
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    peer.say(RST, &[])
}

/// A router says that nobody has asked. So there was no connection, and there is none.
fn unreachable_half_way(mut peer: Peer<'_>) -> Result<()> {
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    let what = match peer.at.ip() {
        IpAddr::V4(_) => (3, 1),
        IpAddr::V6(_) => (1, 4),
    };
    let about = peer.last_heard(SYN | ACK);
    peer.device.send(&icmp(peer.at.ip(), what, 0, &about)?)?;
    peer.acknowledge()?;
    peer.hear_reset(peer.ack)
}

/// One connection; what comes with the last part of the handshake belongs to it.
fn asked_and_answered_twice(
    witness: &Witness,
    listener: &Listener,
    mut peer: Peer<'_>,
) -> Result<()> {
    peer.send(&peer.segment(SYN, &[]))?;
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    peer.hear_again(SYN | ACK)?;
    peer.say(FIN | ACK, b"all there is")?;
    let mut server = accept(witness, listener)?;
    let mut said = Vec::new();
    server.read_to_end(&mut said)?;
    ensure!(said == b"all there is", "{said:?}");
    drop(server);
    peer.hear(FIN | ACK)?;
    peer.acknowledge()?;
    peer.closed(witness, (0, said.len()), ("peer", ""))
}

/// The end comes with the last part of the handshake.
fn ended_at_once(witness: &Witness, listener: &Listener, mut peer: Peer<'_>) -> Result<()> {
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    peer.say(FIN | ACK, &[])?;
    let mut server = accept(witness, listener)?;
    expect_end(&mut server)?;
    drop(server);
    peer.hear(FIN | ACK)?;
    peer.acknowledge()?;
    peer.closed(witness, (0, 0), ("peer", ""))
}

/// The host's answer is lost, and given again.
fn answer_lost(witness: &Witness, listener: &Listener, mut peer: Peer<'_>) -> Result<()> {
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    peer.hear_again(SYN | ACK)?;
    peer.acknowledge()?;
    drop(accept(witness, listener)?);
    peer.end_after_host()?;
    peer.closed(witness, (0, 0), ("local", ""))
}

fn reset_before_accept(witness: &Witness, listener: &Listener, mut peer: Peer<'_>) -> Result<()> {
    shake_hands(&mut peer)?;
    poll(&listener.socket, PollFlags::IN)?;
    peer.say(RST | ACK, &[])?;
    peer.settle()?;
    let _server = rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC)?;
    witness.accepted_too_late(listener.at, (peer.at, listener.at))?;
    peer.closed(witness, (0, 0), ("peer-reset", "ECONNRESET"))
}
