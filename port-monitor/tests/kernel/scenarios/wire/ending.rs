//! How connections end.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use rustix::{io::Errno, net::sockopt};

use super::{
    Peer, accept, arrived, on_wire, opened,
    segment::{ACK, FIN, RST},
    shake_hands,
};
use crate::{
    fact::Witness,
    scenarios::{breaking::expect_error, closing::expect_end},
    socket::any_port,
};

/// What one end says in a script, bytes.
pub(super) const SAID: usize = 700;

/// Says something, and waits until it is acknowledged.
pub(super) fn host_says(host: &mut TcpStream, peer: &mut Peer<'_>) -> Result<()> {
    host.write_all(&[7; SAID])?;
    peer.hear_bytes(SAID)?;
    peer.acknowledge()
}

pub(super) fn peer_says(host: &mut TcpStream, peer: &mut Peer<'_>) -> Result<()> {
    peer.say(ACK, &[8; SAID])?;
    host.read_exact(&mut [0; SAID])?;
    Ok(())
}

/// Both ends say FIN: one first, both at once, one long before the other.
pub(crate) fn in_order(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let (mut host, mut peer) = opened(witness, device, place)?;
        host_says(&mut host, &mut peer)?;
        peer_says(&mut host, &mut peer)?;
        drop(host);
        peer.end_after_host()?;
        peer.closed(witness, (SAID, SAID), ("local", ""))?;

        let (mut host, mut peer) = arrived(witness, device, place)?;
        peer_says(&mut host, &mut peer)?;
        peer.say(FIN | ACK, &[])?;
        expect_end(&mut host)?;
        host_says(&mut host, &mut peer)?;
        drop(host);
        peer.hear(FIN | ACK)?;
        peer.acknowledge()?;
        peer.closed(witness, (SAID, SAID), ("peer", ""))?;

        let (host, mut peer) = opened(witness, device, place)?;
        drop(host);
        both_at_once(&mut peer)?;
        peer.acknowledge()?;
        peer.closed(witness, (0, 0), ("local", ""))?;

        let (mut host, mut peer) = opened(witness, device, place)?;
        host.shutdown(Shutdown::Write)?;
        peer.hear(FIN | ACK)?;
        peer.acknowledge()?;
        peer_says(&mut host, &mut peer)?;
        peer.say(FIN | ACK, &[])?;
        expect_end(&mut host)?;
        drop(host);
        peer.closed(witness, (0, SAID), ("local", ""))
    })
}

/// `error.code` of a reset.
const RESET: &str = "ECONNRESET";

/// The peer resets the connection, in each state that it may be in.
pub(crate) fn resets(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        in_established(witness, opened(witness, device, place)?)?;
        in_close_wait(witness, arrived(witness, device, place)?)?;
        in_last_ack(witness, opened(witness, device, place)?)?;
        in_fin_wait_1(witness, arrived(witness, device, place)?)?;
        in_fin_wait_2(witness, opened(witness, device, place)?)?;
        in_closing(witness, opened(witness, device, place)?)?;
        in_time_wait(witness, opened(witness, device, place)?)
    })
}

type Connection<'w> = (TcpStream, Peer<'w>);

fn in_established(witness: &Witness, (mut host, mut peer): Connection<'_>) -> Result<()> {
    host_says(&mut host, &mut peer)?;
    peer.say(RST | ACK, &[])?;
    expect_error(&mut host, Errno::CONNRESET)?;
    peer.closed(witness, (SAID, 0), ("peer-reset", RESET))
}

fn in_close_wait(witness: &Witness, (mut host, mut peer): Connection<'_>) -> Result<()> {
    peer.say(FIN | ACK, &[])?;
    expect_end(&mut host)?;
    peer.say(RST | ACK, &[])?;
    peer.settle()?;
    drop(host);
    peer.closed(witness, (0, 0), ("peer", "EPIPE"))
}

fn in_last_ack(witness: &Witness, (mut host, mut peer): Connection<'_>) -> Result<()> {
    peer.say(FIN | ACK, &[])?;
    expect_end(&mut host)?;
    drop(host);
    peer.hear(FIN | ACK)?;
    peer.say(RST | ACK, &[])?;
    peer.closed(witness, (0, 0), ("peer", RESET))
}

fn in_fin_wait_1(witness: &Witness, (host, mut peer): Connection<'_>) -> Result<()> {
    drop(host);
    peer.hear_unsaid(FIN | ACK)?;
    peer.say(RST | ACK, &[])?;
    peer.closed(witness, (0, 0), ("local", RESET))
}

fn in_fin_wait_2(witness: &Witness, (mut host, mut peer): Connection<'_>) -> Result<()> {
    host.shutdown(Shutdown::Write)?;
    peer.hear(FIN | ACK)?;
    peer.acknowledge()?;
    peer_says(&mut host, &mut peer)?;
    peer.say(RST | ACK, &[])?;
    expect_error(&mut host, Errno::CONNRESET)?;
    peer.closed(witness, (0, SAID), ("local", RESET))
}

fn in_closing(witness: &Witness, (host, mut peer): Connection<'_>) -> Result<()> {
    drop(host);
    both_at_once(&mut peer)?;
    peer.say(RST | ACK, &[])?;
    peer.closed(witness, (0, 0), ("local", RESET))
}

/// The connection is over.
fn in_time_wait(witness: &Witness, (host, mut peer): Connection<'_>) -> Result<()> {
    drop(host);
    peer.end_after_host()?;
    peer.say(RST | ACK, &[])?;
    peer.closed(witness, (0, 0), ("local", ""))
}

/// Both say FIN before they have heard the other's; the host acknowledges.
fn both_at_once(peer: &mut Peer<'_>) -> Result<()> {
    let after = peer.hear_unsaid(FIN | ACK)?;
    peer.say(FIN | ACK, &[])?;
    peer.ack = after;
    peer.hear(ACK)?;
    Ok(())
}

/// The host has closed, and the peer says more: nobody is there to take it.
pub(crate) fn late(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let (mut host, mut peer) = opened(witness, device, place)?;
        peer_says(&mut host, &mut peer)?;
        drop(host);
        peer.hear(FIN | ACK)?;
        peer.acknowledge()?;
        peer.say(ACK, b"too late")?;
        peer.hear_reset(peer.ack)?;
        peer.closed(witness, (0, SAID), ("local", ""))?;

        // What the host did not read is why it resets.
        let (host, mut peer) = arrived(witness, device, place)?;
        peer.say(ACK, b"unread")?;
        crate::process::wait_until(|| Ok(rustix::io::ioctl_fionread(&host)? == 6))?;
        drop(host);
        peer.hear(RST | ACK)?;
        peer.closed(witness, (0, 6), ("local-reset", ""))
    })
}

/// The peer falls silent: after something was said, and when asked whether it lives.
pub(crate) fn silence(witness: &Witness) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    on_wire(|device, place| {
        let (mut host, mut peer) = opened(witness, device, place)?;
        sockopt::set_tcp_user_timeout(&host, 1_000)?;
        host.write_all(b"?")?;
        peer.hear_bytes(1)?;
        peer.hear_again(ACK)?;
        expect_error(&mut host, Errno::TIMEDOUT)?;
        peer.closed_resending(witness, (1, 0), ("timeout", "ETIMEDOUT"))?;

        // A router has said why.
        let (mut host, mut peer) = opened(witness, device, place)?;
        sockopt::set_tcp_user_timeout(&host, 1_000)?;
        host.write_all(b"?")?;
        peer.hear_bytes(1)?;
        peer.ack = peer.ack.wrapping_sub(1);
        peer.complain()?;
        expect_error(&mut host, Errno::HOSTUNREACH)?;
        peer.closed_resending(witness, (1, 0), ("timeout", "EHOSTUNREACH"))?;

        let (mut host, peer) = opened(witness, device, place)?;
        sockopt::set_tcp_keepidle(&host, SECOND)?;
        sockopt::set_tcp_keepintvl(&host, SECOND)?;
        sockopt::set_tcp_keepcnt(&host, 1)?;
        sockopt::set_socket_keepalive(&host, true)?;
        expect_error(&mut host, Errno::TIMEDOUT)?;
        peer.closed(witness, (0, 0), ("timeout", "ETIMEDOUT"))
    })
}

/// The host has closed first, and the peer is back from the same port at once, with
/// numbers beyond those of the old connection: RFC 9293 §3.10.7.4.
pub(crate) fn again(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        let listener = witness.listen(any_port(place.0))?;
        let mut peer = Peer::new(device, (place.1, 7_000).into(), listener.at);
        for round in 1..=2_usize {
            shake_hands(&mut peer)?;
            let mut host = accept(witness, &listener)?;
            for _ in 0..round {
                peer_says(&mut host, &mut peer)?;
            }
            drop(host);
            peer.end_after_host()?;
            ensure!(peer.ack != 0, "nothing was heard");
            peer.closed(witness, (0, round * SAID), ("local", ""))?;
            peer.seq = peer.seq.wrapping_add(100_000);
            // The host chooses numbers of its own.
            peer.ack = 0;
        }
        Ok(())
    })
}
