//! Read-only globals the loader fills before it loads the object. The verifier
//! treats them as constants and drops the branches they rule out.

use core::ptr::read_volatile;

use port_monitor_common::config::{Config, Offsets};

/// The loader asks for this symbol by name: an object of another layout has
/// none. See `port_monitor_common::event::ABI_SYMBOL`.
#[unsafe(no_mangle)]
static PM_ABI_6: u32 = port_monitor_common::ABI_VERSION as u32;

const _: () = assert!(port_monitor_common::ABI_VERSION == 6, "rename PM_ABI_6");

#[unsafe(no_mangle)]
static OFFSETS: Offsets = zeroed_offsets();

#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    salt: 0,
    self_tgid: 0,
    kinds: 0,
    filters: 0,
    trace: 0,
    judge: 0,
    inject: 0,
    sees_calls: 0,
    executables: 0,
};

const fn zeroed_offsets() -> Offsets {
    // SAFETY: `Offsets` is plain integers: all zeroes is a value of it.
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
