//! Read-only globals the loader fills before it loads the object. The verifier
//! treats them as constants and drops the branches they rule out.

use core::ptr::read_volatile;

use port_monitor_common::{abi_version, config::Config, offsets::Offsets};
use zerocopy::FromZeros;

/// The symbol that the loader asks for: `port_monitor_common::event::ABI_SYMBOL`.
#[unsafe(export_name = concat!("PM_ABI_", abi_version!()))]
static PM_ABI: u32 = port_monitor_common::ABI_VERSION as u32;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = zeroed();

#[unsafe(no_mangle)]
static CONFIG: Config = zeroed();

const fn zeroed<T: FromZeros>() -> T {
    // SAFETY: all zeroes is a value of what is `FromZeros`.
    unsafe { core::mem::zeroed() }
}

/// One kernel field's byte offset: `offset!(skc_daddr)`.
macro_rules! offset {
    ($field:ident) => {
        $crate::globals::load(&raw const (*$crate::globals::offsets()).$field) as usize
    };
}
pub(crate) use offset;

/// One setting of this run: `config!(filters)`.
macro_rules! config {
    ($field:ident) => {
        $crate::globals::load(&raw const (*$crate::globals::settings()).$field)
    };
}
pub(crate) use config;

#[inline(always)]
pub(crate) fn offsets() -> &'static Offsets {
    &OFFSETS
}

#[inline(always)]
pub(crate) fn settings() -> &'static Config {
    &CONFIG
}

/// Reads a global as the loader left it: an ordinary read may be folded to the
/// initializer at compile time.
#[inline(always)]
pub(crate) fn load<T: Copy>(field: *const T) -> T {
    // SAFETY: only called by the macros above, with a field of a live static.
    unsafe { read_volatile(field) }
}
