//! Connections whose other end is a script: segment by segment, over a wire of the
//! scenario's own, so that everything a network may do to a connection happens when and
//! how it is meant to.
//!
//! The wire is a TUN device in a network namespace without any other. Another process puts
//! the packets on it: whatever the kernel does with them is done in the context of a
//! process that has nothing to do with the connection.

mod asking;
mod between;
mod crossing;
mod device;
mod early;
mod ending;
mod routers;
mod segment;

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{io::Errno, net::SocketFlags};

pub(super) use self::{
    asking::{answers, inbound, unreachable},
    between::{losses, oddities, window},
    crossing::crossing,
    early::data_in_syn,
    ending::{again, in_order, late, resets, silence},
    routers::{errors, too_big},
};
use self::{
    device::Device,
    segment::{ACK, FIN, RST, SYN, Segment, icmp},
};
use crate::{
    fact::{Ending, Resent, Witness},
    process::PATIENCE,
    socket::{Ends, Listener, any_port, bind, local, open_with},
};

type Place = (IpAddr, IpAddr);

/// The host and who it speaks with, in each family.
const PLACES: [Place; 2] = [
    (
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    ),
];

/// Where a script's numbers begin.
const FIRST_SEQ: u32 = 1_000_000;

/// How much a script takes at once.
const WINDOW: u16 = 60_000;

/// The script's end of a connection.
struct Peer<'w> {
    device: &'w Device,
    at: SocketAddr,
    host: SocketAddr,
    /// Of what it says next.
    seq: u32,
    /// What it has heard.
    ack: u32,
    window: u16,
    options: Vec<u8>,
}

impl<'w> Peer<'w> {
    const fn new(device: &'w Device, at: SocketAddr, host: SocketAddr) -> Self {
        Self {
            device,
            at,
            host,
            seq: FIRST_SEQ,
            ack: 0,
            window: WINDOW,
            options: Vec::new(),
        }
    }

    /// Names both ends, the host's first.
    const fn ends(&self) -> Ends {
        (self.host, self.at)
    }

    /// The segment that it would send now.
    fn segment(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            from: self.at,
            to: self.host,
            seq: self.seq,
            ack: if flags & ACK == 0 { 0 } else { self.ack },
            flags,
            window: self.window,
            options: self.options.clone(),
            payload: payload.to_vec(),
        }
    }

    /// Sends a segment that the host takes.
    fn say(&mut self, flags: u8, payload: &[u8]) -> Result<()> {
        let segment = self.segment(flags, payload);
        self.seq = self.seq.wrapping_add(segment.length());
        self.device.send(&segment.packet()?)
    }

    /// Sends any segment.
    fn send(&self, segment: &Segment) -> Result<()> {
        self.device.send(&segment.packet()?)
    }

    /// Waits for the host's next segment with these flags, which says something new, or
    /// nothing at all; takes it, and tells what it said.
    fn hear(&mut self, flags: u8) -> Result<Vec<u8>> {
        let heard = self.next(flags, |segment, ack| {
            segment.length() == 0 || flags & SYN != 0 || segment.seq == ack
        })?;
        self.ack = heard.seq.wrapping_add(heard.length());
        Ok(heard.payload)
    }

    /// Hears a segment, but goes on as if it had not: tells what it would acknowledge.
    fn hear_unsaid(&mut self, flags: u8) -> Result<u32> {
        let before = self.ack;
        self.hear(flags)?;
        Ok(mem::replace(&mut self.ack, before))
    }

    /// Waits until the host has sent this much.
    fn hear_bytes(&mut self, bytes: usize) -> Result<()> {
        let mut heard = 0;
        while heard < bytes {
            let said = self.next(ACK, |segment, ack| {
                !segment.payload.is_empty() && segment.seq == ack
            })?;
            self.ack = self.ack.wrapping_add(said.length());
            heard += said.payload.len();
        }
        ensure!(heard == bytes, "{heard} bytes, not {bytes}");
        Ok(())
    }

    /// Waits until the host says what it has said before.
    fn hear_again(&self, flags: u8) -> Result<Segment> {
        self.next(flags, |segment, ack| {
            segment.length() > 0 && segment.seq.wrapping_sub(ack).cast_signed() < 0
        })
    }

    /// The host's next segment that is meant. What acknowledges and says nothing, and
    /// what is said again, may come at any time.
    fn next(&self, flags: u8, is_meant: impl Fn(&Segment, u32) -> bool) -> Result<Segment> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let segment = self.device.receive(deadline, self.ends())?;
            if segment.flags == flags && is_meant(&segment, self.ack) {
                return Ok(segment);
            }
            let is_old = segment.seq.wrapping_sub(self.ack).cast_signed() < 0;
            let is_usual = segment.flags == ACK && segment.payload.is_empty();
            if !is_usual && !is_old {
                bail!("{segment:?}, where flags {flags} were expected");
            }
        }
    }

    /// Waits for a reset that begins where the host was told that it is.
    fn hear_reset(&self, seq: u32) -> Result<()> {
        let reset = self
            .device
            .receive(Instant::now() + PATIENCE, self.ends())?;
        let is_meant = reset.flags & RST != 0 && reset.seq == seq;
        ensure!(is_meant, "{reset:?}, not a reset at {seq}");
        Ok(())
    }

    /// Waits until the host asks whether there is room: by a number that was heard.
    fn hear_probe(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let segment = self.device.receive(deadline, self.ends())?;
            if segment.flags == ACK && segment.seq == self.ack.wrapping_sub(1) {
                return Ok(());
            }
            ensure!(
                segment.payload.is_empty(),
                "{segment:?}, with no room for it"
            );
        }
    }

    /// A router says that the peer is not there, of what the host says next, or has said since
    /// it was last acknowledged. The host has taken it then.
    fn complain(&self) -> Result<()> {
        let mut about = self.last_heard(ACK);
        about.seq = self.ack;
        let what = unreachable_host(self.at.ip());
        self.device.send(&icmp(self.at.ip(), what, 0, &about)?)?;
        self.settle()
    }

    /// The last segment that was heard, as a router may quote it.
    fn last_heard(&self, flags: u8) -> Segment {
        Segment {
            from: self.host,
            to: self.at,
            seq: self.ack.wrapping_sub(1),
            ack: self.seq,
            flags,
            window: WINDOW,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Waits until the host has taken all that was sent: packets are taken in order, and it
    /// answers a SYN to a port where nobody listens.
    fn settle(&self) -> Result<()> {
        let nobody = SocketAddr::new(self.host.ip(), 1);
        let other = SocketAddr::new(self.at.ip(), self.at.port().wrapping_add(10_000));
        let mut asking = Self::new(self.device, other, nobody);
        asking.say(SYN, &[])?;
        asking.next(RST | ACK, |_, _| true)?;
        Ok(())
    }

    /// Writes down how the connection has ended for the host, and how often it has sent
    /// something again by then.
    fn closed(&self, witness: &Witness, bytes: (usize, usize), how: (&str, &str)) -> Result<()> {
        self.settle()?;
        let resent = Resent::Times(self.device.resent(self.ends()));
        witness.closed_resending(self.ends(), bytes, how, resent)
    }

    /// As [`Self::closed`], where it has sent something again.
    fn closed_resending(
        &self,
        witness: &Witness,
        bytes: (usize, usize),
        how: (&str, &str),
    ) -> Result<()> {
        self.closed(witness, bytes, how)?;
        let resent = self.device.resent(self.ends());
        ensure!(resent > 0, "nothing was sent again");
        Ok(())
    }

    /// Acknowledges what it has heard.
    fn acknowledge(&mut self) -> Result<()> {
        self.say(ACK, &[])
    }

    /// Both ends say FIN, the host first, and acknowledge it.
    fn end_after_host(&mut self) -> Result<()> {
        self.hear(FIN | ACK)?;
        self.say(FIN | ACK, &[])?;
        self.hear(ACK)?;
        Ok(())
    }
}

/// No such host there: type and code.
const fn unreachable_host(of: IpAddr) -> (u8, u8) {
    if of.is_ipv4() { (3, 1) } else { (1, 3) }
}

/// An attempt of the host, whose SYN the script has heard.
fn asked(device: &Device, (host, peer): Place) -> Result<(Socket, Peer<'_>)> {
    let socket = open_with(host, SocketFlags::NONBLOCK)?;
    bind(&socket, any_port(host))?;
    let at = SocketAddr::new(peer, 7_000);
    let outcome = rustix::net::connect(&socket, &at);
    ensure!(outcome == Err(Errno::INPROGRESS), "connect: {outcome:?}");
    let mut peer = Peer::new(device, at, local(&socket)?);
    peer.hear(SYN)?;
    Ok((socket, peer))
}

type Socket = std::os::fd::OwnedFd;

/// A connection that the host has opened.
fn opened<'w>(
    witness: &Witness,
    device: &'w Device,
    place: Place,
) -> Result<(TcpStream, Peer<'w>)> {
    let (socket, mut peer) = asked(device, place)?;
    answer(&mut peer)?;
    let stream = established(witness, socket, &peer)?;
    Ok((stream, peer))
}

/// The script takes the host's connection.
fn answer(peer: &mut Peer<'_>) -> Result<()> {
    peer.say(SYN | ACK, &[])?;
    peer.hear(ACK)?;
    Ok(())
}

/// The host's attempt has succeeded.
fn established(witness: &Witness, socket: Socket, peer: &Peer<'_>) -> Result<TcpStream> {
    crate::socket::poll(&socket, rustix::event::PollFlags::OUT)?;
    witness.attempted(&socket, peer.at, true, Ending::Connected)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
}

/// A connection that the script has opened, to a listener of its own.
fn arrived<'w>(
    witness: &Witness,
    device: &'w Device,
    (host, peer): Place,
) -> Result<(TcpStream, Peer<'w>)> {
    let listener = witness.listen(any_port(host))?;
    let mut peer = Peer::new(device, SocketAddr::new(peer, 7_000), listener.at);
    shake_hands(&mut peer)?;
    Ok((accept(witness, &listener)?, peer))
}

/// The script connects.
fn shake_hands(peer: &mut Peer<'_>) -> Result<()> {
    peer.say(SYN, &[])?;
    peer.hear(SYN | ACK)?;
    peer.acknowledge()
}

fn accept(witness: &Witness, listener: &Listener) -> Result<TcpStream> {
    Ok(witness.accept(listener)?.into())
}

/// Does something in each family, over a wire of its own.
fn on_wire(work: impl Fn(&Device, Place) -> Result<()>) -> Result<()> {
    let device = Device::new(PLACES)?;
    for place in PLACES {
        work(&device, place).with_context(|| format!("with {}", place.1))?;
        // What was said last has its effect before the scenario is over.
        let nobody = Peer::new(&device, (place.1, 6_000).into(), (place.0, 1).into());
        nobody.settle()?;
    }
    Ok(())
}
