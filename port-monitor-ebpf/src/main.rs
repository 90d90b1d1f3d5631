//! The eBPF programs of port-monitor.
//!
//! `hooks/` has one file per place in the kernel; each hook reads the socket
//! (`sock`), finds the owner (`task`), asks the policy (`verdict`) and the filters
//! (`filter`), and writes the record (`emit`). Which hooks are loaded is the loader's choice: see
//! `port-monitor/src/kernel/ladder.rs`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod emit;
mod enforce;
mod executable;
mod filter;
mod globals;
mod hooks;
mod maps;
mod mem;
mod sent;
mod sock;
mod task;
mod turn;
mod verdict;

/// The kernel's tracing helpers are for GPL-compatible programs; this crate is
/// MIT OR GPL-2.0, which the kernel calls "Dual MIT/GPL".
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
