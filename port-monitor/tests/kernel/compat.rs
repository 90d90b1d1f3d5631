//! System calls as programs of 32 bits make them (`arch/x86/entry/entry_64_compat.S`).

use std::{
    arch::asm,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

/// `__NR_socketcall` (`arch/x86/entry/syscalls/syscall_32.tbl`).
const SOCKETCALL: u64 = 102;
/// `SYS_CONNECT` (`include/uapi/linux/net.h`).
const CONNECT: u64 = 3;

/// What is handed over, below 4 GiB.
#[repr(C)]
struct Memory {
    /// Descriptor, address of the address, its size.
    arguments: [u32; 3],
    address: libc::sockaddr_in,
}

/// Connects to a port of 127.0.0.1.
pub(crate) fn connect(socket: &OwnedFd, port: u16) -> Result<Result<(), Errno>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a mapping of its own, wherever the kernel likes.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<Memory>(),
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    ensure!(
        memory != libc::MAP_FAILED,
        "mmap: {}",
        io::Error::last_os_error()
    );
    let memory: *mut Memory = memory.cast();
    let at = |pointer: usize| u32::try_from(pointer).context("the mapping is above 4 GiB");
    // SAFETY: the mapping is as large as that, aligned to a page, and ours alone.
    let memory = unsafe { &mut *memory };
    memory.address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET)?,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be(),
        },
        sin_zero: [0; 8],
    };
    memory.arguments = [
        u32::try_from(socket.as_raw_fd())?,
        at((&raw const memory.address).addr())?,
        u32::try_from(size_of::<libc::sockaddr_in>())?,
    ];
    let arguments = u64::from(at((&raw const memory.arguments).addr())?);
    let result: u64;
    // SAFETY: the call reads the mapping and changes nothing of this process; rbx,
    // which the compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "xchg rbx, {call}",
            "int 0x80",
            "xchg rbx, {call}",
            call = inout(reg) CONNECT => _,
            inlateout("rax") SOCKETCALL => result,
            in("rcx") arguments,
            in("rdx") 0_u64,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    // An `int` in the low half.
    let [a, b, c, d, ..] = result.to_ne_bytes();
    Ok(match i32::from_ne_bytes([a, b, c, d]) {
        0.. => Ok(()),
        error => Err(Errno::from_raw_os_error(-error)),
    })
}
