//! What routers say of a connection that is open: nothing comes of it but smaller packets.

use std::{io::Write as _, net::Shutdown};

use anyhow::{Result, ensure};

use super::{
    Peer, arrived, asked,
    ending::{SAID, host_says},
    established, on_wire, opened,
    segment::{ACK, FIN, SYN, icmp},
};
use crate::{fact::Witness, scenarios::closing::expect_end};

/// A router says that the peer is not there, in each state of a connection.
pub(crate) fn errors(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        // ESTABLISHED, with something on the way; FIN-WAIT-1 and FIN-WAIT-2.
        let (mut host, mut peer) = opened(witness, device, place)?;
        host.write_all(&[7; SAID])?;
        let before = peer.ack;
        peer.hear_bytes(SAID)?;
        complains_of(&mut peer, before)?;
        host.shutdown(Shutdown::Write)?;
        let said = peer.ack;
        peer.hear(FIN | ACK)?;
        complains_of(&mut peer, said)?;
        peer.complain()?;
        peer.say(FIN | ACK, &[])?;
        expect_end(&mut host)?;
        drop(host);
        peer.closed(witness, (SAID, 0), ("local", ""))?;

        // CLOSE-WAIT and LAST-ACK.
        let (mut host, mut peer) = arrived(witness, device, place)?;
        peer.say(FIN | ACK, &[])?;
        expect_end(&mut host)?;
        peer.complain()?;
        host_says(&mut host, &mut peer)?;
        drop(host);
        let said = peer.ack;
        peer.hear(FIN | ACK)?;
        complains_of(&mut peer, said)?;
        peer.closed(witness, (SAID, 0), ("peer", ""))
    })
}

/// A router complains of what begins at `seq`, and then the peer acknowledges all that it heard.
fn complains_of(peer: &mut Peer<'_>, seq: u32) -> Result<()> {
    let heard = std::mem::replace(&mut peer.ack, seq);
    peer.complain()?;
    peer.ack = heard;
    peer.acknowledge()
}

/// What the host writes at once, and the size of the segments that the peer takes.
const WRITTEN: usize = 1_400;
const SEGMENT_SIZE: [u8; 4] = [2, 4, 0x05, 0x78];

/// A packet is too big for a router: its data is sent again in smaller ones.
pub(crate) fn too_big(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let (socket, mut peer) = asked(device, place)?;
        peer.options.extend(SEGMENT_SIZE);
        peer.say(SYN | ACK, &[])?;
        peer.options.clear();
        peer.hear(ACK)?;
        let mut host = established(witness, socket, &peer)?;
        let mut about = peer.last_heard(ACK);
        about.seq = peer.ack;
        host.write_all(&[7; WRITTEN])?;
        peer.hear_bytes(WRITTEN)?;
        let (what, size) = if place.1.is_ipv4() {
            ((3, 4), 700)
        } else {
            ((2, 0), 1_280)
        };
        device.send(&icmp(place.1, what, size, &about)?)?;
        let again = peer.hear_again(ACK)?;
        ensure!(again.payload.len() < WRITTEN, "{again:?} is as large");
        peer.acknowledge()?;
        drop(host);
        peer.end_after_host()?;
        peer.closed_resending(witness, (WRITTEN, 0), ("local", ""))
    })
}
