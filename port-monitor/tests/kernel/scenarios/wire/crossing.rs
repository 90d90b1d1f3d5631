//! Both ends connect at once, and nobody listens: RFC 9293 §3.5.

use anyhow::Result;
use rustix::io::Errno;

use super::{
    Peer, Socket, asked,
    asking::fails,
    ending::{SAID, host_says, peer_says},
    established, on_wire,
    segment::{ACK, FIN, RST, SYN},
};
use crate::{fact::Witness, scenarios::closing::expect_end};

/// The SYNs of both ends cross, whatever comes then.
pub(crate) fn crossing(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        completes(witness, crossed(asked(device, place)?)?)?;
        ends_at_once(witness, crossed(asked(device, place)?)?)?;
        is_reset(witness, crossed(asked(device, place)?)?)?;
        is_unreachable(witness, crossed(asked(device, place)?)?)?;
        is_given_up(witness, crossed(asked(device, place)?)?)
    })
}

type Attempt<'w> = (Socket, Peer<'w>);

/// The peer has sent its SYN before it heard the host's, which the host answers.
fn crossed((socket, mut peer): Attempt<'_>) -> Result<Attempt<'_>> {
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    Ok((socket, peer))
}

/// One connection, which the host has opened: the peer answers, and acknowledges the answer.
fn completes(witness: &Witness, (socket, mut peer): Attempt<'_>) -> Result<()> {
    let mut answer = peer.segment(SYN | ACK, &[]);
    answer.seq = answer.seq.wrapping_sub(1);
    peer.send(&answer)?;
    peer.acknowledge()?;
    let mut host = established(witness, socket, &peer)?;
    host_says(&mut host, &mut peer)?;
    peer_says(&mut host, &mut peer)?;
    drop(host);
    peer.end_after_host()?;
    peer.closed(witness, (SAID, SAID), ("local", ""))
}

fn ends_at_once(witness: &Witness, (socket, mut peer): Attempt<'_>) -> Result<()> {
    peer.say(FIN | ACK, &[])?;
    let mut host = established(witness, socket, &peer)?;
    expect_end(&mut host)?;
    drop(host);
    peer.hear(FIN | ACK)?;
    peer.acknowledge()?;
    peer.closed(witness, (0, 0), ("peer", ""))
}

fn is_reset(witness: &Witness, (socket, mut peer): Attempt<'_>) -> Result<()> {
    peer.say(RST | ACK, &[])?;
    fails(witness, &socket, &peer, Errno::CONNRESET)
}

fn is_unreachable(witness: &Witness, (socket, mut peer): Attempt<'_>) -> Result<()> {
    // The SYN is not acknowledged.
    peer.ack = peer.ack.wrapping_sub(1);
    peer.complain()?;
    fails(witness, &socket, &peer, Errno::HOSTUNREACH)
}

/// The host says FIN before the peer has acknowledged its SYN.
fn is_given_up(witness: &Witness, (socket, mut peer): Attempt<'_>) -> Result<()> {
    witness.gave_up(socket, peer.at, true)?;
    peer.hear(FIN | ACK)?;
    peer.say(RST | ACK, &[])
}
