//! The eBPF programs of port-monitor.
//!
//! `monitor/` has one file per place in the kernel that is watched, `enforce/` one per place
//! that may refuse a connection. A program of either reads the socket and finds the owner
//! (`read`), asks the policy (`judge`) and the filters, and has the record written
//! (`report`). Which programs are loaded is the loader's choice: see
//! `port-monitor/src/kernel/backends/`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
pub mod enforce;
mod globals;
pub mod judge;
mod maps;
mod monitor;
pub mod read;
pub mod report;

/// The kernel's tracing helpers are for GPL-compatible programs; this crate is
/// MIT OR GPL-2.0, which the kernel calls "Dual MIT/GPL".
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
