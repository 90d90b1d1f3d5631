//! TCP Fast Open: data in the SYN, RFC 7413.

use std::{fs, io::Read as _};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{SendFlags, SocketFlags},
};

use super::{
    Peer, Place, Socket, accept,
    asking::fails,
    device::Device,
    established, on_wire,
    segment::{ACK, RST, SYN},
};
use crate::{
    fact::Witness,
    socket::{any_port, bind, local, open_with},
};

/// Bytes in a SYN.
const FIRST: usize = 400;
const FIRST_U32: u32 = 400;

/// Both ends speak with their SYN, and nobody asks for cookies.
pub(crate) fn data_in_syn(witness: &Witness) -> Result<()> {
    on_wire(|device, place| {
        allow()?;
        taken(witness, speaks_first(device, place)?)?;
        left(witness, speaks_first(device, place)?)?;
        lost(witness, speaks_first(device, place)?)?;
        let (socket, mut peer) = speaks_first(device, place)?;
        peer.say(RST | ACK, &[])?;
        fails(witness, &socket, &peer, Errno::CONNREFUSED)?;
        spoken_to(witness, device, place)
    })
}

/// Lets every socket of this network namespace do it: `Documentation/networking/ip-sysctl.rst`.
fn allow() -> Result<()> {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_fastopen";
    const CLIENT: u32 = 1;
    const SERVER: u32 = 2;
    const CLIENT_WITHOUT_COOKIE: u32 = 4;
    const SERVER_WITHOUT_COOKIE: u32 = 0x200;
    const EVERY_LISTENER: u32 = 0x400;
    let all = CLIENT | SERVER | CLIENT_WITHOUT_COOKIE | SERVER_WITHOUT_COOKIE | EVERY_LISTENER;
    fs::write(SETTING, all.to_string()).with_context(|| format!("write {SETTING}"))
}

/// An attempt whose SYN the script has heard, with all that it said.
fn speaks_first(device: &Device, (host, peer): Place) -> Result<(Socket, Peer<'_>)> {
    let socket = open_with(host, SocketFlags::NONBLOCK)?;
    bind(&socket, any_port(host))?;
    let at = (peer, 7_000).into();
    let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    let sent = rustix::net::sendto(&socket, &[7; FIRST], flags, &at)?;
    let mut peer = Peer::new(device, at, local(&socket)?);
    let heard = peer.hear(SYN)?.len();
    ensure!(
        (sent, heard) == (FIRST, FIRST),
        "{sent} sent, {heard} heard"
    );
    Ok((socket, peer))
}

/// The peer takes what the SYN says.
fn taken(witness: &Witness, (socket, mut peer): (Socket, Peer<'_>)) -> Result<()> {
    peer.say(SYN | ACK, &[])?;
    peer.hear(ACK)?;
    drop(established(witness, socket, &peer)?);
    peer.end_after_host()?;
    peer.closed(witness, (FIRST, 0), ("local", ""))
}

/// It takes the SYN alone: the rest is said again.
fn left(witness: &Witness, (socket, mut peer): (Socket, Peer<'_>)) -> Result<()> {
    peer.ack = peer.ack.wrapping_sub(FIRST_U32);
    peer.say(SYN | ACK, &[])?;
    peer.hear_bytes(FIRST)?;
    peer.acknowledge()?;
    drop(established(witness, socket, &peer)?);
    peer.end_after_host()?;
    peer.closed_resending(witness, (FIRST, 0), ("local", ""))
}

/// The SYN is lost, and its second one says nothing.
fn lost(witness: &Witness, (socket, peer): (Socket, Peer<'_>)) -> Result<()> {
    let again = peer.hear_again(SYN)?;
    ensure!(again.payload.is_empty(), "{again:?}");
    left(witness, (socket, peer))
}

/// The host's listener takes what a SYN says.
fn spoken_to(witness: &Witness, device: &Device, place: Place) -> Result<()> {
    let listener = witness.listen(any_port(place.0))?;
    let mut peer = Peer::new(device, (place.1, 7_000).into(), listener.at);
    peer.say(SYN, &[8; FIRST])?;
    peer.hear(SYN | ACK)?;
    peer.acknowledge()?;
    let mut server = accept(witness, &listener)?;
    server.read_exact(&mut [0; FIRST])?;
    drop(server);
    peer.end_after_host()?;
    peer.closed(witness, (0, FIRST), ("local", ""))
}
