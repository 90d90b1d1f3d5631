//! Two ways to read kernel memory, so that one socket reader serves every hook.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Reads a kernel object's field.
pub(crate) trait Mem {
    /// The `T` at `base + offset`; `None` when the address cannot be read.
    ///
    /// # Safety
    /// `base` must be a pointer the verifier accepts for this way of reading.
    unsafe fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T>;
}

/// Ordinary loads through a BTF-typed pointer: fentry and fexit arguments. The
/// kernel turns them into fault-proof ones.
pub(crate) struct Direct;

impl Mem for Direct {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T> {
        let field = base.wrapping_add(offset).cast::<T>();
        // SAFETY: the verifier checks the access against the kernel's BTF.
        Some(unsafe { field.read_volatile() })
    }
}

/// `bpf_probe_read_kernel`: any address, in any program type.
pub(crate) struct Probe;

impl Mem for Probe {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: usize) -> Option<T> {
        let field = base.wrapping_add(offset).cast::<T>();
        // SAFETY: the helper fails on a bad address instead of faulting.
        unsafe { bpf_probe_read_kernel(field) }.ok()
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
