//! `iter/bpf_map_elem`: what the connections that are remembered have carried so far. They
//! are those that the filters let pass, in all network namespaces, whatever else the host
//! has open.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, offset_of},
};

use aya_ebpf::EbpfContext;
use port_monitor_common::{
    counters::Hook,
    event::{CloseEvent, EventKind},
    site::Site,
};

use crate::{
    account::{Look, Stop, ours, readable},
    read::{mem::Probe, sent, sock, task},
    report::{closing, connection, emit, turn},
};

/// `struct bpf_iter__bpf_map_elem` (`kernel/bpf/map_iter.c`).
#[repr(C)]
pub(crate) struct Element {
    pub(crate) meta: *const *mut c_void,
    map: *const u8,
    /// Null: there are no more.
    pub(crate) key: *const u64,
    /// Null likewise.
    pub(crate) value: *mut u8,
}

const _: () = assert!(offset_of!(Element, key) == 16);

/// How often a connection is read until nothing changes meanwhile.
const TRIES: u32 = 4;

struct Context(*const Element);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0.cast_mut().cast()
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
extern "C" fn pm_progress_it(ctx: *const Element) -> i32 {
    // SAFETY: the kernel passes its iterator context.
    let key = unsafe { (*ctx).key };
    if key.is_null() {
        // There are no more.
        return 0;
    }
    // SAFETY: a key of the table of connections.
    let sk = unsafe { key.read_volatile() } as *const u8;
    // SAFETY: the kernel passes its iterator context.
    let seq = || unsafe { *(*ctx).meta };
    turn::look(seq, || tell(&Context(ctx), sk));
    0
}

#[inline(always)]
fn tell(ctx: &Context, sk: *const u8) -> Look {
    let mut slot = MaybeUninit::uninit();
    let record: &mut CloseEvent = emit::record(&mut slot, EventKind::Progress);
    ours(connection::progress(sk, record))?;
    readable(sock::read::<Probe>(sk, &mut record.event), Site::Socket)?;
    record.event.local_port = readable(sock::lasting_local_port::<Probe>(sk), Site::Socket)?;
    let state = readable(sock::state::<Probe>(sk), Site::Socket)?;
    let opener = closing::opener(record);
    // An acknowledgement may come in between. Rather nothing is told than what does not fit.
    let mut is_settled = false;
    for _ in 0..TRIES {
        let before = sent::acknowledged(sk);
        readable(
            sock::read_stats::<Probe>(sk, state, opener, &mut record.stats),
            Site::Socket,
        )?;
        is_settled = sent::acknowledged(sk) == before;
        if is_settled {
            break;
        }
    }
    if !is_settled {
        return Err(Stop::NotOurs);
    }
    // It may have ended meanwhile, and its socket be that of another connection.
    if task::is_monitor(record.event.owner.tgid) || !connection::is_still(sk, record.event.id) {
        return Err(Stop::NotOurs);
    }
    emit::emit_progress(ctx, Hook::Snapshot, record)
}
