//! Where the process is: network namespace, cgroup, CPU.

use std::{fs, mem, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};
use rustix::{io::Errno, thread::UnshareFlags};

use crate::{
    cgroup::{self, Cgroups},
    fact::Witness,
    process::{fork, pin},
    socket::{Refusing, V4, V6, any_port, open},
    workload::runner_pid,
};

/// Moves the calling process into a network namespace of its own, in which
/// even loopback is down.
pub(super) fn enter_new_netns() -> Result<()> {
    // SAFETY: a network namespace of its own changes nothing that memory safety
    // rests on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("unshare(CLONE_NEWNET)")
}

pub(super) fn other_netns(witness: &Witness) -> Result<()> {
    enter_new_netns()?;
    bring_loopback_up()?;
    witness.pair(V4)?;
    witness.pair(V6)
}

pub(super) fn bring_loopback_up() -> Result<()> {
    let socket = open(V4)?;
    // SAFETY: all-zero bytes are a valid `ifreq`, plain data.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP)?;
    // SAFETY: the descriptor is open; the kernel reads one `ifreq`.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("bring lo up");
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
    const STEERING: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";
    let spinner = fork(|| {
        pin(1)?;
        loop {
            std::hint::spin_loop();
        }
    })?;
    fs::write(STEERING, "2").with_context(|| format!("write {STEERING}"))?;
    let result = pin(0).and_then(|()| connect_across(witness));
    fs::write(STEERING, "0").with_context(|| format!("write {STEERING}"))?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(spinner.pid())?).context("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
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
