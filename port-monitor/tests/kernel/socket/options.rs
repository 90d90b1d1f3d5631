//! Options of sockets that no library sets.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};

/// Sets a TCP option that takes a number.
pub(crate) fn set_tcp(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_TCP, option, value)
        .with_context(|| format!("set TCP option {option}"))
}

/// Lets the socket send by the loopback device only: nothing of it leaves this host.
pub(crate) fn keep_on_loopback(socket: impl AsFd) -> Result<()> {
    let device = b"lo";
    let size = libc::socklen_t::try_from(device.len())?;
    // SAFETY: the descriptor is open, and the kernel reads `size` bytes.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            size,
        )
    };
    ensure!(
        failed == 0,
        "SO_BINDTODEVICE: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Gives what the socket sends a mark for the firewall.
pub(crate) fn set_mark(socket: &OwnedFd, mark: libc::c_int) -> Result<()> {
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark).context("set SO_MARK")
}

/// Makes the socket deaf or lets it hear again: no packet of this host has come
/// far enough to be taken, and none is answered.
pub(crate) fn set_deaf(socket: impl AsFd, deaf: bool) -> Result<()> {
    let least_ttl = if deaf { 255 } else { 0 };
    set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MINTTL, least_ttl)
        .context("set IP_MINTTL")
}

/// How many packets that came for the socket the kernel has thrown away, those that a
/// deaf one did not hear among them.
pub(crate) fn dropped(socket: impl AsFd) -> Result<u32> {
    // Up to `SK_MEMINFO_DROPS`, the last one.
    let mut counts = [0_u32; 9];
    let mut size = libc::socklen_t::try_from(size_of_val(&counts))?;
    // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes to
    // `counts`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            counts.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("get SO_MEMINFO");
    }
    Ok(counts[8])
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    // SAFETY: the descriptor is open, and the kernel reads `size` bytes of
    // `value`, which outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if status != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}
