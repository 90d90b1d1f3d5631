//! Two ways to read kernel memory, so that one socket reader serves every hook.

use core::{arch::asm, hint::black_box, mem::MaybeUninit};

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use zerocopy::FromZeros;

use crate::{account, globals};

/// Reads a kernel object's field.
pub(crate) trait Mem {
    /// The verifier knows what type an object is of.
    const IS_TYPED: bool;

    /// The `T` at `base + offset`; `None` when the address cannot be read. Safe:
    /// the kernel loads no program with a pointer that could not be read this way.
    fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T>;

    /// The `T` at `base + offset`; zero when it cannot be read, which the record then tells.
    /// For the verifier there is only one way.
    fn read_or_zero<T: Copy + FromZeros>(base: *const u8, offset: usize) -> T;

    /// A number that is this object's, and no other's that is there at the same time.
    fn number(base: *const u8) -> u64;

    /// A socket as one of TCP, all of which can be read; null where it is not one.
    fn tcp(sk: *const u8) -> *const u8;
}

/// Ordinary loads through a BTF-typed pointer: fentry and fexit arguments. The
/// kernel turns them into fault-proof ones.
pub(crate) struct Direct;

impl Mem for Direct {
    const IS_TYPED: bool = true;

    #[inline(always)]
    fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T> {
        let field = base.wrapping_add(offset).cast::<T>();
        // SAFETY: the verifier checks the access against the kernel's BTF.
        Some(unsafe { field.read_volatile() })
    }

    #[inline(always)]
    fn read_or_zero<T: Copy + FromZeros>(base: *const u8, offset: usize) -> T {
        Self::read(base, offset).unwrap_or_else(T::new_zeroed)
    }

    /// How far it is from an object of ours: the difference of two pointers is all that
    /// the verifier lets become a number.
    #[inline(always)]
    fn number(base: *const u8) -> u64 {
        let mut number = base as u64;
        let ours = (&raw const *globals::settings()) as u64;
        // SAFETY: registers only.
        unsafe { asm!("{number} -= {ours}", number = inout(reg) number, ours = in(reg) ours) };
        number
    }

    #[inline(always)]
    fn tcp(sk: *const u8) -> *const u8 {
        // SAFETY: the verifier checks that it is a socket.
        unsafe { generated::bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }
            .cast::<u8>()
            .cast_const()
    }
}

/// `bpf_probe_read_kernel`: any address, in any program type.
pub(crate) struct Probe;

impl Mem for Probe {
    const IS_TYPED: bool = false;

    #[inline(always)]
    fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T> {
        let field = base.wrapping_add(offset).cast::<T>();
        // SAFETY: the helper fails on a bad address instead of faulting.
        unsafe { bpf_probe_read_kernel(field) }.ok()
    }

    #[inline(always)]
    fn read_or_zero<T: Copy + FromZeros>(base: *const u8, offset: usize) -> T {
        let mut value = T::new_zeroed();
        let from = base.wrapping_add(offset).cast();
        // SAFETY: a value of its size. The helper fills it with zeroes when it fails.
        let error = unsafe {
            generated::bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from)
        };
        account::told_by_record(error);
        value
    }

    #[inline(always)]
    fn number(base: *const u8) -> u64 {
        address(base)
    }

    #[inline(always)]
    fn tcp(sk: *const u8) -> *const u8 {
        sk
    }
}

/// A pointer as a number. The verifier allows no arithmetic on a BTF-typed
/// pointer but an offset; read back from memory, it is a plain number.
#[inline(always)]
pub(crate) fn address(pointer: *const u8) -> u64 {
    let slot = pointer as u64;
    // SAFETY: the helper fails on a bad address instead of faulting.
    unsafe { bpf_probe_read_kernel(&raw const slot) }.unwrap_or(0)
}

/// Makes the value in `slot` all zeroes, by words: the compiler would do it with a
/// loop over bytes, each of which the verifier would walk through.
#[inline(always)]
pub(crate) fn zeroed<T: FromZeros>(slot: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let words = slot.as_mut_ptr().cast::<u64>();
    for n in 0..size_of::<T>() / 8 {
        // SAFETY: within the slot.
        unsafe { words.add(n).write_volatile(0) };
    }
    // SAFETY: zeroes are a value of it.
    unsafe { slot.assume_init_mut() }
}

/// Copies by words, for the same reason.
#[inline(always)]
pub(crate) fn copy<T: Copy>(from: &T, to: &mut T) {
    // SAFETY: what holds a value may be filled with another.
    fill(from, unsafe { &mut *(&raw mut *to).cast() });
}

/// Copies into memory that holds nothing yet, likewise.
#[inline(always)]
pub(crate) fn fill<T: Copy>(from: &T, to: &mut MaybeUninit<T>) {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let from = (&raw const *from).cast::<u64>();
    let to = to.as_mut_ptr().cast::<u64>();
    for n in 0..size_of::<T>() / 8 {
        // SAFETY: within the source.
        let word = unsafe { from.add(n).read_volatile() };
        // SAFETY: within the target.
        unsafe { to.add(n).write_volatile(word) };
    }
}

/// The value, of which the verifier then knows nothing: it walks through what follows
/// once, not once for every constant that may have led here. `unknown` is a number it
/// knows nothing of either.
#[inline(always)]
pub(crate) fn forget(value: u64, unknown: u64) -> u64 {
    value ^ black_box(unknown) ^ unknown
}

/// The number, which the compiler computes here and not later.
#[inline(always)]
pub(crate) fn held(mut number: u64) -> u64 {
    // SAFETY: it does nothing.
    unsafe { asm!("/* {number} */", number = inout(reg) number) };
    number
}

/// A field of a program's context, read by itself: the kernel rewrites every access.
macro_rules! context {
    ($context:expr, $($field:tt)+) => {{
        // SAFETY: the context is valid for as long as the program runs.
        let field = unsafe { &raw const (*$context).$($field)+ };
        // SAFETY: as above.
        unsafe { field.read_volatile() }
    }};
}
pub(crate) use context;
