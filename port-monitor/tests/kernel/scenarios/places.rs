//! Where the process is: network namespace, cgroup, CPU.

use std::{
    ffi::CString,
    fs,
    io::ErrorKind,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    process::{Signal, set_parent_process_death_signal},
    thread::UnshareFlags,
};

use crate::{
    cgroup::{self, Cgroups},
    fact::Witness,
    process::{Forked, fork, pin},
    socket::{Refusing, V4, V6, any_port, open},
    workload::runner_pid,
};

/// What the kernel takes longer for has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Moves the calling process into a network namespace of its own, in which
/// even loopback is down.
pub(crate) fn enter_new_netns() -> Result<()> {
    // SAFETY: a network namespace of its own changes nothing that memory safety
    // rests on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("unshare(CLONE_NEWNET)")
}

pub(super) fn other_netns(witness: &Witness) -> Result<()> {
    enter_loopback_netns()?;
    witness.pair(V4)?;
    witness.pair(V6)
}

/// Moves the calling process into a network namespace of its own, with loopback.
pub(crate) fn enter_loopback_netns() -> Result<()> {
    enter_new_netns()?;
    set_flags("lo", libc::IFF_UP)
}

/// A second address of loopback, and its label.
pub(crate) const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SECOND_LABEL: &str = "lo:1";

/// Gives loopback the second address.
pub(crate) fn add_second_address() -> Result<()> {
    set_address(libc::SIOCSIFADDR, SECOND_LABEL, SECOND_ADDRESS)
}

/// Sets an address of an interface: which, the request says.
pub(super) fn set_address(what: libc::Ioctl, name: &str, addr: Ipv4Addr) -> Result<()> {
    let mut request = request(name)?;
    // SAFETY: all-zero bytes are a valid `sockaddr`, plain data.
    let mut address: libc::sockaddr = unsafe { mem::zeroed() };
    address.sa_family = libc::sa_family_t::try_from(libc::AF_INET)?;
    // `sockaddr_in`: the port, then the address.
    for (to, from) in address.sa_data.iter_mut().skip(2).zip(addr.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_addr = address;
    ask(V4, what, &request)
}

/// Gives an interface that is up an IPv6 address, which can be bound then.
pub(super) fn configure_ipv6(name: &str, addr: Ipv6Addr, prefix: u32) -> Result<()> {
    /// `struct in6_ifreq` of the kernel's `uapi/linux/ipv6.h`.
    #[repr(C)]
    struct Request {
        addr: [u8; 16],
        prefix: u32,
        index: libc::c_int,
    }
    let name = CString::new(name)?;
    // SAFETY: the name ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let request = Request {
        addr: addr.octets(),
        prefix,
        index: index.try_into()?,
    };
    ask(V6, libc::SIOCSIFADDR, &request)?;
    // The address is tentative until a worker of the kernel has looked at it
    // (`addrconf_dad_work`), also where there are no neighbours to have it.
    let begun = Instant::now();
    while let Err(error) = UdpSocket::bind((addr, 0)) {
        let is_tentative = error.kind() == ErrorKind::AddrNotAvailable;
        if !is_tentative || begun.elapsed() > PATIENCE {
            return Err(error).with_context(|| format!("bind {addr}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Takes it away, and the way to it.
pub(super) fn remove_second_address() -> Result<()> {
    set_flags(SECOND_LABEL, 0)
}

/// Sets an interface's flags.
pub(super) fn set_flags(name: &str, flags: libc::c_int) -> Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    ask(V4, libc::SIOCSIFFLAGS, &request)
}

/// A request about an interface, with nothing in it.
pub(super) fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`, plain data.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from)?;
    }
    Ok(request)
}

/// Asks a family of the kernel's addresses for something.
fn ask<T>(family: IpAddr, what: libc::Ioctl, request: &T) -> Result<()> {
    let socket = open(family)?;
    // SAFETY: the descriptor is open; the kernel reads one request of this kind.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_ref(request)) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("configure an interface");
    }
    Ok(())
}

pub(super) fn cgroup_unit(witness: &Witness) -> Result<()> {
    cgroup::enter(&own_cgroups()?.unit())?;
    witness.pair(V4)
}

pub(super) fn cgroup_container(witness: &Witness) -> Result<()> {
    cgroup::enter(&own_cgroups()?.container())?;
    witness.pair(V4)
}

/// The cgroups the runner made for its workloads.
pub(super) fn own_cgroups() -> Result<Cgroups> {
    Ok(Cgroups::of(runner_pid().parse()?))
}

/// Loopback packets are handled on another CPU, where a spinner runs: what is
/// `current` in softirq is then never the owner.
pub(super) fn softirq_elsewhere(witness: &Witness) -> Result<()> {
    steer_softirqs(&[1], || {
        pin(0)?;
        connect_across(witness)
    })
}

/// Has loopback packets handled on these CPUs, a hexadecimal mask: on whichever sends them if
/// it is zero.
pub(crate) fn steer_packets(cpus: &str) -> Result<()> {
    const STEERING: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";
    fs::write(STEERING, cpus).with_context(|| format!("write {STEERING}"))
}

/// Does something while loopback packets are handled on CPU 1 and spinners run on
/// some CPUs.
pub(super) fn steer_softirqs(busy: &[usize], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let spinners = busy
        .iter()
        .map(|&cpu| {
            fork(|| {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                pin(cpu)?;
                loop {
                    std::hint::spin_loop();
                }
            })
        })
        .collect::<Result<Vec<_>>>()?;
    steer_packets("2")?;
    let result = work();
    steer_packets("0")?;
    spinners.into_iter().try_for_each(Forked::kill)?;
    result
}

fn connect_across(witness: &Witness) -> Result<()> {
    for ip in [V4, V6] {
        let listener = witness.listen(any_port(ip))?;
        for _ in 0..16 {
            let _client = witness.connect(listener.at)?;
            witness.accept(&listener)?;
        }
        let refusing = Refusing::new(ip)?;
        witness.connect_in_vain(Some(any_port(ip)), refusing.at, Errno::CONNREFUSED)?;
    }
    Ok(())
}
