//! The wire: a TUN device, and the process that puts packets on it.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::OpenOptions,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Signal, set_parent_process_death_signal},
};

use super::segment::{SYN, Segment};
use crate::{
    process::fork,
    scenarios::places::{self, configure_ipv6, enter_loopback_netns, set_address, set_flags},
    socket::Ends,
};

const NAME: &str = "wire";
/// More than any packet here.
const PACKET: usize = 1 << 16;

/// A wire between this host's network namespace and a script.
pub(super) struct Device {
    /// Packets from and to the process that holds the device.
    packets: OwnedFd,
    buffer: RefCell<Vec<u8>>,
    said: RefCell<HashMap<Ends, Said>>,
}

/// What the host has said of its numbers in a connection.
struct Said {
    /// The number and the flags of its SYN.
    begin: (u32, u8),
    end: u32,
    /// Segments that said nothing new.
    again: u64,
}

impl Said {
    fn hear(&mut self, segment: &Segment) {
        let end = segment.seq.wrapping_add(segment.length());
        if end.wrapping_sub(self.end).cast_signed() > 0 {
            self.end = end;
        } else if segment.flags & SYN == 0 || (segment.seq, segment.flags) == self.begin {
            self.again += 1;
        } else {
            // Of the SYNs of both ends neither was an answer: it acknowledges the peer's.
            self.begin = (segment.seq, segment.flags);
        }
    }
}

impl Device {
    /// A wire with the host at the first address of each place, in a network namespace
    /// that the calling process enters.
    pub(super) fn new(places: [(IpAddr, IpAddr); 2]) -> Result<Self> {
        enter_loopback_netns()?;
        let device = open()?;
        for (host, peer) in places {
            match (host, peer) {
                (IpAddr::V4(host), IpAddr::V4(peer)) => {
                    set_address(libc::SIOCSIFADDR, NAME, host)?;
                    set_address(libc::SIOCSIFDSTADDR, NAME, peer)?;
                    set_flags(NAME, libc::IFF_UP)?;
                }
                (IpAddr::V6(host), IpAddr::V6(_)) => configure_ipv6(NAME, host, 64)?,
                _ => bail!("{host} and {peer} are not of one family"),
            }
        }
        let (packets, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Ends with this process.
        let _holder = fork(move || carry(&device, &other))?;
        Ok(Self {
            packets,
            buffer: RefCell::new(vec![0; PACKET]),
            said: RefCell::default(),
        })
    }

    /// Puts a packet on the wire.
    pub(super) fn send(&self, packet: &[u8]) -> Result<()> {
        rustix::io::write(&self.packets, packet).context("put a packet on the wire")?;
        Ok(())
    }

    /// The host's next segment of the connection with these ends, the host's first.
    pub(super) fn receive(&self, deadline: Instant, ends: Ends) -> Result<Segment> {
        let mut buffer = self.buffer.borrow_mut();
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let patience = Timespec::try_from(patience)?;
            let mut fds = [PollFd::new(&self.packets, PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&patience))? == 0 {
                bail!("the host did not send what was expected");
            }
            let length = rustix::io::read(&self.packets, &mut **buffer)?;
            if length == 0 {
                bail!("the wire is gone");
            }
            let packet = buffer.get(..length).context("a packet is too long")?;
            let segment = Segment::of(packet);
            let Some(segment) = segment else {
                continue;
            };
            self.hear(&segment);
            if (segment.from, segment.to) == ends {
                return Ok(segment);
            }
        }
    }

    /// Counts what is said again.
    fn hear(&self, segment: &Segment) {
        if segment.length() == 0 {
            return;
        }
        let begin = (segment.seq, segment.flags);
        let first = Said {
            begin,
            end: segment.seq.wrapping_add(segment.length()),
            again: 0,
        };
        let mut said = self.said.borrow_mut();
        let ends = (segment.from, segment.to);
        let is_other = |said: &Said| segment.flags & SYN != 0 && segment.seq != said.begin.0;
        match said.get_mut(&ends) {
            Some(known) if !is_other(known) => known.hear(segment),
            _ => {
                said.insert(ends, first);
            }
        }
    }

    /// How many segments the host has said again in the connection with these ends, of those
    /// that were received.
    pub(super) fn resent(&self, ends: Ends) -> u64 {
        self.said.borrow().get(&ends).map_or(0, |said| said.again)
    }
}

/// A new device, which goes with its descriptor: `TUNSETIFF` of the kernel's
/// `Documentation/networking/tuntap.rst`.
fn open() -> Result<OwnedFd> {
    const PATH: &str = "/dev/net/tun";
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(PATH)
        .with_context(|| format!("open {PATH}"))?;
    let mut request = places::request(NAME)?;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: the descriptor is open; the kernel reads and writes one `ifreq`.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("make a TUN device");
    }
    Ok(device.into())
}

/// Carries packets between the device and a script, until that is gone.
fn carry(device: &OwnedFd, script: &OwnedFd) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut buffer = vec![0; PACKET];
    loop {
        let mut fds = [
            PollFd::new(device, PollFlags::IN),
            PollFd::new(script, PollFlags::IN),
        ];
        rustix::event::poll(&mut fds, None)?;
        let [from_device, from_script] = fds.map(|fd| !fd.revents().is_empty());
        for (from, to, is_ready) in [(device, script, from_device), (script, device, from_script)] {
            if !is_ready {
                continue;
            }
            let length = rustix::io::read(from, &mut *buffer)?;
            if length == 0 {
                return Ok(());
            }
            rustix::io::write(to, buffer.get(..length).context("a packet is too long")?)?;
        }
    }
}
