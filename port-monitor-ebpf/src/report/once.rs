//! An accept that two programs see is told by the one that has come first.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{account, maps::REPORTED};

/// Notes that `accept` reports what the running thread has accepted.
#[inline(always)]
pub(crate) fn mark() {
    if let Some((word, bit)) = mine() {
        // One may be left of a graft that the kernel did not show.
        // SAFETY: a map value; no other thread changes this bit of it.
        if unsafe { word.read_volatile() } & bit == 0 {
            account::add(word, bit);
        }
    }
}

/// Takes the note back; false when there is none.
#[inline(always)]
pub(crate) fn take_mark() -> bool {
    let Some((word, bit)) = mine() else {
        return false;
    };
    // SAFETY: as above.
    let is_marked = unsafe { word.read_volatile() } & bit != 0;
    if is_marked {
        account::add(word, bit.wrapping_neg());
    }
    is_marked
}

/// The running thread's bit, and the word it is in.
#[inline(always)]
fn mine() -> Option<(*mut u64, u64)> {
    let thread = bpf_get_current_pid_tgid() as u32;
    let word = REPORTED.get_ptr_mut(thread / u64::BITS)?;
    Some((word, 1 << (thread % u64::BITS)))
}
