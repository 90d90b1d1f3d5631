//! What happens to data on the way: nothing of it is told twice, and nothing is lost that
//! the kernel said.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    Peer, Place, WINDOW, answer, arrived, asked,
    device::Device,
    established, on_wire, opened,
    segment::{ACK, FIN, RST, SYN, icmp},
    unreachable_host,
};
use crate::{
    fact::Witness,
    scenarios::{breaking::expect_error, closing::expect_end},
};

/// What the host writes.
const WRITTEN: usize = 3_000;

/// Data is lost, and sent again; a part is acknowledged, and no more.
pub(crate) fn losses(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let (mut host, mut peer) = opened(witness, device, place)?;
        host.write_all(&[1; WRITTEN])?;
        let before = peer.ack;
        peer.hear_bytes(WRITTEN)?;
        let again = peer.hear_again(ACK)?;
        ensure!(again.seq == before, "{again:?} is not the first");
        peer.acknowledge()?;
        drop(host);
        peer.end_after_host()?;
        peer.closed_resending(witness, (WRITTEN, 0), ("local", ""))?;

        let (mut host, mut peer) = opened(witness, device, place)?;
        host.write_all(&[1; WRITTEN])?;
        let before = peer.ack;
        peer.hear_bytes(WRITTEN)?;
        peer.ack = before.wrapping_add(100);
        peer.acknowledge()?;
        peer.say(RST | ACK, &[])?;
        expect_error(&mut host, Errno::CONNRESET)?;
        peer.closed(witness, (WRITTEN, 0), ("peer-reset", "ECONNRESET"))
    })
}

/// The peer takes nothing for a while, and takes it then; or never.
pub(crate) fn window(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let (socket, mut peer) = asked(device, place)?;
        peer.window = 0;
        answer(&mut peer)?;
        let mut host = established(witness, socket, &peer)?;
        host.write_all(&[1; WRITTEN])?;
        // The host asks whether there is room by an old number.
        peer.hear_probe()?;
        peer.acknowledge()?;
        peer.window = WINDOW;
        peer.acknowledge()?;
        peer.hear_bytes(WRITTEN)?;
        peer.acknowledge()?;
        drop(host);
        peer.end_after_host()?;
        peer.closed(witness, (WRITTEN, 0), ("local", ""))?;

        let (socket, mut peer) = asked(device, place)?;
        peer.window = 0;
        answer(&mut peer)?;
        let mut host = established(witness, socket, &peer)?;
        host.write_all(&[1; WRITTEN])?;
        peer.hear_probe()?;
        peer.say(RST | ACK, &[])?;
        expect_error(&mut host, Errno::CONNRESET)?;
        peer.closed(witness, (0, 0), ("peer-reset", "ECONNRESET"))
    })
}

/// Segments that come twice, too early, too late, or were never meant.
pub(crate) fn oddities(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        // Twice, overlapping, and in the wrong order: 30 bytes.
        let (mut host, mut peer) = arrived(witness, device, place)?;
        let first = peer.segment(ACK, &[1; 10]);
        peer.say(ACK, &[1; 10])?;
        peer.send(&first)?;
        let mut overlapping = peer.segment(ACK, &[1; 15]);
        overlapping.seq = first.seq.wrapping_add(5);
        let mut early = peer.segment(ACK, &[1; 10]);
        early.seq = first.seq.wrapping_add(20);
        peer.send(&early)?;
        peer.send(&overlapping)?;
        peer.seq = first.seq.wrapping_add(30);
        host.read_exact(&mut [0; 30])?;

        // Beyond all that was asked for, and a reset that only looks right: RFC 5961.
        let mut beyond = peer.segment(ACK, b"beyond");
        beyond.seq = peer.seq.wrapping_add(0x4000_0000);
        peer.send(&beyond)?;
        let mut reset = peer.segment(RST | ACK, &[]);
        reset.seq = peer.seq.wrapping_add(100);
        peer.send(&reset)?;
        peer.send(&peer.segment(SYN, &[]))?;
        // A router says that nobody is there, of something that was said and heard.
        device.send(&icmp(
            peer.at.ip(),
            unreachable_host(peer.at.ip()),
            0,
            &peer.last_heard(ACK),
        )?)?;

        host.write_all(b"still here")?;
        peer.hear_bytes(10)?;
        peer.say(FIN | ACK, &[])?;
        expect_end(&mut host)?;
        drop(host);
        peer.hear(FIN | ACK)?;
        peer.acknowledge()?;
        peer.closed(witness, (10, 30), ("peer", ""))?;
        old(witness, device, place)
    })
}

/// A segment with a time from before the last one's: RFC 7323 §5.
fn old(witness: &Witness, device: &Device, place: Place) -> Result<()> {
    let listener = witness.listen(crate::socket::any_port(place.0))?;
    let mut peer = Peer::new(device, (place.1, 7_000).into(), listener.at);
    peer.options = stamped(5_000);
    super::shake_hands(&mut peer)?;
    let mut host = super::accept(witness, &listener)?;
    peer.say(ACK, &[1; 10])?;
    peer.options = stamped(1_000);
    peer.send(&peer.segment(ACK, &[1; 10]))?;
    peer.options = stamped(5_001);
    peer.say(FIN | ACK, &[1; 5])?;
    let mut said = Vec::new();
    host.read_to_end(&mut said)?;
    ensure!(said.len() == 15, "{} bytes", said.len());
    drop(host);
    peer.hear(FIN | ACK)?;
    peer.acknowledge()?;
    peer.closed(witness, (0, 15), ("peer", ""))
}

/// The option of a time: RFC 7323 §3.2, after two that mean nothing.
fn stamped(time: u32) -> Vec<u8> {
    let mut option = vec![1, 1, 8, 10];
    option.extend(time.to_be_bytes());
    option.extend([0; 4]);
    option
}
