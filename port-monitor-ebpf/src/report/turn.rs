//! The turn of whoever reads an iterator: it empties the ring before that is full.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_seq_write;
use port_monitor_common::site::Site;

use crate::account::{self, Look, failed};

/// Looks at one thing by `at`. Where there is an event of it, a byte goes into the
/// iterator's file, `seq`, so that its reader gets its turn.
#[inline(always)]
pub(crate) fn look(seq: impl FnOnce() -> *mut c_void, at: impl FnOnce() -> Look) {
    let mut is_told = false;
    account::look(|| {
        let told = at();
        is_told = told.is_ok();
        told
    });
    if !is_told {
        return;
    }
    let byte = 0_u8;
    // SAFETY: the kernel's own file, and one byte of ours.
    let error = unsafe { bpf_seq_write(seq().cast(), (&raw const byte).cast_mut().cast(), 1) };
    if error != 0 {
        failed(Site::Progress, error as i32);
    }
}
