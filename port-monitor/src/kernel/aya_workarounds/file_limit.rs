//! A loader that does not read the kernel's BTF.
//!
//! Works around: `EbpfLoader::new` reads and parses all of the kernel's BTF, a third of what
//! a start takes, before it can be told not to. It is for relocations, which this object
//! does not have.
//!
//! Since: this program loads with aya; `EbpfLoader::new` in `src/bpf.rs` of aya.
//!
//! Until: a loader can be made without the BTF, or reads it when something asks for it.
//!
//! Looked at: aya 0.14.0

use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::EbpfLoader;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static OPENING: Mutex<()> = Mutex::new(());

/// Held by a thread while it opens files beside the one that loads the programs.
pub(in crate::kernel) fn opening() -> MutexGuard<'static, ()> {
    OPENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// aya's loader, kept from reading the kernel's BTF: it takes a file that cannot be opened
/// for BTF that is not there.
///
/// The limit is the whole process's: no other thread may open files meanwhile. Of those
/// there are by then, one writes to an output that is open, and the self-test's asks
/// with [`opening`].
pub(in crate::kernel) fn new_loader() -> EbpfLoader<'static> {
    let _opening = opening();
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    let is_limited = setrlimit(Resource::Nofile, none).is_ok();
    let loader = EbpfLoader::new();
    if is_limited && let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("set the limit of open files back: {error}");
    }
    loader
}
